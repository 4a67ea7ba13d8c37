# make demo, make test: on a fresh machine with Python 3.11 or newer they do all the set-up.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/.ready

.PHONY: demo test lint mutants clean
demo: $(READY)
	$(BIN)/holdfast demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # two workers share two cores: one thread each

mutants: $(READY)  # every night: each break of the list must be noticed by its tests; about two hours on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow tests/test_mutants.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv
