# `make demo` and `make test` do all their own set-up: a virtual environment in .venv, then the job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CUDA drivers 12 or 13 pick the DALI build; a machine without a GPU runs the same graphs on the CPU with either.
CUDA ?= 13
# Numba caches compiled kernels beside the sources or, where those are read-only, in the user's cache folder.

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow soak rehearsal wheel papers check types lint format clean

help:  ## List the targets
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/installed  ## Run the main job on real data, next to ordinary shuffling, for comparison; a report at the end
	$(BIN)/drawstream demo

# A file's tests share what they set up, so one process runs them all. Files are taken in their order and not by their
# number of tests: those of whole processes, few and slow, come early, and no process is left alone with them at the end.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/developed check  ## Run lint, types and all but the slow tests
	$(PYTEST)

test-slow: $(VENV)/developed  ## Run all tests, the slow ones too
	$(PYTEST) -m "slow or not slow"

# Thousands of damaged files of every kind that is read; how each ended is counted and printed. Then the laws, with
# examples that no run tried before.
soak: $(VENV)/developed  ## Damage files, kill jobs, try new examples of the laws: each end is counted
	SOAK=300 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/soak -s
	HYPOTHESIS_PROFILE=explore $(PYTEST) -m "hypothesis and not slow"

# The whole way at ImageNet's number of rows, each stage measured: ten minutes on two cores, 7 GB. It can be killed
# and started again.
rehearsal: $(VENV)/developed  ## Run the whole way at ImageNet's number of rows, each stage measured: 10 minutes, 7 GB
	$(BIN)/drawstream bench rehearsal -o runs/rehearsal --json runs/rehearsal.json

# Gigabytes are installed anew; -qq leaves out pytest's summary, which is that of the tests alone.
wheel: $(VENV)/developed  ## Build the wheel and run the main job with it in an empty environment
	$(BIN)/python -m pytest -qq -m slow tests/integration/test_packaging.py -k empty_environment \
		-o tmp_path_retention_policy=failed

papers: $(VENV)/developed  ## Write docs/papers.md: the papers' tables, their commands, what was measured
	mkdir -p build && $(BIN)/python -m drawstream.tools.papers.page > build/papers.md
	mv build/papers.md docs/papers.md

check: lint types  ## Run lint and types

lint: $(VENV)/developed  ## Run ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/developed  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy must see the import name `drawstream`, which only an installation gives: a folder of links stands in for it.
types: $(VENV)/developed  ## Run mypy, strict
	mkdir -p build/types/drawstream
	for d in __init__.py samplers pipeline features search tools; do ln -sfn "$(CURDIR)/$$d" build/types/drawstream/$$d; done
	ln -sfn "$(CURDIR)/tools/testing" build/types/drawstream/testing
	MYPYPATH=build/types $(BIN)/mypy -p drawstream

# A user needs less than a developer: the first report does not wait for Ray, Lightning and the like.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cuda$(CUDA)]"
	touch $@

$(VENV)/developed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cuda$(CUDA),dev]"
	touch $@

clean:  ## Remove the environment and all builds
	rm -rf $(VENV) build dist *.egg-info
