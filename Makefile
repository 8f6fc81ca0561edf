# What a person types. `make` alone lists it. Needs python3.11 (or newer), make and a C compiler.
#
# The environment is made once and again only when its two inputs change. On a machine without an
# accelerator, `make setup PIP_ARGS="--extra-index-url URL"` with the URL of PyTorch's CPU wheels saves
# some gigabytes.

PYTHON   ?= python3.11
PIP_ARGS ?=
VENV     := .venv
BIN      := $(VENV)/bin
STAMP    := $(VENV)/.installed
PYTEST   := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-all lint full-size clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q $(PIP_ARGS) \
		-c constraints.txt -e '.[dev,openvino,serve,data,cluster,datasets]'
	touch $@

setup: $(STAMP) ## make .venv with everything in it
	@$(BIN)/ssd1b --help >/dev/null && echo "Ready: $(BIN)/ssd1b --help"

demo: $(STAMP) ## carve, distil for a few minutes, compare: ends with a report
	$(BIN)/ssd1b demo

serve: $(STAMP) ## a page in the browser, with the miniatures: http://127.0.0.1:7860
	$(BIN)/ssd1b serve

test: $(STAMP) ## the quick tests
	$(PYTEST) -m "not slow"

test-all: $(STAMP) ## every test
	$(PYTEST)

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src/ssd1b

full-size: $(STAMP) ## a random SDXL on disk, carved and distilled (30 GB of disk, 20 GB of memory)
	$(BIN)/python scripts/full_size.py

clean: ## remove the environment and the caches; runs/ and models/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
