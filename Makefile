# The vocabulary of this repository. `make` alone explains it.
#
# Variables: PYTHON=python3.12 chooses the interpreter of .venv; ARGS="-k notify" goes to pytest (make test).

PYTHON ?= python3
BIN := .venv/bin
UNTIMED := attack_surface.py docker_default.py inference_study.py # they measure no time

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint format bench study docs probes regenerate-abi

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create .venv and install what the tests and the demo need (as root also Debian packages)
	@PYTHON='$(PYTHON)' tools/setup.sh

demo: ## Learn a small web service, enforce its profile, abuse it, and see what was refused
	@PYTHON='$(PYTHON)' tools/setup.sh --quiet --python-only
	@$(BIN)/python demo/demo.py

test: setup ## Run every test (ARGS="-k word" narrows them)
	@$(BIN)/python -m pytest $(ARGS)

check: ## Lint, formatting, types and the floor table
	@PYTHON='$(PYTHON)' tools/setup.sh --quiet --python-only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_layering.py

lint: ## Run the linter alone
	@$(BIN)/ruff check .

format: ## Put every file into the common form
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: setup ## Measure what tracing, enforcing and starting up cost, against the limits of the README
	@for script in $(filter-out $(addprefix benchmarks/,$(UNTIMED)),$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

study: setup ## Show on real programs what inference is worth, and write docs/inference-study.md (20 minutes)
	@$(BIN)/python benchmarks/inference_study.py --page docs/inference-study.md

docs: ## Write README.md and docs/cli.md again from their templates, running every example
	@$(BIN)/python tools/render_docs.py

probes: ## Build the eBPF probes again (clang, llvm, libbpf-dev)
	@tools/build_probes.sh autoprofile/trace/ebpf/data/autoprofile.bpf.o

regenerate-abi: ## Distil the kernel tables from their public sources again (needs the network)
	@$(BIN)/python tools/generate_abi.py extract
