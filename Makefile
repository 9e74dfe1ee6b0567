# `make demo` and `make test` each do everything on a fresh machine that has Python 3.11 or later.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# The first of these that runs (a shim of a version manager may exist and fail) and is new enough.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)

# An index that has other builds of torch and torchvision, for example without CUDA. Off unless given.
TORCH_INDEX ?=

# Without TESTBED_DATA a newcomer runs all that needs no real data; continuous integration always runs everything.
WITHOUT_DATA := $(if $(TESTBED_DATA),,$(if $(filter true,$(CI)),,yes))
SELECT_DATA = $(if $(WITHOUT_DATA), and not real_data)

# Without Chromium a newcomer runs all that opens no page; continuous integration always runs everything.
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
WITHOUT_BROWSER := $(if $(BROWSER),,$(if $(filter true,$(CI)),,yes))
SELECT_BROWSER = $(if $(WITHOUT_BROWSER), and not browser)

# Without a Slurm cluster of their own (scripts/slurm_node.sh) a newcomer submits no jobs; continuous integration does.
WITHOUT_SLURM := $(if $(TESTBED_SLURM),,$(if $(filter true,$(CI)),,yes))
SELECT_SLURM = $(if $(WITHOUT_SLURM), and not slurm)

# What `make lock` does about versions already in constraints.txt.
UPGRADE ?= --upgrade

# One more than there are cores: a fifth of the time of the quick tests is spent waiting for processes and time limits.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

# Further arguments to pytest, for example PYTEST="tests/test_contract.py -x".
PYTEST ?=

.PHONY: help
help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: demo
demo: $(INSTALLED)  ## attack, detect and defend on digits and a toy chat model, in a minute or two
	$(BIN)/python scripts/demo.py

.PHONY: test
test: $(INSTALLED)  ## run the quick tests (TESTBED_DATA=DIR adds those on real data)
	@$(if $(WITHOUT_DATA),echo "TESTBED_DATA is not set: the tests marked real_data are deselected",:)
	@$(if $(WITHOUT_BROWSER),echo "there is no Chromium on the path: the tests marked browser are deselected",:)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
		-m "not slow and not anchor$(SELECT_DATA)$(SELECT_BROWSER)" $(PYTEST)

.PHONY: slow
slow: $(INSTALLED)  ## run the slow tests
	@$(if $(WITHOUT_DATA),echo "TESTBED_DATA is not set: the tests marked real_data are deselected",:)
	@$(if $(WITHOUT_SLURM),echo "TESTBED_SLURM is not set: the tests marked slurm are deselected",:)
	$(BIN)/python -m pytest -m "slow$(SELECT_DATA)$(SELECT_SLURM)" $(PYTEST)

.PHONY: lint
lint: $(INSTALLED)  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: hooks
hooks: $(INSTALLED)  ## run the same checks at every commit
	$(BIN)/pre-commit install

.PHONY: lock
lock: | $(BIN)/python $(UV)  ## resolve constraints.txt again (UPGRADE= keeps the versions that it has)
	"$(UV)" pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-header --no-annotate --quiet \
		$(UPGRADE) --output-file constraints.txt
	printf '%s\n' '# Exact versions for Python 3.11 and later, resolved from pyproject.toml by `make lock`.' \
		| cat - constraints.txt > constraints.txt.new
	mv constraints.txt.new constraints.txt

.PHONY: clean
clean:  ## remove .venv, built files and caches; outputs stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find testbed tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# A failed attempt leaves nothing behind: a half-made environment would look like a finished one.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; say where it is with PYTHON=" >&2; exit 1; }
	$(if $(filter $(BIN)/uv,$(UV)),"$(PYTHON)" -m venv --clear,"$(UV)" venv --clear --python "$(PYTHON)") $(VENV) \
		|| { rm -rf $(VENV); exit 1; }

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv

# Compiled here once, or else by every process that is the first to import PyTorch.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python $(UV)
	$(if $(TORCH_INDEX),"$(UV)" pip install --python $(BIN)/python --no-deps --index-url "$(TORCH_INDEX)" \
		--constraints constraints.txt torch torchvision)
	"$(UV)" pip install --python $(BIN)/python --compile-bytecode --constraints constraints.txt --editable '.[dev]'
	@touch $@
