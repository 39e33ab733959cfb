# From a fresh clone with Python >= 3.11, pip and make: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tpu,robust,ray,dev]'
	touch $@ .venv/core

demo: .venv/core
	mkdir -p out
	$(BIN)/mallocgame warm-up --solvers greedy,anneal
	$(BIN)/mallocgame demo --out out

test: .venv/dev
	$(BIN)/python -m pytest -n 2 tests mallocgame

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info out
