# Every target makes its own environment in .venv; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test slow soak rivals gpu lint coverage bench bench-full docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## the environment, from constraints.txt; nothing happens when nothing changed

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clicksim needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,torch]'
	@touch $@

demo: install  ## phantoms in, clicks and a page out
	$(BIN)/clicksim demo --out demo

test: install  ## the suite compiled, then the kernels with bounds checks and without the compiler
	$(BIN)/python -m pytest -n auto
	rm -rf .pytest_cache/numba_bounds
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=.pytest_cache/numba_bounds $(BIN)/python -m pytest -n auto -m kernel -q
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto -m kernel -q

slow: install  ## the tests that take minutes: the published clicks by the slow twin, the whole cohort by name
	$(BIN)/python -m pytest -n auto -m slow

soak: install  ## many more random inputs, and runs killed at many instants (half an hour)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n auto -m soak

lint: install  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: install  ## lines and branches; kernels without the compiler, the only honest count for them
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto -m kernel --cov -q --cov-report=
	$(BIN)/python -m pytest -n auto --cov --cov-append --cov-report=term -q

bench: install  ## writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-full: install  ## the same with the plain whole-volume rival run to its end (many minutes)
	$(BIN)/python -m benchmarks --full

rivals: install  ## manifests read by nnU-Net, MONAI, mlcroissant, Datasets; gigabytes; writes docs/rivals.md
	$(BIN)/python rivals/check_manifests.py

gpu: install  ## the tests that need a GPU, and what one does; writes docs/gpu.md, 'not run' without one
	$(BIN)/python -m benchmarks.gpu

docs: install  ## the pages that scripts write, then the site, strictly
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict

clean:  ## everything that make made
	rm -rf $(VENV) demo site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
