#!/usr/bin/env bash
# Runs the tests: scripts/test.sh [go test flags] -- PACKAGE...
#
# Everything runs under the race detector but the end-to-end tests, which are
# clients of another process, where the detector would only slow the load. `make
# race` runs that process with it, too.
set -euo pipefail
cd "$(dirname "$0")/.."

flags=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
  flags+=("$1")
  shift
done
[ "$#" -gt 0 ] && shift
[ "$#" -gt 0 ] || set -- ./...

raced=() plain=()
for path in $(go list "$@"); do
  case "$path" in
    */internal/e2e) plain+=("$path") ;;
    *) raced+=("$path") ;;
  esac
done

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
