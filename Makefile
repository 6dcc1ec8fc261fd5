# Everything happens in .venv; the two commands of the README are `make course` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: course test lab notebooks models clean help

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "qwen3lab needs Python 3.11 or later. Run make again with PYTHON=python3.11.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

course: $(READY)  ## set up everything and run all notebooks, with their times
	$(BIN)/qwen3lab doctor
	$(BIN)/python -m qwen3lab.notebooks run --jobs auto

test: $(READY)  ## set up what it needs and run all tests
	$(BIN)/python -m pytest

lab: $(READY)  ## open JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(READY)  ## run all notebooks in place, which renews the committed outputs
	$(BIN)/python -m qwen3lab.notebooks run --in-place
	$(BIN)/python docs/figures.py

models: $(READY)  ## rebuild the bundled models (three hours on two cores; goes on where it was stopped)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m qwen3lab.tiny dense moe
	$(BIN)/python -m qwen3lab.tiny draft embedding
	$(BIN)/python -m qwen3lab.tiny.report
	$(BIN)/python -m qwen3lab.tiny.cards

clean:  ## remove what was built; the environment stays
	rm -rf build .pytest_cache .hypothesis
