# Everything runs in a virtual environment of its own; PYTHON is what makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= persona-world
GROUP ?= ilvania

.PHONY: demo test test-all lint format bench clean

# One environment, made again whenever the metadata changes.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test,lint]"
	touch $@

# Searches labels for a group the model has never seen, steers the bundled model with them, and compares.
demo: $(VENV)/installed
	rm -rf runs/demo
	$(BIN)/icmjax search --model $(MODEL) --claims persona-world:$(GROUP):0 --leave group --out runs/demo
	$(BIN)/icmjax evaluate --model $(MODEL) --demos runs/demo \
	  --claims persona-world:$(GROUP):0:test --gold persona-world:$(GROUP):0

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed
	$(BIN)/python benchmarks/scoring.py --out benchmarks/results

clean:
	rm -rf $(VENV) runs/demo
