# Everything a newcomer or a contributor does, from a fresh machine with Python 3.11+ and a
# package index. `make demo` and `make test` set up what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 8050
SCALE_STORE ?= build/scale
JOBS ?= 2

.PHONY: setup demo test lint bench screenshots clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard precompute/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[precompute,test]'
	touch $@

demo: setup
	$(BIN)/headatlas demo --store demo-atlas --port $(PORT)

test: setup
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.ablation
# pandas only compares: in a folder of its own, so that what is served is as users have it
	test -d build/pandas || $(BIN)/python -m pip install --quiet --target build/pandas pandas
	$(BIN)/python -m benchmarks.serving --store $(SCALE_STORE) --make --pandas build/pandas

screenshots: setup
	$(BIN)/python docs/screenshots.py demo-atlas

clean:
	rm -rf $(VENV) build dist *.egg-info demo-atlas .pytest_cache .mypy_cache .ruff_cache
