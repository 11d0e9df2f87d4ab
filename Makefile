# make lab   opens the course          (ARGS=--no-browser and other options go to JupyterLab)
# make check style, types, quick tests: between two edits, under 90 seconds
# make test  every test                make notebooks  runs the notebooks and stores their outputs
# make setup makes .venv alone, with what students need
# make book   builds the web book into book/, from the notebooks as they are stored
# make release writes the students' assignments into release/
# make grade SUBMISSIONS=folder  marks and feedback for what they hand in, into graded/
# make kernel builds the arithmetic of explorers in saved pages, and compares it with what is here
# make parity installs OpenMMLab's and lucidrains' Mixers and compares ours with them by value
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
comma := ,
PYTHON ?= $(shell command -v python3 || command -v python)
export PYTHONUTF8 := 1

.PHONY: lab check test release grade parity book kernel browser test-lowest setup dev notebooks \
	train lint clean
.DEFAULT_GOAL := lab

# uv makes the environment in seconds; where it is not installed, venv and pip do the same.
# $(call install,EXTRAS): the project with these extras, as [dev]. With uv on Linux without an NVIDIA
# card, TORCH=--torch-backend=cpu takes PyTorch's own wheels for the CPU: about 1 GB in place of 6.
ifeq ($(shell command -v uv >/dev/null 2>&1 && echo yes),yes)
install = { test -d .venv || uv venv --python '>=3.11' .venv; } && \
	uv pip install --python .venv $(TORCH) -e '.$(1)'
else
install = { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Mixer Lite needs Python 3.11 or newer; this is " + sys.version.split()[0])' && \
	{ test -d .venv || $(PYTHON) -m venv .venv; } && $(BIN)/python -m pip install -e '.$(1)'; }
endif
setup: .venv/ready

.venv/ready: pyproject.toml
	@$(call install,)
	@touch $@

# What tests, linters and the grader need comes on top.
dev: .venv/dev
.venv/dev: pyproject.toml
	@$(call install,[dev])
	@touch .venv/ready $@

lab: setup
	$(BIN)/mixer-lite lab $(ARGS)

# Tests that measure time run first, by themselves; the others on WORKERS cores.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest
PARALLEL := $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: lint
	$(PARALLEL) -m 'not slow and not alone and not lint'

test: browser
	@failed=0; \
	$(PYTEST) -m alone || failed=1; \
	$(PARALLEL) -m 'not alone' --durations=10 || failed=1; \
	exit $$failed

# Their real code, which the other tests do without: it is large, and no longer changes.
parity: dev
	@$(call install,[dev$(comma)parity])
	$(PYTEST) tests/parity

# explorers/engine/kernel.wasm from kernel.c, and that it computes what the one here before did.
kernel: browser
	@$(call install,[dev$(comma)kernel])
	$(PYTEST) tests/kernel
	$(BIN)/python tools/kernel.py

# The browser tests need Chromium, Chrome or Edge: found, or else installed.
browser: dev
	@$(BIN)/python tools/browser.py

# The same tests with the oldest releases that pyproject.toml allows (needs uv). Style is for the
# newest linters, and the stored pictures are the newest matplotlib's.
test-lowest:
	uv venv --python 3.11 --clear .venv-lowest
	uv pip install --python .venv-lowest --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not lint' --any-pictures

notebooks: dev
	$(BIN)/python tools/notebooks.py

book: dev
	$(BIN)/python tools/book $(ARGS)

release: dev
	$(BIN)/python tools/grading/grade.py release $(ARGS)

# ARGS: --preview only shows who was found; --names says how names stand in paths; --cell 60
# --total 600 --memory 3000 are the limits; --again grades everything again.
SUBMISSIONS ?= submissions
grade: dev
	$(BIN)/python tools/grading/grade.py grade "$(SUBMISSIONS)" $(ARGS)

lint: dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Trains the shipped weights from the start, or goes on where it was interrupted.
train: setup
	$(BIN)/mixer-lite train mixer_nano_cifar10 --out runs/mixer_nano_cifar10

clean:
	rm -rf .venv .venv-lowest
