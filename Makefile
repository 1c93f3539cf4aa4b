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

# Neighbours run in one process, so that what they share is made once; whoever is done first takes from the other's end.
FAST := -n 2 --dist worksteal
# The tests of one file share a laptop cloud. The longest files come first, so that the last ones are short.
E2E := $(wildcard $(patsubst %,tests/e2e/test_%.py,rollouts kubernetes_programs lifecycle faults engine examples))
E2E += $(filter-out $(E2E),$(sort $(wildcard tests/e2e/test_*.py)))
# SHARD=2/3 is every third file, from the second on.
SHARD ?= 1/1
OF_SHARD = $(shell echo $(E2E) | tr ' ' '\n' | awk -v shard=$(SHARD) '{ split(shard, part, "/") } NR % part[2] == part[1] % part[2]')

# Of the nodes that the images run on.
PLATFORM ?= linux/amd64

.PHONY: help setup up down check test e2e soak coverage mutants lint format bench docs wheel images clean

help: ## List the targets
	@echo "modelworks: every machine-learning environment, reproduced from code."
	@echo
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

up: $(SYNCED) ## Start the laptop cloud, declare the local environment, train, release and serve a model
	@$(BIN)/modelworks quickstart

down: $(SYNCED) ## Stop everything and wipe the laptop cloud; models are kept
	@$(BIN)/modelworks laptop down

check: $(SYNCED) lint ## Pass style, layers, types and the fast tests: what to run while working
	@$(BIN)/pytest -m "not e2e and not soak" $(FAST)

test: check e2e ## Pass every test: `check`, then `e2e`

e2e: $(SYNCED) ## Pass the tests that run the engine, AWS and Kubernetes (SHARD=1/2: half of them)
	@$(BIN)/modelworks laptop toolchain --build
	@$(BIN)/pytest -m "e2e and not soak" -n 2 --dist loadfile --no-loadscope-reorder $(OF_SHARD)

soak: $(SYNCED) ## Search for faults at random, for as long as it takes (SOAK_EXAMPLES=500)
	@$(BIN)/modelworks laptop toolchain --build
	@$(BIN)/pytest -m soak --timeout 0

coverage: $(SYNCED) ## Show what the fast tests reach; less than the floor in pyproject.toml fails
	@$(BIN)/pytest -m "not e2e and not soak" $(FAST) --cov --cov-report=term:skip-covered

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

wheel: .uv/bin/uv ## Build sdist and wheel into dist/, and check the wheel where nothing else is installed
	@rm -rf dist
	@.uv/bin/uv build --quiet --out-dir dist
	@.uv/bin/uv run --quiet --isolated --no-project --python .uv/bin/python --with dist/*.whl python -I packaging/check_wheel.py

images: $(SYNCED) ## Build and push the images, and pin their digests in the stack files (REGISTRY=HOST/PREFIX, STACKS="dev prod")
	@$(BIN)/python packaging/images.py $(if $(STACKS),--stacks $(STACKS)) --platform "$(PLATFORM)" --extras "$(EXTRAS)" -- "$(REGISTRY)"

setup: $(SYNCED) ## Install what the checkout needs, into the checkout

clean: ## Remove what setup installed
	@rm -rf .venv .uv

.uv/bin/uv: Makefile
	@echo "==> uv $(UV_VERSION), into .uv/ (some 10 s)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "modelworks needs Python 3.11 to 3.13, found " + sys.version.split()[0] + ": name another one with make PYTHON=python3.12")'
	@$(PYTHON) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@touch $@

$(SYNCED): pyproject.toml uv.lock .uv/bin/uv
	@echo "==> Python packages of uv.lock, into .venv/ (some 60 s when none is cached)"
	@.uv/bin/uv sync --quiet --frozen --python .uv/bin/python --all-extras --compile-bytecode
	@touch $@
