# Everything happens in .venv; the two commands of the README are `make course` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# On all CPUs, where pip uses one; some packages ship templates that are no Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib qwen3lab || true

.PHONY: course test dial lab notebooks models checkpoints answers bundle times site zh zh-test platforms gptq vllm clean help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "qwen3lab needs Python 3.11 or later. Run make again with PYTHON=python3.11.")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e .
	$(COMPILE)
	touch $@

# The tests build the site, too.
$(READY)-test: $(READY)
	$(INSTALL) -e '.[test,site]'
	$(COMPILE)
	touch $@

$(READY)-site: $(READY)
	$(INSTALL) -e '.[site]'
	$(COMPILE)
	touch $@

course: $(READY)  ## set up everything and run all notebooks, with their times
	$(BIN)/qwen3lab doctor
	$(BIN)/qwen3lab run --jobs auto

test: $(READY)-test  ## set up what it needs and run all tests, then all notebooks, then these on other models
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest --nbmake notebooks -n auto
	QWEN3LAB_LANG=zh $(BIN)/python -m pytest --nbmake notebooks/zh/06_evaluation.ipynb
	$(BIN)/python -m pytest -m dial -n auto -k 'not medium and not deeper' tests/test_dial.py

dial: $(READY)-test  ## run all notebooks on other models under every profile (`make test` leaves medium and the companions out)
	$(BIN)/python -m pytest -m dial -n auto tests/test_dial.py

lab: $(READY)  ## open JupyterLab; QWEN3LAB_LANG=zh opens the Chinese edition
	$(BIN)/jupyter lab --notebook-dir=notebooks/$(filter zh,$(QWEN3LAB_LANG))

notebooks: $(READY)  ## run all notebooks in place, which renews the committed outputs
	$(BIN)/qwen3lab run --in-place
	$(BIN)/qwen3lab run deeper --in-place
	$(BIN)/python docs/figures.py

MODELS := data/models
WORK := build/tiny
MADE := --work $(WORK) --models $(MODELS)

models: $(READY)  ## rebuild the bundled models (three and a half hours on two cores; goes on where it was stopped); MODELS= and WORK= name other folders
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m scripts.tiny_models dense moe $(MADE)
	$(BIN)/python -m scripts.tiny_models draft embedding $(MADE)
	$(BIN)/python -m scripts.tiny_models vision --threads 2 $(MADE)
	$(BIN)/python -m scripts.tiny_models.report --models $(MODELS)
	$(BIN)/python -m scripts.tiny_models.cards $(MADE)

checkpoints: $(READY)  ## make what the long cells make, for those who join a workshop late
	$(BIN)/python -m qwen3lab.course.checkpoints

answers: $(READY)  ## write the answer sheet for teachers
	$(BIN)/python -m qwen3lab.exercises.answer_sheet

bundle: $(READY)  ## write one archive for a room without a network, install it without an index and run notebook 03 from it
	$(BIN)/qwen3lab bundle --check 03

times: $(READY)  ## measure how long each section takes, and fill the tables of docs/workshop.md (on a quiet machine)
	$(BIN)/qwen3lab run --times data/section_times.json
	$(BIN)/python docs/workshop.py

site: $(READY)-site  ## build the site of the executed notebooks into build/site (needs no network)
	$(BIN)/python docs/build.py

zh: $(READY)-test  ## bring the Chinese edition into step, and list what has to be translated
	$(BIN)/python -m scripts.zh update
	$(BIN)/python -m scripts.zh render
	$(BIN)/python -m scripts.zh check

zh-test: $(READY)-test  ## run all Chinese notebooks (`make test` runs one; their code is the same)
	QWEN3LAB_LANG=zh $(BIN)/python -m pytest --nbmake notebooks/zh -n auto

platforms: $(READY)-test  ## ask the package index whether the course installs from wheels on eight kinds of machine
	$(BIN)/python -m scripts.platforms

GPTQ := .venv-gptq

# Sees the course's environment, and adds what has no wheels: this needs a C compiler.
$(GPTQ)/.ready: $(READY) constraints-gptq.txt
	$(PYTHON) -m venv --without-pip $(GPTQ)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$($(GPTQ)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/course.pth
	$(BIN)/pip --python $(GPTQ)/bin/python install --quiet --disable-pip-version-check --no-deps --ignore-installed -r constraints-gptq.txt
	touch $@

gptq: $(GPTQ)/.ready  ## quantise the company's model with GPTQ and AWQ, in an environment of its own (needs a C compiler)
	PYTHONPATH=. $(GPTQ)/bin/python benchmarks/gptq.py

VLLM := .venv-vllm

$(VLLM)/.ready: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm.txt
	touch $@

vllm: $(READY)-test $(VLLM)/.ready  ## set up vLLM for the CPU (3.5 GB, an environment of its own) and compare its answers with transformers'
	$(BIN)/python -m pytest tests/serving/test_engines.py -k vllm -rs

clean:  ## remove what was built; the environment stays
	rm -rf build .pytest_cache .hypothesis
