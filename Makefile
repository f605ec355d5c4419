# The verbs of the house. `make` alone lists them. A machine needs Python 3.11 or newer with venv and pip, GNU make, and nothing else.
#
#   PYTHON=python3.12 make test    another interpreter (remove .venv first)

PYTHON ?= python3
SOAK_S ?= 3600
BIN    := .venv/bin
PYTEST := $(BIN)/python -m pytest
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-services test-faults docs bench bench-peers soak lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- everyday ---------------------------------------------------------------------------------------------------------
setup: .venv/.dev ## make .venv with Penstock, all extras and the tools, in the versions of requirements/dev.lock

demo: .venv/.demo ## real flights of 2013 from CSV files to scored flights, with a picture at the end
	$(BIN)/python examples/flights/get_data.py
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/flights/demo.sh

check: .venv/.dev ## formatting, lint, types, architecture: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) tests/architecture

test: .venv/.dev ## the fast tests, embedded parts only
	$(PYTEST) --ignore=tests/architecture --ignore=tests/docs

# -- slower -----------------------------------------------------------------------------------------------------------
test-services: .venv/.services ## tests against real servers, which they start themselves (PostgreSQL, MLflow; Spark, which needs Java 17 or 21)
	$(PYTEST) -m service

test-faults: .venv/.dev ## kills processes at every named point and looks what is left
	$(PYTEST) -m fault

docs: .venv/.dev ## run every code block of the docs, then build the site into site/
	$(PYTEST) tests/docs
	$(BIN)/zensical build --clean --strict

bench: .venv/.dev ## measure; one JSON line per figure
	$(BIN)/python -m bench

bench-peers: .venv/.dev ## the same work by Spark, Feast, MLflow and Redis; about 2 GB of packages, needs Java 17 or 21 and redis-server
	$(BIN)/python -m bench.peers

soak: .venv/.dev ## all random cases, then the fault tests again and again, in new orders, for SOAK_S seconds (3600) or until one fails
	$(PYTEST) -m soak
	@end=$$(($$(date +%s) + $(SOAK_S))); rounds=0; \
	while [ $$(date +%s) -lt $$end ]; do $(PYTEST) -m fault || exit 1; rounds=$$((rounds + 1)); done; \
	echo "$$rounds rounds, no failure"

# -- rarely -----------------------------------------------------------------------------------------------------------
lock: ## write requirements/*.lock anew from pyproject.toml (needs uv)
	$(LOCK) --extra all --group dev pyproject.toml --output-file requirements/dev.lock
	$(LOCK) --extra learn --group build pyproject.toml --constraints requirements/dev.lock --output-file requirements/demo.lock
	$(LOCK) --group services --constraints requirements/dev.lock --output-file requirements/services.lock
	for peer in spark flights_seeds feast; do uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
	  --custom-compile-command "make lock" bench/peers/$$peer.in --output-file bench/peers/$$peer.txt; done

LOCK := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

clean: ## remove what the verbs above made, except .venv
	rm -rf site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- .venv, made once and renewed when a lock changes -----------------------------------------------------------------
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Penstock needs Python 3.11 or newer, and '$(PYTHON)' is not. Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "'$(PYTHON)' lacks venv or ensurepip. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: requirements/demo.lock pyproject.toml .venv/.made
	$(PIP) --require-hashes -r requirements/demo.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements/dev.lock .venv/.demo
	$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@

.venv/.services: requirements/services.lock .venv/.dev
	$(PIP) --require-hashes -r requirements/services.lock
	@touch $@
