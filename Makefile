# The single entry point: `make help` lists what there is. Everything below works from a fresh clone on Debian or Ubuntu
# as root, with Go and Python 3.11+; it installs the rest itself.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY        := .venv/bin/python
PYTEST    := $(PY) -m pytest
VENV      := .venv/.complete
DEVCLUSTER := hack/devcluster/devcluster

.PHONY: help
help: ## This list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV): pyproject.toml constraints.txt hack/bootstrap.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found $$(python3 -V)" >&2; exit 1; }
	@python3 -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
	python3 -m venv .venv
	$(PY) -m pip install --quiet --require-hashes -r hack/bootstrap.txt
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt --editable '.[operator,trainer,demo,dev]'
	@touch $@

.PHONY: venv
venv: $(VENV) ## The Python environment in .venv, pinned with hashes

.PHONY: demo
demo: $(VENV) ## Cluster, images, chart and a real job; ends with the scores (KUBECONFIG=… REGISTRY=…: your cluster)
	@$(PY) hack/demo/demo.py

.PHONY: test
test: $(VENV) ## Everything of the CI tier: lint, unit, trainer, API server, chart, real cluster, real model
	@$(PY) hack/test/run.py

.PHONY: test-unit test-trainer test-apiserver test-e2e
test-unit: $(VENV) ## Pure functions, tables, golden files, the chart's templates
	$(PYTEST) tests/unit tests/devcluster tests/chart -q
test-trainer: $(VENV) browser ## The trainer on tiny models, a real S3 server and a local hub
	$(PYTEST) tests/trainer -q
test-apiserver: $(VENV) ## CRDs, RBAC and the operator against a real kube-apiserver and etcd
	$(PYTEST) tests/apiserver -q
test-e2e: $(VENV) ## The chart and the images on the development cluster, real model included
	$(PYTEST) tests/e2e -q

.PHONY: browser
browser: ## Chromium and its driver, for the tests of the report's page
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; }

.PHONY: test-gpu
test-gpu: ## The trainer on a CUDA device (by hand; not in CI)
	python3 -m pytest tests/gpu -q -p no:cacheprovider

.PHONY: lint
lint: $(VENV) ## ruff, format, mypy --strict, import contracts, generated files current
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy hack/devcluster/devclusterlib hack/demo hack/test hack/examples benchmarks
	.venv/bin/lint-imports
	$(PY) -m finetune_api.crd --check
	$(PY) -m finetune_api.failures --check
	$(PY) -m finetune_trainer.text.template.page --check

.PHONY: bench-operator bench-start bench-trainer bench-memory bench-progress
bench-operator: $(VENV) ## The operator under 200 jobs on simulated nodes (N=…, STAGES="1 2")
	@$(PY) -m benchmarks.operator_bench --jobs $(or $(N),200) --stages $(or $(STAGES),1 2)
bench-progress: $(VENV) ## Live reports of many jobs at once, until status says them (N=1000)
	@$(PY) -m benchmarks.progress_bench --jobs $(or $(N),1000)
bench-start: $(VENV) ## From apply to the first forward pass on the development cluster (ROUNDS=3, CACHE=1)
	@$(PY) -m benchmarks.start_bench --rounds $(or $(ROUNDS),3) $(if $(CACHE),--model-cache)
bench-trainer: $(VENV) benchmarks/.venv-trl/.complete ## Speed and memory of the training loop against TRL (METHOD=LoRA, BATCH=4, TUNE=1)
	@$(PY) -m benchmarks.trainer_bench --method $(or $(METHOD),Full) --batch $(or $(BATCH),4) $(if $(TUNE),--tune)
bench-memory: $(VENV) ## Memory and speed of preparing 1 GB, and of scoring 100,000 rows (MB=1000 ROWS=100000 FORMAT=parquet)
	@$(PY) -m benchmarks.memory_bench --megabytes $(or $(MB),1000) --rows $(or $(ROWS),100000) --format $(or $(FORMAT),jsonl)

# TRL never enters the product's environment.
benchmarks/.venv-trl/.complete: $(VENV) benchmarks/requirements-trl.txt
	.venv/bin/uv venv --quiet --clear --python $(PY) benchmarks/.venv-trl
	.venv/bin/uv pip install --quiet --require-hashes --python benchmarks/.venv-trl/bin/python -r benchmarks/requirements-trl.txt
	@touch $@

.PHONY: examples
examples: $(VENV) ## Every example with the real model on this machine, and what came out (NAME=classification)
	@$(PY) -m hack.examples.run $(NAME)

.PHONY: generate
generate: $(VENV) ## Writes the CRDs, docs/failures.md and docs/templates.md
	$(PY) -m finetune_api.crd --write
	$(PY) -m finetune_api.failures --write
	$(PY) -m finetune_trainer.text.template.page --write

.PHONY: constraints
constraints: $(VENV) ## Pins all dependencies anew, with hashes
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --all-extras --upgrade pyproject.toml -o constraints.txt

.PHONY: cluster-up cluster-down
cluster-up: ## The development cluster: Kubernetes, S3, registry
	@$(DEVCLUSTER) up
cluster-down: ## Ends the development cluster and leaves nothing of it
	@$(DEVCLUSTER) down

.PHONY: images
images: ## Builds both images and pushes them to the development cluster's registry
	@$(DEVCLUSTER) images

.PHONY: clean
clean: cluster-down ## cluster-down, and removes the environment and all caches in the tree
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info run
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
