# Flotilla: build, demo, tests. `make help` lists the targets.
#
# One Cargo profile (release) and one build folder serve all targets, and fresh clones share the
# folder, so that RocksDB is compiled once a machine. Programs are built for the whole workspace
# at a time: building single packages would resolve features differently and compile twice.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
export CARGO_TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CACHE)/flotilla/target)
BIN := $(CARGO_TARGET_DIR)/release
CARGO_FLAGS := --release --locked

# make sim SEEDS=1..200
SEEDS ?= 1..200
## SCENARIO: for sim: SCENARIO=ring, one course of events instead of a mix
SCENARIO ?=
## LEDGER: for sim: LEDGER=docs/simulation-ledger.md, the page that the run is written into
LEDGER ?=
## MUTANTS: for mutants: MUTANTS="lease snapshot", only bugs whose names contain one of these
MUTANTS ?=
# Fresh seeds in `make test`, for so many seconds.
SIM_SECONDS ?= 60
## BENCH_FLAGS: for bench, bench-full, bench-peers: BENCH_FLAGS="--seconds 5 --repeats 1"
BENCH_FLAGS ?=
## BENCH_OUT: where they leave rows, page and plots
BENCH_OUT ?= bench-results

## INSIDE_FLAGS: for inside: INSIDE_FLAGS="--storage memory"
INSIDE_FLAGS ?=
## IDLE_FLAGS: for idle: IDLE_FLAGS="--groups 1000 --awake"
IDLE_FLAGS ?=
## MOVE_FLAGS: for move: MOVE_FLAGS="--mib 256 --rate 2000"
MOVE_FLAGS ?=
## RESTART_FLAGS: for restart: RESTART_FLAGS="--groups 10000 --log-engine rocksdb"
RESTART_FLAGS ?=
## ACTIVE_FLAGS: for active: ACTIVE_FLAGS="--groups 10000 --passes 3"
ACTIVE_FLAGS ?=
## POWERCUTS_FLAGS: for powercuts: POWERCUTS_FLAGS="--cuts 20 --seed 1 --at-once all --log-engine rocksdb"
POWERCUTS_FLAGS ?=
## PROFILE_FLAGS: for profile: PROFILE_FLAGS="--rows unary-puts-512,one-get"
PROFILE_FLAGS ?=
## BUDGET_FLAGS: for budget: BUDGET_FLAGS="--rows unary-puts-512 --seconds 20"
BUDGET_FLAGS ?=

.PHONY: bench bench-full bench-peers bench-report idle move restart active powercuts inside microbench counts counts-update profile budget
.PHONY: deps announce build demo examples test fmt seams clippy doc unit sweep sim mutants clean help

deps: ## install what a build needs and is missing (without root: say how)
	@scripts/deps

announce:
	@compgen -G '$(BIN)/build/librocksdb-sys-*/out/librocksdb.a' >/dev/null || echo \
	  'the first build compiles RocksDB and takes 10 to 20 minutes on 2 cores (kept in $(CARGO_TARGET_DIR))'

build: deps announce ## build all programs
	cargo build $(CARGO_FLAGS) --workspace --bins --examples
	@scripts/built-from '$(BIN)'

demo: build ## a cluster of processes on real metadata, with a kill -9 (at most 3 minutes)
	@$(BIN)/demo

examples: build ## a replicated counter and a commit log of three processes each, with kill -9
	cargo test $(CARGO_FLAGS) --workspace --test examples -- --nocapture --test-threads 1

test: deps fmt seams build clippy doc unit sweep ## everything that must hold before a push
	@echo 'make test: all passed'

fmt: ## check the formatting
	cargo fmt --all --check

seams: ## each library behind a seam of raftstore is used in one folder
	@scripts/seams

clippy: ## lint everything, warnings are errors
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

doc: ## build the docs, warnings are errors
	RUSTDOCFLAGS=-Dwarnings cargo doc $(CARGO_FLAGS) --workspace --no-deps

# The end-to-end tests start the programs that `build` made.
unit: build ## unit, doc and end-to-end tests
	cargo test $(CARGO_FLAGS) --workspace

