#!/usr/bin/env bash
# Runs the tests: scripts/test.sh [go test flags] -- PACKAGE...
#
# Packages whose tests do not link SQLite run under the race detector: those
# are the ones with the concurrency of the data plane, and they build quickly.
# SQLite is C translated to Go; under the race detector it takes minutes to
# build and a multiple of the time to run, so what links it runs without.
# The end-to-end tests are clients of another process, where the detector would
# only slow the load. `make race` runs everything with it, that process too.
set -euo pipefail
cd "$(dirname "$0")/.."

flags=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
  flags+=("$1")
  shift
done
[ "$#" -gt 0 ] && shift
[ "$#" -gt 0 ] || set -- ./...

# One line for each package with tests: r or p, and its path. A test binary is
# listed as PATH.test with all it links.
listed=$(go list -test -f '{{if .ForTest}}{{else}}{{.ImportPath}} {{join .Deps " "}}{{end}}' "$@")
raced=() plain=()
while read -r path deps; do
  case "$path" in *.test) ;; *) continue ;; esac
  path=${path%.test}
  case "$path $deps " in
    */internal/e2e\ * | *" modernc.org/sqlite "*) plain+=("$path") ;;
    *) raced+=("$path") ;;
  esac
done <<<"$listed"

# Both parts run even when the first fails, so that one run tells everything.
failed=0
if [ "${#raced[@]}" -gt 0 ]; then
  printf 'test: %d packages with the race detector\n' "${#raced[@]}"
  go test -race "${flags[@]}" "${raced[@]}" || failed=1
fi
if [ "${#plain[@]}" -gt 0 ]; then
  printf 'test: %d packages without it\n' "${#plain[@]}"
  go test "${flags[@]}" "${plain[@]}" || failed=1
fi
exit "$failed"
