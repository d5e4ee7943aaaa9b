#!/usr/bin/env bash
# Runs every fuzz target for a while: scripts/fuzz.sh TIME PACKAGE...
# go test fuzzes one target of one package at a time, hence the loop.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:?usage: scripts/fuzz.sh TIME PACKAGE...}
shift
found=0
for package in $(go list "${@:-./...}"); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    found=$((found + 1))
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
  done
done
[ "$found" -gt 0 ] || { echo 'fuzz: no target found' >&2; exit 1; }
printf 'fuzz: %d targets\n' "$found"
