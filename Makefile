# Two commands: `make run` (the whole recipe) and `make test`. `make help` lists the rest.
PYTHON := .venv/bin/python
unexport SET  # an exported variable is expanded; what was typed goes on as it is, past make and the shell
.DEFAULT_GOAL := help
.PHONY: help setup run test test-recipe fuzz check gate roofline up stop evidence evidence-dsa card bench-model bench-context muon-split bf16-quality

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## install what is missing; skips what is there
	@infra/setup.sh

run: export LONGHAUL_SET := $(value SET)
run: setup  ## the whole recipe; SET="pretrain.steps=10 seed=2" changes parameters
	@$(PYTHON) -m flows.run

test: setup  ## every check and every test but test-recipe
	@$(MAKE) --no-print-directory check
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile

check: setup  ## lint, types, import contract, parameters, compiled kernels
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m tasks.config check
	@$(MAKE) --no-print-directory gate

gate:  ## compile the GPU's kernels without a GPU and judge what they need
	@env -u TRITON_INTERPRET $(PYTHON) -m kernels.compile_gate

roofline: setup  ## what each kernel could reach on an H200, from formulas
	@$(PYTHON) -m kernels.roofline

up: setup  ## start the servers and a worker that serves the deployments
	@$(PYTHON) -m flows.servers up --worker

stop:  ## end the servers and the worker that were started here
	@$(PYTHON) -m flows.servers stop

evidence: setup  ## three seeds of RL, its controls, and midtraining with and without pretraining; up to two hours
	@$(PYTHON) -m tasks.benchmarks.evidence

evidence-dsa: setup  ## DSA next to dense attention, a window, random keys (docs/dsa.md); an hour and a half on one core, goes on where it stopped
	@$(PYTHON) -m tasks.benchmarks.dsa_evidence

muon-split: setup  ## the largest attention logits under Muon Split and whole-matrix Muon (docs/muon-split.md); minutes
	@$(PYTHON) -m tasks.benchmarks.muon_split

bf16-quality: setup  ## held-out loss and gradients of training in bfloat16 next to fp32 (docs/bf16.md); minutes
	@$(PYTHON) -m tasks.benchmarks.precision

bench-context: setup  ## what a longer context costs, dense and sparse (docs/context-cost.md); minutes, on an idle machine
	@$(PYTHON) -m tasks.benchmarks.context_cost

bench-model: setup  ## the network's speed next to transformers', same weights (metrics/bench_model.json); minutes, on an idle machine
	@$(PYTHON) -m tasks.benchmarks.model_speed

card: setup  ## measure the environment cards (docs/environments.md)
	@$(PYTHON) -m tasks.environments.card

fuzz: setup  ## 100,000 bad inputs to every reader (tests/fuzz); half an hour; INPUTS=1000 tries fewer
	@env -u TRITON_INTERPRET $(PYTHON) -m tests.fuzz --inputs $(or $(INPUTS),100000)

test-recipe: setup  ## the pipeline at small size, killed half-way and run again (several minutes)
	@$(PYTHON) -m pytest -q -m recipe tests/recipe
