# python3.11 and make are all that a fresh machine needs; everything is installed into .venv.
#   make run PYTHON=python3.12
#   make run TORCH_INDEX=https://download.pytorch.org/whl/cpu    a far smaller torch, for machines without a GPU

PYTHON ?= python3.11
TORCH_INDEX ?=

BIN := .venv/bin
TORCH := $(shell sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)
RUN_STAMP := .venv/.installed-run
TEST_STAMP := .venv/.installed-test

.PHONY: run test bench lint format clean

run: $(RUN_STAMP)  ## Redis, the API and its workers on this machine
	$(BIN)/ebbtide up

test: lint  ## lint, types and every test: the maths on two cores at once, then, one by one, what starts processes and looks at clocks
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests/models
	@$(BIN)/pytest --ignore=tests/models

bench: $(TEST_STAMP)  ## time and memory, as ratios within one run
	@for script in tests/benchmarks/*.py; do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

lint: $(TEST_STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## everything made here but data/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

# torch first and alone: its exact version is on many machines already, and nothing later may replace it.
$(RUN_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[service,worker,train]"
	@touch $@

$(TEST_STAMP): pyproject.toml $(RUN_STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[service,worker,train,dev]"
	@touch $@
