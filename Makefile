# make run: sets up everything, runs the pipeline, prints the table and the decision.
# make test: sets up everything, checks the code and runs the tests.
# VENV=/some/path uses (or makes) an environment elsewhere, for temporary clones and CI: one is 7 GB.

VENV ?= .venv
PYTHON ?= python3

BIN := $(abspath $(VENV))/bin
LOCK := requirements.lock
STAMP := $(VENV)/.installed-$(firstword $(shell sha256sum $(LOCK)))

# This clone's code goes before whatever clone the environment was made from.
export PATH := $(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/src

.PHONY: run test test-ai-hub lint lock

run: $(STAMP)
	bitladder heal --lock
	bitladder check
	dvc repro
	bitladder report
	bitladder track
	bitladder timings
	bitladder show

test: $(STAMP) lint test-ai-hub
	pytest --numprocesses 2 --no-loadscope-reorder --durations 25 $(PYTEST_ARGS)

# AI Hub's client wants an older protobuf than the lock has: it goes before the rest in an environment of its own
AI_HUB := $(VENV)-ai-hub

test-ai-hub: $(STAMP)
	test -d $(AI_HUB) || $(PYTHON) -m venv $(AI_HUB)
	$(BIN)/uv pip install --quiet --python $(AI_HUB)/bin/python 'qai-hub==0.56.*'
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(AI_HUB)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_locked.pth"
	$(AI_HUB)/bin/python -m pytest tests/targets/test_aihub.py

lint: $(STAMP)
	ruff check
	ruff format --check
	mypy
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# What else may run it, and why: requires-python in pyproject.toml
OTHER_PYTHON := $(LOCK) is for Python 3.11: make PYTHON=python3.11 ... Python 3.12 and 3.13, which CI does not test, \
install from the ranges in pyproject.toml, into an environment of their own: pip install --editable .

# uv installs these 7 GB in a seventh of pip's time. Bytecode is made here: where Python may not write any
# (PYTHONDONTWRITEBYTECODE, as images for CI have it) every stage would compile AIMET anew.
$(STAMP): $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "$(OTHER_PYTHON)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	rm -f $(VENV)/.installed-*
	touch $@

# The exact versions of everything, from the ranges in pyproject.toml
lock: $(STAMP)
	uv pip compile --quiet --extra dev --no-header --no-emit-index-url --no-annotate --output-file $(LOCK) pyproject.toml
