# make repro: the whole pipeline on params.yaml · make test: all tests · make ablation: the four rows of the paper
# Each sets up what it needs in .venv; all that must be there before is Python >= 3.11, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: repro test lint format ablation install schema clean-venv

repro: $(VENV)/.installed
	$(BIN)/dvc repro

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ablation: $(VENV)/.installed
	$(BIN)/lesionpipe ablation

install: $(VENV)/.installed

# the JSON schema of params.yaml, after a change of lesionpipe/params/ or of a comment in presets/phantom.yaml
schema: $(VENV)/.installed
	$(BIN)/python -m lesionpipe.params.json_schema

# a half-made environment (an interruption, no python3-venv on Debian) must not pass for a whole one
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

clean-venv:
	rm -rf $(VENV)
