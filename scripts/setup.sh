#!/usr/bin/env bash
# Installs what building and testing Tollgate needs on Debian or Ubuntu, where
# Go and git are given. Nothing is done, and nothing is asked of the network,
# for what is there already; so it may run before every test.
#
#   scripts/setup.sh           everything the tests need
#   scripts/setup.sh --check   say what is missing, install nothing; exit 1 if anything is
set -euo pipefail
cd "$(dirname "$0")/.."

clients=internal/e2e/testdata/clients
node_oldest=18        # oldest Node.js the client packages run on
chdb=26.7.3-stable.1  # internal/testkit/clickhouse.Version: the ClickHouse engine, as a library
node_local=20.20.2    # installed beside them where the system has only an older one

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

check=false
case "${1-}" in
  '') ;;
  --check) check=true ;;
  *) die "unknown argument $1; known: --check" ;;
esac

# --- Go ------------------------------------------------------------------
have go || die "Go is missing: install the version go.mod names, or newer (https://go.dev/dl)"
have git || die "git is missing: install it"

# --- packages of the system ------------------------------------------------
# Each line of need says: if this is not there, install that.
packages=()
need() { # need CONDITION PACKAGE...
  local condition=$1
  shift
  if ! eval "$condition" >/dev/null 2>&1; then packages+=("$@"); fi
}
postgres_there() { have postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }
compiler_there() { have gcc && printf '#include <stdlib.h>\n' | gcc -E - ; }
certificates_there() { [ -s /etc/ssl/certs/ca-certificates.crt ]; }

need 'have make' make
need compiler_there gcc libc6-dev # the race detector links with C
need 'have curl' curl
need certificates_there ca-certificates
need 'have redis-server' redis-server
need postgres_there postgresql
need 'have promtool' prometheus
need 'have nginx' nginx-light # what bench compare measures beside Tollgate
need 'have haproxy' haproxy
need 'have node' nodejs
need 'have npm' npm

if [ "${#packages[@]}" -gt 0 ]; then
  say "missing from the system: ${packages[*]}"
  if ! $check; then
    have apt-get || die "there is no apt-get here: install ${packages[*]} (or what they are called on this system) by hand"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
      have sudo || die "neither root nor sudo: run as root, or have an administrator run: apt-get install -y --no-install-recommends ${packages[*]}"
      as_root=(sudo)
    fi
    # The tests start servers of their own; the packages' services stay down.
    # This is Debian's own way to say so, and it is taken back at the end.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
      "${as_root[@]}" chmod 755 "$policy"
      trap '"${as_root[@]}" rm -f "$policy"' EXIT
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null
  fi
fi

# --- Node.js and the client packages -----------------------------------------
# node_modules belongs to the lock file whose copy lies in it.
packages_there() { cmp -s "$clients/package-lock.json" "$clients/node_modules/.lock"; }
node_major() { node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/'; }
node_new_enough() { local major; major=$(node_major); [ "${major:-0}" -ge "$node_oldest" ]; }
node_local_there() { compgen -G "$clients/.node/node_modules/node-linux-*/bin/node" >/dev/null; }

# The engine is half a gigabyte: it is kept outside the checkout, for all of them.
chdb_dir="${TOLLGATE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tollgate-test}/chdb-$chdb"
chdb_there() { [ -f "$chdb_dir/.complete" ] && [ -s "$chdb_dir/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so" ]; }

if $check; then
  chdb_there || say "missing: the ClickHouse engine in $chdb_dir"
  packages_there || say "missing: the npm packages in $clients"
  if [ "${#packages[@]}" -eq 0 ] && packages_there && chdb_there; then exit 0; fi
  exit 1
fi
if ! node_new_enough && ! node_local_there; then
  case "$(uname -m)" in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) die "Node.js $(node --version) is too old (the client packages need $node_oldest) and there is no packaged one for $(uname -m): install a newer one" ;;
  esac
  say "the system's Node.js is $(node --version), older than $node_oldest: taking $node_local from npm for the tests"
  mkdir -p "$clients/.node"
  npm install --prefix "$clients/.node" --no-save --no-audit --no-fund --loglevel=error "node-linux-$arch@$node_local"
fi
if ! packages_there; then
  say "installing the client packages"
  (cd "$clients" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  cp "$clients/package-lock.json" "$clients/node_modules/.lock"
fi
if ! chdb_there; then
  [ "$(uname -m)" = x86_64 ] || die "the ClickHouse engine of the tests is packaged for x86_64 only"
  say "installing the ClickHouse engine (chDB $chdb, 560 MB) into $chdb_dir"
  mkdir -p "$chdb_dir"
  npm install --prefix "$chdb_dir" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error "@chdb/lib-linux-x64-gnu@$chdb"
  touch "$chdb_dir/.complete"
fi