sweep: build ## simulate fresh seeds for SIM_SECONDS
	$(BIN)/sim --seconds $(SIM_SECONDS)

sim: build ## simulate SEEDS=FIRST..LAST; SCENARIO=list prints courses that have a name
	$(BIN)/sim --seeds $(SEEDS) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(LEDGER),--ledger $(LEDGER))

powercuts: build ## 100 real power cuts of stores on file systems of their own; needs root (10 minutes)
	$(BIN)/powercuts $(POWERCUTS_FLAGS)

mutants: deps announce ## plant known mistakes one by one; the simulation must find each
	cargo build $(CARGO_FLAGS) --workspace \
	  --features flotilla-tests/mutants --bin mutants
	$(BIN)/mutants $(MUTANTS)

bench: build ## the published rows and latencies, side by side with ours (at most 6 minutes)
	$(BIN)/throughput table --out $(BENCH_OUT)/short $(BENCH_FLAGS)

bench-full: build ## every row three times, median, page and plots (28 minutes)
	$(BIN)/throughput table --suite full --repeats 3 --seconds 6 --warmup 2 --out $(BENCH_OUT)/full $(BENCH_FLAGS)

bench-peers: deps announce ## the same load on etcd, installed with root on Debian or Ubuntu (15 minutes)
	@scripts/deps-peers
	cargo build $(CARGO_FLAGS) --workspace --bins --features flotilla-benches/peers
	@scripts/built-from '$(BIN)'
	$(BIN)/throughput peers --repeats 3 --out $(BENCH_OUT)/peers $(BENCH_FLAGS)

bench-report: build ## docs/throughput.md, its plots and the README's table from what bench-full and bench-peers left
	@[ -e $(BENCH_OUT)/full/full.jsonl ] || { \
	  echo 'no $(BENCH_OUT)/full/full.jsonl: run make bench-full first' >&2; exit 1; }
	@[ -e $(BENCH_OUT)/peers/peers.jsonl ] || \
	  echo 'no $(BENCH_OUT)/peers/peers.jsonl: the page is without etcd, and the README says what an older one did (make bench-peers)' >&2
	$(BIN)/throughput report --out docs --json $(wildcard $(BENCH_OUT)/full/full.jsonl $(BENCH_OUT)/peers/peers.jsonl)
	$(BIN)/throughput report --readme README.md --json $(BENCH_OUT)/full/full.jsonl

idle: build ## what idle groups cost: start, CPU, memory (3 minutes)
	$(BIN)/idle $(IDLE_FLAGS)

move: build ## a region of 1 GiB moves to a new store: latencies of the other regions (5 minutes)
	$(BIN)/moved $(MOVE_FLAGS)

restart: build ## stores with 1,000 groups end and start again: until all groups answer (3 minutes)
	$(BIN)/restart $(RESTART_FLAGS)

active: build ## 24 busy groups alone and among 1,000 idle ones, side by side (7 minutes)
	$(BIN)/active $(ACTIVE_FLAGS)

inside: build ## the engine alone: requests made inside three store processes (2 minutes)
	$(BIN)/inside $(INSIDE_FLAGS)

microbench: deps announce ## micro-benchmarks by time (at most 5 minutes)
	cargo bench --locked --workspace --bench '*' -- --noplot

counts: build ## instructions an operation, compared with docs/instructions.md (1 minute)
	@scripts/tool valgrind valgrind
	$(BIN)/counts check

counts-update: build ## write docs/instructions.md anew
	@scripts/tool valgrind valgrind
	$(BIN)/counts update

profile: build ## flame graphs of a store and of the load, in profiles/ (1 minute a row)
	@scripts/tool perf linux-perf linux-tools-$$(uname -r) linux-tools-generic
	$(BIN)/profile $(PROFILE_FLAGS)

budget: build ## what one put costs, stage by stage, as Markdown (1 minute a row)
	@scripts/tool perf linux-perf linux-tools-$$(uname -r) linux-tools-generic
	$(BIN)/budget $(BUDGET_FLAGS)

clean: ## remove the build folder, RocksDB's build too
	rm -rf '$(CARGO_TARGET_DIR)'

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; sed -n 's/^## \([A-Z_]*\): \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 19
