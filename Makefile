# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# They use the active virtual environment; where none is active they make .venv.

PYTHON ?= python3
VENV := $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
SEED ?= 0
LOWEST_PYTHON ?= python3.11
STAMP := $(VENV)/.jax-vlffd

.PHONY: demo test test-fast test-long test-lowest dev lint types docs clean

demo: $(STAMP)-run
	$(BIN)/python -m launch.demo --out=runs/demo

# Three at once keep two cores busy: many tests wait for commands that they start.
test: $(STAMP)-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Without the tests that take more than about two seconds of a core.
test-fast: $(STAMP)-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow and not campaign"

# All of what the tests have samples of, for hours; writes benchmarks/results/campaigns.json.
test-long: $(STAMP)-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile -m campaign --hypothesis-seed=$(SEED)

# With the lowest versions that pyproject.toml declares, in an environment of its own, made anew by uv.
test-lowest:
	rm -rf build/lowest
	$(LOWEST_PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python \
	  --resolution lowest-direct -e ".[dev,faces,annotate,gcs]"
	build/lowest/bin/python -m pytest -n 3 --dist loadfile -m "not slow and not campaign"

dev: $(STAMP)-dev

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)-dev
	$(BIN)/mypy

docs: $(STAMP)-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "jax-vlffd needs Python 3.11 to 3.13; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP)-run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(STAMP)-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,docs,faces,annotate,gcs]"
	@touch $@ $(STAMP)-run

clean:
	rm -rf runs .venv build site *.egg-info
