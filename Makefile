# Tollgate's tasks. `make help` lists them.
#
# What only `go run` brings (linters) is pinned here and fetched through the Go
# module proxy; what the system brings is installed by scripts/setup.sh.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0

# Time limit of one package's tests.
TIMEOUT  ?= 10m
# Further flags of go test: make test FLAGS='-run TestName -v'.
FLAGS    ?=
# Packages to test: make test PKG=./quota/...
PKG      ?= ./...
# How long each fuzz target runs in fuzz-short.
FUZZTIME ?= 10s

.DEFAULT_GOAL := help
.PHONY: help setup build run vet lint fmt test test-only race fuzz-short bench check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | sort | awk -F '\t' '{printf "  %-12s %s\n", $$1, $$2}'

setup: ## install what the tests need (redis-server, postgresql, promtool, node, npm packages)
	@bash scripts/setup.sh

build: ## build the binary into ./tollgate
	go build -o tollgate .

run: ## serve the demo marketplace: gateway on 8080, admin on 8081
	go run . serve --demo

vet: ## go vet
	go vet ./...

fmt: ## format every file with gofumpt
	go run $(GOFUMPT) -l -w .

lint: vet ## go vet, staticcheck, gofumpt
	go run $(STATICCHECK) ./...
	@unformatted=$$(go run $(GOFUMPT) -l .) || exit 1; \
	if [ -n "$$unformatted" ]; then printf 'gofumpt would change (run `make fmt`):\n%s\n' "$$unformatted"; exit 1; fi

test: setup test-only ## install what is missing, then run every test

test-only: ## run every test, with the race detector but for the end-to-end tests
	@bash scripts/test.sh -timeout $(TIMEOUT) $(FLAGS) -- $(PKG)

race: setup ## run every test with the race detector, the real binary under it included (slow)
	TOLLGATE_TEST_RACE=1 go test -race -timeout 60m $(FLAGS) $(PKG)

fuzz-short: ## run every fuzz target for FUZZTIME (10s)
	@bash scripts/fuzz.sh $(FUZZTIME) $(PKG)

bench: ## run the Go benchmarks
	go test -run '^$$' -bench . -benchmem $(FLAGS) $(PKG)

check: lint test ## what CI runs

clean: ## remove what the build and the tests left in the checkout
	rm -rf tollgate internal/e2e/testdata/clients/node_modules internal/e2e/testdata/clients/.node
