# Everything is run through here; `make help` lists it.
#
# Programs are built as the calling user. What makes network namespaces and runs Docker engines needs
# root: it is run through sudo where the caller is not.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
NAME    ?= demo
SECONDS ?= 30
TARGETS ?=
BIRTHS  ?= 1000
SEED    ?=
SEEDS   ?= 1000
FROM    ?= 0
SHORT   ?=
SUITE   ?= trixie
STEPS   ?= 24
ONLY    ?=
WITHOUT ?=
DEB_VERSION ?=
ADVISORIES ?=
CARGO_DENY ?= 0.20.2

SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env PATH="$$PATH")
TARGET  := $(or $(CARGO_TARGET_DIR),target)
DEBUG   := $(TARGET)/debug
RELEASE := $(TARGET)/release
HOST    := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
# Lets tests that need root have it, without building as root.
RUNNER  := $(if $(SUDO),CARGO_TARGET_$(HOST)_RUNNER='$(SUDO)')

.PHONY: help build release demo demo-down lab lab-down test test-unit test-lab test-vm churn lint fmt fuzz sim sim-mutants bench deb image deny deb-lint deb-reproduce install uninstall

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## all programs, for development
	$(CARGO) build --locked --workspace

release: ## all programs, optimised
	$(CARGO) build --locked --workspace --release

demo: build ## three hosts on this machine, seven instances, proved reachable; stays up
	$(SUDO) $(DEBUG)/dwell-lab demo

demo-down: ## remove every trace of the demo
	@if [ -x $(DEBUG)/dwell-lab ]; then $(SUDO) $(DEBUG)/dwell-lab down; else echo "no demo was made here"; fi

lab: build ## hosts with Docker engines to play with (NAME=…), nothing of dwell started
	$(SUDO) $(DEBUG)/dwell-lab setup
	$(SUDO) $(DEBUG)/dwell-lab up --name $(NAME)

lab-down: ## remove every trace of that lab
	$(SUDO) $(DEBUG)/dwell-lab down --name $(NAME)

test: build test-unit test-lab ## unit, property and simulation tests, then the lab suite on real Docker

test-unit: build
	$(SUDO) $(DEBUG)/dwell-lab setup --tests
	$(RUNNER) $(CARGO) test --locked --workspace --exclude dwell-tests

test-lab: build
	$(SUDO) $(DEBUG)/dwell-lab setup --tests
	$(RUNNER) $(CARGO) test --locked -p dwell-tests -- --test-threads=1

test-vm: deb ## the packages on virtual machines (docs/testing.md); SHORT=1 for the first checks only, SUITE=… for another Debian
	$(CARGO) build --locked -p dwell-tests
	$(SUDO) $(DEBUG)/dwell-lab setup --vm
	$(SUDO) $(DEBUG)/dwell-vm --packages $(TARGET)/packages --suite $(SUITE) $(if $(SHORT),--short)

churn: build ## BIRTHS births and deaths on real Docker while everything fails; SEED=… repeats one
	$(SUDO) $(DEBUG)/dwell-lab churn --births $(BIRTHS) $(if $(SEED),--seed $(SEED))

lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## format everything
	$(CARGO) fmt --all

fuzz: ## bytes that break a parser are looked for, SECONDS for each one; needs a C++ compiler
	CARGO='$(CARGO)' fuzz/run.sh $(SECONDS) $(TARGETS)

sim: ## the whole, simulated: SEEDS fleets from seed FROM on, STEPS faults each (docs/simulation.md)
	$(CARGO) run --locked --release -p dwell-sim -- --seeds $(SEEDS) --from $(FROM) --steps $(STEPS) $(if $(ONLY),--only $(ONLY)) $(if $(WITHOUT),--without $(WITHOUT))

sim-mutants: ## takes out one mechanism after the other (NAME=… one of tests/sim/mutants); a seed has to fail each time
	tests/sim/mutants.sh $(if $(filter-out demo,$(NAME)),$(NAME))

bench: release ## dwell and the alternatives side by side; tables, and target/bench/*.json
	$(SUDO) $(RELEASE)/dwell-lab setup --tests
	$(SUDO) $(RELEASE)/dwell-bench $(BENCH)

deb: ## Debian packages in target/packages, with their checksums; DEB_VERSION=… is theirs
	packaging/build.sh $(TARGET)/packages $(DEB_VERSION)

image: release ## the container image of the controller in target/packages, for `docker load`
	packaging/image.sh $(RELEASE) $(TARGET)/packages

deny: ## licences, bans and sources of all crates; advisories too with ADVISORIES=1, whose list is fetched
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --version $(CARGO_DENY) cargo-deny
	$(CARGO) deny --locked --all-features check licenses bans sources $(if $(ADVISORIES),advisories)

deb-lint: deb ## what lintian says of them
	lintian --fail-on error,warning $(TARGET)/packages/*.deb

deb-reproduce: ## builds the packages of HEAD twice, at different places, and compares every byte
	TOOLS='$(abspath $(TARGET)/packages/tools)' packaging/reproduce.sh

install: release ## programs, units, configuration and the Docker runtime entry
	$(SUDO) systemd/install.sh install $(RELEASE) '$(DESTDIR)' '$(PREFIX)'

uninstall: ## take them away again
	$(SUDO) systemd/install.sh uninstall $(RELEASE) '$(DESTDIR)' '$(PREFIX)'
