# ec2-instance-connect: `make demo` shows a login, `make test` proves everything that one machine can.
.DEFAULT_GOAL := help
.PHONY: help build demo test faults load check bench fuzz fuzz-coverage judge panics miri sanitize valgrind supply-chain install clean

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=
TIME ?= 60
RUNS ?=
TARGETS ?=
PAIRS ?= 2000
LOGINS ?=
WRONG ?=
RATE ?=
REFERENCE ?=

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the release binaries
	$(CARGO) build --locked --release

demo: ## a complete login on this machine: simulator, sshd, ssh, and two refusals
	@packaging/demo/run

test: ## unit tests, black-box tests and real logins (installs what it needs when run as root)
	@tests/requirements
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace --no-fail-fast

faults: ## faults of network, clock, disk, memory and logger around the release helper, the long form
	@tests/requirements
	$(CARGO) build --locked --release
	$(CARGO) build --locked --workspace
	EIC_FAULTS=long EIC_HELPER=$(CURDIR)/target/release/eic_run_authorized_keys $(CARGO) test --locked --test faults

load: ## storms of logins and a flood of wrong keys through a real sshd (LOGINS=50 WRONG=200 for the short form)
	@LOGINS=$(LOGINS) WRONG=$(WRONG) RATE=$(RATE) tests/load/run

check: ## format, lints, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) check --locked --quiet --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --document-private-items

bench: ## instruction counts, memory and logins beside the reference (REFERENCE=dir of its scripts)
	@REFERENCE=$(REFERENCE) LOGINS=$(LOGINS) tests/bench/run

fuzz: ## run every fuzz target for TIME seconds, or RUNS=5000000 executions, each (docs/FUZZING.md)
	@TIME=$(TIME) RUNS=$(RUNS) tests/fuzz/run $(TARGETS)

fuzz-coverage: ## which lines the fuzz corpora reach (llvm-tools)
	@tests/fuzz/coverage

judge: ## the same evidence before OpenSSL and, with REFERENCE=dir, Amazon's scripts (docs/DISAGREEMENTS.md)
	$(if $(REFERENCE),REFERENCE=$(REFERENCE)) EIC_JUDGE_PAIRS=$(PAIRS) $(CARGO) test --locked --test judge -- --nocapture

panics: ## take a program of the deciding rooms apart and look for a call that could panic (docs/PANICS.md)
	@CARGO=$(CARGO) tests/panics/run

miri: ## interpret the unit tests of the pure rooms, looking for undefined behaviour
	@tests/memory miri

sanitize: ## address and leak sanitizers on the library, the refusals and the fuzz corpora
	@tests/memory sanitize

valgrind: ## memcheck on the helper and the administrator's tool
	@tests/memory valgrind

supply-chain: ## licences, bans, sources, known vulnerabilities, bill of materials (cargo-deny)
	@tests/supply-chain

install: build ## install below DESTDIR, without touching sshd's configuration
	install -D -m 0755 target/release/eic_run_authorized_keys $(DESTDIR)$(PREFIX)/libexec/ec2-instance-connect/eic_run_authorized_keys
	install -D -m 0755 target/release/ec2-instance-connect $(DESTDIR)$(PREFIX)/bin/ec2-instance-connect
	install -D -m 0644 packaging/config.toml $(DESTDIR)/etc/ec2-instance-connect/config.toml

clean: ## remove what was built
	$(CARGO) clean

-include packaging/packages.mk
