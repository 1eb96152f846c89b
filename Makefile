# make repro: the whole pipeline on params.yaml · make test: all tests · make ablation: the four rows of the paper
# Each sets up what it needs in .venv; all that must be there before is Python >= 3.11, git and make.
PYTHON ?= python3
VENV ?= .venv
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: repro test lint format ablation install deps clean-venv

repro: $(VENV)/.installed
	dvc repro

test: $(VENV)/.installed-test
	python -m pytest

lint: $(VENV)/.installed-test
	ruff check .
	ruff format --check .

format: $(VENV)/.installed-test
	ruff check --fix .
	ruff format .

ablation: $(VENV)/.installed
	lesionpipe ablation

install: $(VENV)/.installed

deps: $(VENV)/.installed
	python tests/imports.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	python -m pip install --quiet --editable '.[test]'
	touch $@

clean-venv:
	rm -rf $(VENV)
