# make lab   opens the course          make test       runs every check
#            (ARGS=--no-browser and other options go to JupyterLab)
# make setup makes .venv alone         make notebooks  runs the notebooks and stores their outputs
# make release writes the students' assignments into release/
# make grade SUBMISSIONS=folder  marks and feedback for what they hand in, into graded/
# make parity installs OpenMMLab's and lucidrains' Mixers and compares ours with them by value
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PYTHON ?= $(shell command -v python3 || command -v python)
export PYTHONUTF8 := 1

.PHONY: lab test release grade parity browser test-lowest setup notebooks train lint clean
.DEFAULT_GOAL := lab

setup: .venv/ready

# uv makes the environment in seconds; where it is not installed, venv and pip do the same.
.venv/ready: pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		{ test -d .venv || uv venv --python '>=3.11' .venv; } && uv pip install --python .venv -e '.[dev]'; \
	else \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Mixer Lite needs Python 3.11 or newer; this is " + sys.version.split()[0])' && \
		{ test -d .venv || $(PYTHON) -m venv .venv; } && $(BIN)/python -m pip install -e '.[dev]'; \
	fi
	@touch $@

lab: setup
	$(BIN)/mixer-lite lab $(ARGS)

test: setup browser
	$(BIN)/python -m pytest

# Their real code, which the other tests do without: it is large, and no longer changes.
parity: setup
	@if command -v uv >/dev/null 2>&1; then uv pip install --python .venv -e '.[parity]'; \
	else $(BIN)/python -m pip install -e '.[parity]'; fi
	$(BIN)/python -m pytest tests/parity

# The browser tests need Chromium, Chrome or Edge: found, or else installed.
browser: setup
	@$(BIN)/python tools/browser.py

# The same tests with the oldest releases that pyproject.toml allows (needs uv).
test-lowest:
	uv venv --python 3.11 --clear .venv-lowest
	uv pip install --python .venv-lowest --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest

notebooks: setup
	$(BIN)/python tools/notebooks.py

release: setup
	$(BIN)/python tools/grade.py release $(ARGS)

# ARGS: --cell 60 --total 600 --memory 3000 are the limits; --again grades all anew.
SUBMISSIONS ?= submissions
grade: setup
	$(BIN)/python tools/grade.py grade "$(SUBMISSIONS)" $(ARGS)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Trains the shipped weights from the start, or goes on where it was interrupted.
train: setup
	$(BIN)/mixer-lite train mixer_nano_cifar10 --out runs/mixer_nano_cifar10

clean:
	rm -rf .venv .venv-lowest
