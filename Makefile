# Every target makes its own environment in .venv; nothing has to be installed by hand.
WINDOWS := $(filter Windows_NT,$(OS))
PYTHON ?= $(if $(WINDOWS),python,python3)
VENV := .venv
BIN := $(VENV)/$(if $(WINDOWS),Scripts,bin)
STAMP := $(VENV)/.installed

.PHONY: help install demo test slow soak fuzz atheris faults crash rivals gpu datapath learning lint structure coverage bench bench-full scale docs tutorial planning wheel clean

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

soak: install atheris  ## many more random inputs, runs killed at many instants, ten minutes of fuzzing for each reader (hours)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n auto -m soak
	$(BIN)/python -m fuzz --seconds 600 --jobs 2

fuzz: install atheris  ## coverage-guided fuzzing, two minutes for each reader of files; writes docs/fuzzing.md
	$(BIN)/python -m fuzz --seconds 120 --jobs 2

atheris: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'

lint: install  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

structure: install  ## sizes, import circles and repeated names of the source; writes docs/structure.md
	$(BIN)/python -m studies.structure

coverage: install  ## lines and branches; kernels without the compiler, the only honest count for them
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto -m kernel --cov -q --cov-report=
	$(BIN)/python -m pytest -n auto --cov --cov-append --cov-report=term -q

bench: install  ## writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-full: install  ## the same with the plain whole-volume rival run to its end (many minutes)
	$(BIN)/python -m benchmarks --full

scale: install  ## 2,000 small cases in four ways: same bytes, rates, memory; writes docs/scale.md
	$(BIN)/python -m studies.scale

rivals: install  ## manifests read by nnU-Net, MONAI, mlcroissant, Datasets; gigabytes; writes docs/rivals.md
	$(BIN)/python rivals/check_manifests.py

faults: install  ## disks, rights, memory, kills, damage, a second writer: made for real; writes docs/failures.md
	$(BIN)/python -m studies.faults

crash: install  ## every job stopped at every file operation (an hour or two); the other half of docs/failures.md
	$(BIN)/python -m tests.crash --page

gpu: install  ## the tests that need a GPU, and what one does; writes docs/gpu.md, 'not run' without one
	$(BIN)/python -m studies.gpu

datapath: install  ## what a training step waits for, and what a sample costs; writes docs/datapath.md
	$(BIN)/python -m benchmarks.datapath

learning: install  ## models of five seeds with and without prompts, and encodings (half an hour); docs/learning.md
	$(BIN)/python -m studies.learning --ablation

tutorial: install  ## trains a small model on phantoms; writes docs/training-tutorial.md (minutes)
	$(BIN)/python docs/generate_training.py

planning: install  ## what a download costs in space and hours; writes docs/planning.md
	$(BIN)/python -m studies.planning

docs: install  ## the pages that scripts write, then the site, strictly
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_guidance.py
	$(BIN)/zensical build --strict

wheel: install  ## sdist and wheel in dist, tried in fresh environments on the oldest and newest dependencies
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	$(BIN)/python -m tests.wheel

clean:  ## everything that make made
	rm -rf $(VENV) demo dist site .rivals .cache .coverage .hypothesis .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache
