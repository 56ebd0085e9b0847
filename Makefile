# Every target sets up what it needs; nothing but Python 3.11+ with pip has to be there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
MODELS ?= $(wildcard models/*.onnx)
COUNT ?= 20000
ENVS ?= .envs
FRAMEWORKS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# Two environments' worth of packages in one folder; a stamp says which are in and for which
# pyproject.toml, so that a second call costs nothing.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	$(BIN)/python -m compileall -q sardonyx
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q sardonyx
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev ## Create .venv with everything for development

.PHONY: demo
demo: $(VENV)/.demo ## From scikit-learn to a small, fast model of digits, in a folder that runs by itself
	$(BIN)/python examples/digits.py

.PHONY: test
test: $(VENV)/.dev ## Run the default tests
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

.PHONY: test-models
test-models: $(VENV)/.dev ## Fetch real networks (350 MB, once) and run the tests on them
	$(BIN)/python tests/models/install.py
	$(BIN)/python -m pytest -m models $(ARGS)

.PHONY: test-converters
test-converters: ## Convert real models by the frameworks themselves, each in an environment of its own: FRAMEWORKS="jax tf"
	$(PYTHON) scripts/converters.py --environments $(ENVS) $(FRAMEWORKS) $(if $(ARGS),--pytest="$(ARGS)")

.PHONY: test-long
test-long: $(VENV)/.dev ## Run the tests that take long
	$(BIN)/python -m pytest -n $(WORKERS) -m long $(ARGS)

.PHONY: test-targets
test-targets: $(VENV)/.dev ## Compare bytes with other processors (qemu-user), check memory and undefined behaviour
	$(BIN)/python scripts/check_targets.py --jobs $(WORKERS) --models $(MODELS) \
		--json benchmarks/results/targets.json
	$(BIN)/python scripts/check_targets.py --jobs $(WORKERS) --machines host+undefined --apart

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Try 20000 broken models and 2000 random graphs (COUNT=... of broken ones)
	$(BIN)/python scripts/fuzz.py mutations --count $(COUNT) --jobs $(WORKERS) --json benchmarks/results/fuzz.json
	$(BIN)/python scripts/fuzz.py graphs --count $$(($(COUNT) / 10)) --jobs $(WORKERS) --json benchmarks/results/fuzz.json

.PHONY: soak
soak: $(VENV)/.dev ## Run MODELS 10000 times each with random sizes and watch the memory
	@set -e; for model in $(MODELS); do $(BIN)/python scripts/soak.py $$model --runs 10000 --json benchmarks/results/soak.json; done

.PHONY: lint
lint: $(VENV)/.dev ## Check style, format of imports and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

.PHONY: bench
bench: $(VENV)/.bench ## Benchmark the zoo, a forest and perceptrons (20 min), or MODELS="a.onnx b.onnx"; ARGS="--budget 5"
	$(BIN)/python scripts/bench.py $(ARGS) $(MODELS)

.PHONY: status
status: $(VENV)/.dev ## Write docs/status.md and the figures in README.md afresh
	$(BIN)/python scripts/status.py

.PHONY: figures
figures: $(VENV)/.dev ## Measure what docs/status.md reports (takes long), then write it
	@set -e; for part in backend agreement loads overhead; do $(BIN)/python benchmarks/figures.py $$part; done
	$(BIN)/python scripts/status.py

.PHONY: clean
clean: ## Remove what these targets made
	rm -rf $(VENV) .envs build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
