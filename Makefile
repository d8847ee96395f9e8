# Two commands matter: `make demo` and `make test`. Both do their own set-up in .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
# Files of tests at a time; more than one a core only where memory is plenty (1 GB each).
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test coverage lint fuzz install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fedtags needs Python 3.11 or newer; say which one: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) (torch first, so that nothing pulls another build) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH_INDEX) torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# DATA=PATH runs the same job on three public shops; without it the simulated market is used.
# KEEP=1 leaves everything up afterwards, and prints where its pages are, until Ctrl-C.
demo: $(STAMP)
	@$(BIN)/fedtags-sim demo $(if $(DATA),--data "$(DATA)") $(if $(KEEP),--keep)

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: lint
	@$(PYTEST)

# The same tests with the lines and branches that they reach; a third slower.
coverage: lint
	@$(BIN)/coverage erase
	@$(PYTEST) --cov --cov-report=term:skip-covered

# Coverage-guided fuzzing of everything that parses, on demand: minutes. Its package and what it finds
# are in .fuzz/, so that .venv stays what is pinned.
fuzz: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target .fuzz/packages --requirement requirements-fuzz.txt
	@PYTHONPATH=.fuzz/packages $(BIN)/python -m tests.fuzz

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz dist build
