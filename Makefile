PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test models clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "qwen3lab needs Python 3.11 or later: run make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

test: $(VENV)/.installed  ## set up what it needs and run all tests
	$(BIN)/python -m pytest

models: $(VENV)/.installed  ## rebuild the bundled models
	$(BIN)/python -m qwen3lab.tiny dense moe draft

clean:
	rm -rf build .pytest_cache
