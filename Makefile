# Everything runs in a virtual environment of its own; PYTHON is what makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= persona-world
GROUP ?= ilvania
REAL_MODEL ?= smollm2-135m-instruct
PERSONA ?= kind

# Tests wait for processes and files too: one worker more than there are cores.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count() + 1)")

# What jax is installed for: cuda, tpu or cpu. It is what this machine has, unless it is given.
ifndef ACCELERATOR
ACCELERATOR := $(shell $(PYTHON) benchmarks/measure/accelerator.py)
endif
COMMA := ,
OWN := $(filter-out cpu,$(ACCELERATOR))
PLUGINS_cuda := jax-cuda13-plugin jax-cuda13-pjrt
PLUGINS_tpu := libtpu
OTHER_PLUGINS := $(foreach each,$(filter-out $(ACCELERATOR),cuda tpu),$(PLUGINS_$(each)))

# Modules are compiled when they are first imported, and once. Where Python is told to keep none, as
# in many containers, each command would compile transformers anew: 3 s of a core.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: docs demo demo-real real-models test test-all lint format bench bench-long clean FORCE

# One environment, made again whenever the metadata or the accelerator changes. Nothing is compiled
# ahead: most modules are never imported, and Python compiles the others when they are.
# The plugins of another accelerator are removed: jax would use them wherever it finds them.
$(VENV)/installed: setup.cfg pyproject.toml $(VENV)/accelerator
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip uninstall --quiet --quiet --yes $(OTHER_PLUGINS)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".$(if $(OWN),[$(OWN)])"
	touch $@

# What the demos have no need of: the parity oracle, browsers, other tools, linters.
$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[test,lint$(if $(OWN),$(COMMA)$(OWN))]"
	touch $@

# Says which accelerator the environment is for, and is written where that is another one.
$(VENV)/accelerator: FORCE
	@case "$(ACCELERATOR)" in cpu|cuda|tpu) ;; *) \
	  echo "ACCELERATOR is cpu, cuda or tpu, not '$(ACCELERATOR)'" >&2; exit 2 ;; esac
	@mkdir -p $(VENV)
	@[ "$$(cat $@ 2>/dev/null)" = "$(ACCELERATOR)" ] || echo $(ACCELERATOR) > $@

FORCE:

# Searches labels for a group the model has never seen, steers the bundled model with them, and compares.
demo: $(VENV)/installed
	rm -rf runs/demo
	$(BIN)/icmjax search --model $(MODEL) --claims persona-world:$(GROUP):0 --leave group --out runs/demo
	$(BIN)/icmjax evaluate --model $(MODEL) --demos runs/demo \
	  --claims persona-world:$(GROUP):0:test --gold persona-world:$(GROUP):0

# Two real language models as Hugging Face folders, in an environment of its own: models/NAME.
REAL_VENV ?= .venv-real
$(REAL_VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(REAL_VENV)
	$(REAL_VENV)/bin/python -m pip install --quiet --no-compile --editable ".[real]"
	touch $@

real-models: $(REAL_VENV)/installed
	$(REAL_VENV)/bin/python experiments/real_models.py models

# A model that is there wants no environment to make it.
models/$(REAL_MODEL)/config.json:
	$(MAKE) $(REAL_VENV)/installed
	$(REAL_VENV)/bin/python experiments/real_models.py models --only $(REAL_MODEL)

# The same as `demo` with a real language model and a persona of experiments/claims. Broken off, it goes on where it was.
REAL_RUN = runs/demo-real/$(REAL_MODEL)-$(PERSONA)
demo-real: $(VENV)/installed models/$(REAL_MODEL)/config.json
	[ ! -e $(REAL_RUN)/evaluation.json ] || rm -rf $(REAL_RUN)
	$(BIN)/icmjax search --model models/$(REAL_MODEL) --claims experiments/claims/$(PERSONA)_search.jsonl \
	  --out $(REAL_RUN) --resume-if-begun
	$(BIN)/icmjax evaluate --model models/$(REAL_MODEL) --demos $(REAL_RUN) \
	  --claims experiments/claims/$(PERSONA)_test.jsonl --gold experiments/claims/$(PERSONA)_search.jsonl

test: $(VENV)/tested
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/tested
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The documentation as a site, without network: build/site/index.html.
docs: $(VENV)/tested
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A pass of scores with 16 and 64 claims, ours and torch's.
bench: $(VENV)/tested
	$(BIN)/python benchmarks/scoring.py --out runs/bench

# The same with 256 and 1,024 claims too: some hours.
bench-long: $(VENV)/tested
	$(BIN)/python benchmarks/scoring.py --long --out runs/bench-long

clean:
	rm -rf $(VENV) $(REAL_VENV) runs/demo runs/demo-real
