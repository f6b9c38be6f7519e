# Every target creates its own environment in .venv. You need not install anything yourself.
WINDOWS := $(filter Windows_NT,$(OS))
PYTHON ?= $(if $(WINDOWS),python,python3)
VENV := .venv
BIN := $(VENV)/$(if $(WINDOWS),Scripts,bin)
STAMP := $(VENV)/.installed

.PHONY: help install demo test slow soak fuzz atheris faults crash rivals gpu datapath learning lint structure coverage bench bench-full scale docs tutorial planning wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create the environment from constraints.txt, if it is missing or old

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clicksim needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,torch]'
	@touch $@

demo: install  ## write phantoms, clicks and a page to demo/
	$(BIN)/clicksim demo --out demo

test: install  ## run the suite, then the kernel tests with bounds checks and without the compiler
	$(BIN)/python -m pytest -n auto
	rm -rf .pytest_cache/numba_bounds
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=.pytest_cache/numba_bounds $(BIN)/python -m pytest -n auto -m kernel -q
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto -m kernel -q

slow: install  ## run the tests that take minutes: published clicks by the slow twin, the whole cohort by name
	$(BIN)/python -m pytest -n auto -m slow

soak: install atheris  ## run many more random inputs, kills at many instants, and ten minutes of fuzzing per reader (hours)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n auto -m soak
	$(BIN)/python -m fuzz --seconds 600 --jobs 2

fuzz: install atheris  ## fuzz each file reader for two minutes, guided by coverage; writes docs/fuzzing.md
	$(BIN)/python -m fuzz --seconds 120 --jobs 2

atheris: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'

lint: install  ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

structure: install  ## count sizes, import circles and repeated names of the source; writes docs/structure.md
	$(BIN)/python -m studies.structure

coverage: install  ## measure line and branch coverage, with kernels not compiled: the compiler hides their lines
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto -m kernel --cov -q --cov-report=
	$(BIN)/python -m pytest -n auto --cov --cov-append --cov-report=term -q

bench: install  ## measure speed and memory; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-full: install  ## the same, and run the whole-volume rival to its end (many minutes)
	$(BIN)/python -m benchmarks --full

scale: install  ## process 2,000 small cases in four ways, and compare bytes, rates and memory; writes docs/scale.md
	$(BIN)/python -m studies.scale

rivals: install  ## let nnU-Net, MONAI, mlcroissant and Datasets read the exports (gigabytes); writes docs/rivals.md
	$(BIN)/python rivals/check_manifests.py

faults: install  ## cause real faults of disks, permissions, memory and files; writes docs/failures.md
	$(BIN)/python -m studies.faults

crash: install  ## stop every job at every file operation (an hour or two); writes the other part of docs/failures.md
	$(BIN)/python -m tests.crash --page

gpu: install  ## run and measure what needs a GPU; writes docs/gpu.md, 'not run' without one
	$(BIN)/python -m studies.gpu

datapath: install  ## measure how long a training step waits, and the cost of a sample; writes docs/datapath.md
	$(BIN)/python -m benchmarks.datapath

learning: install  ## train models of five seeds with and without prompts, and encodings (half an hour); writes docs/learning.md
	$(BIN)/python -m studies.learning --ablation

tutorial: install  ## train a small model on phantoms (minutes); writes docs/training-tutorial.md
	$(BIN)/python docs/generate_training.py

planning: install  ## estimate the space and hours of each collection (minutes); writes docs/planning.md
	$(BIN)/python -m studies.planning

docs: install  ## write the generated pages, then build the site; warnings are errors
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_guidance.py
	$(BIN)/zensical build --strict

wheel: install  ## build sdist and wheel in dist/, and test them with the oldest and newest dependencies
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	$(BIN)/python -m tests.wheel

clean:  ## remove everything that make created
	rm -rf $(VENV) demo dist site .rivals .cache .coverage .hypothesis .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache
