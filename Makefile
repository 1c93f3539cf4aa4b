# Every command a checkout needs. Nothing outside of it is changed but caches: uv's, and modelworks' own tools.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
PYTHON ?= python3
BIN := .venv/bin
SYNCED := .venv/.synced
# Unbuffered progress, and compiled bytecode: without it imports take three times as long.
export PYTHONUNBUFFERED := 1
unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_INSTALL_DIR := $(CURDIR)/.uv/python
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv

.PHONY: help setup up down check test soak mutants lint format bench docs clean

help: ## List the targets
	@echo "modelworks: every machine-learning environment, reproduced from code."
	@echo
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

up: $(SYNCED) ## Start the laptop cloud, declare the local environment, train, release and serve a model
	@$(BIN)/modelworks quickstart

down: $(SYNCED) ## Stop everything and wipe it
	@$(BIN)/modelworks laptop down

check: $(SYNCED) lint ## Pass style, layers, types and the fast tests: what to run while working
	@$(BIN)/pytest -m "not e2e and not soak" -n 2

test: check ## Pass every test, also those that run the engine, AWS and Kubernetes
	@$(BIN)/modelworks laptop toolchain --build
	@$(BIN)/pytest -m "e2e and not soak"

soak: $(SYNCED) ## Search for faults at random, for as long as it takes (SOAK_EXAMPLES=500)
	@$(BIN)/modelworks laptop toolchain --build
	@$(BIN)/pytest -m soak --timeout 0

mutants: $(SYNCED) ## Change the pure modules at random and show what no test notices (ONLY="contract alarms")
	@$(BIN)/python tests/mutants.py $(ONLY)

lint: $(SYNCED) ## Check style, layers, words and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python docs/prose.py
	@$(BIN)/mypy

format: $(SYNCED) ## Rewrite the sources in our style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(SYNCED) ## Measure; results are JSON on standard output and never asserted
	@for script in benchmarks/*.py; do echo "== $$script" >&2; $(BIN)/python "$$script"; done

docs: $(SYNCED) ## Regenerate the reference, and build the site into site/
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

setup: $(SYNCED) ## Install what the checkout needs, into the checkout

clean: ## Remove what setup installed
	@rm -rf .venv .uv

.uv/bin/uv: Makefile
	@echo "==> uv $(UV_VERSION), into .uv/ (some 10 s)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modelworks needs Python 3.11 or newer, found " + sys.version.split()[0] + ": name another one with make PYTHON=python3.12")'
	@$(PYTHON) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@touch $@

$(SYNCED): pyproject.toml uv.lock .uv/bin/uv
	@echo "==> Python packages of uv.lock, into .venv/ (some 60 s when none is cached)"
	@.uv/bin/uv sync --quiet --frozen --all-extras --compile-bytecode
	@touch $@
