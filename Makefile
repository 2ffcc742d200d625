# The environment, the notebooks, the site and the tests. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PROFILE ?= mini
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# glibc keeps the memory of large tensors, in place of asking for every page anew
MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
UV := $(shell command -v uv 2>/dev/null)
PYTHON ?= python3

.PHONY: help env book test test-fast lock clean

help:  ## this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PROFILE=smoke|mini|photos|paper chooses the size (now $(PROFILE))"

env: $(STAMP)  ## the environment in .venv, as locked

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
ifeq ($(UV),)
	@echo "environment: installing the locked packages into $(VENV) with pip (a few minutes the first time)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
else
	@echo "environment: installing the locked packages into $(VENV) with uv"
	@test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV)
	@uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.lock
	@uv pip install --quiet --python $(BIN)/python --no-deps -e .
endif
	@touch $@

book: env  ## run the notebooks that are not current and build the site
	@$(BIN)/xai-repro run --profile $(PROFILE)
	@$(BIN)/xai-repro book --profile $(PROFILE)

test: env  ## all tests, the re-run of executed notebooks among them
	@$(MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: env  ## the tests that take seconds
	@$(MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lock:  ## choose the newest allowed versions again (needs uv)
	@uv pip compile --quiet --all-extras --universal --python-version 3.11 --generate-hashes pyproject.toml -o requirements.lock

clean:  ## remove results and site, keep the environment and fetched files
	@rm -rf results build
