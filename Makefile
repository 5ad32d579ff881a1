# The verbs of this project; CI runs the same ones. Plain sh, safe with -j; nothing is installed outside .venv* except,
# for root on a bare Debian, the two system packages that `system` names.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

DEVICE ?= cpu
MODEL ?=
FAMILY ?=
PORT ?= 8000
TESTS ?=
PART ?=
SEED ?= 1
SIZE ?= smoke
LIMIT ?=
NAME ?=
TRAINER ?= trl openrlhf trl-judges verl swift areal

# The GPU build of vLLM is the same Python module as the CPU build: each device has its own environment.
VENV := $(if $(filter cpu,$(DEVICE)),.venv,.venv-$(DEVICE))
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --no-compile
# Byte code on all cores, instead of pip's one at a time; without it each of an engine's three processes starts seven seconds
# of processor time later wherever PYTHONDONTWRITEBYTECODE is set. Some packages ship templates that are no Python: || true.
COMPILE := $(PY) -m compileall -q -j 0 -x '/transformers/models/' $(VENV)/lib >/dev/null 2>&1 || true
TORCH_INDEX := https://download.pytorch.org/whl/cpu
RUNTIME := $(VENV)/$(if $(filter cpu,$(DEVICE)),cpu,gpu).stamp
TOOLS := $(VENV)/dev.stamp

# The first interpreter that really runs (a version manager's shim may not) and is one vLLM is built for. Looked for once,
# and only when an environment is to be made.
ifndef PYTHON
PYTHON = $(eval PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done))$(PYTHON)
endif

SERVE = --engine vllm --device $(DEVICE) --port $(PORT) $(if $(MODEL),--model '$(MODEL)') $(if $(FAMILY),--family '$(FAMILY)')

.PHONY: help
help: ## show this list
	@echo 'make VERB [DEVICE=cpu|cuda] [MODEL=path-or-hub-id] [FAMILY=gram|gram_r2|rm_r1|scalar] [PORT=8000]'
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

.PHONY: install
install: $(RUNTIME) $(TOOLS) ## create the environment with everything that serve, check, test and bench need

.PHONY: serve
serve: $(RUNTIME) ## install what is missing, start the service on 127.0.0.1:PORT (the demo judge unless MODEL is given)
	@exec $(PY) -m service serve $(SERVE)

.PHONY: check
check: $(RUNTIME) $(TOOLS) ## lint, formatting, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy --python-version 3.10 -p gram_client

.PHONY: test
test: $(RUNTIME) $(TOOLS) ## every test, real vLLM on the CPU included (TESTS='path or options' narrows it; SEED=2 draws other examples)
	$(PY) -m pytest --hypothesis-seed=$(SEED) $(TESTS)

.PHONY: test-fast
test-fast: $(RUNTIME) $(TOOLS) ## the service's suite on the fake engine: no real engine, no training, fewer examples a property, under a minute
	$(PY) -m pytest -n auto --maxprocesses 8 --property-scale 0.2 -m 'not vllm and not slow' --ignore=tests/training $(TESTS)

.PHONY: test-trainers
test-trainers: $(RUNTIME) $(TOOLS) ## the trainers' own code against the service, each in an environment of its own (TRAINER=verl for one)
	@set -e; for trainer in $(TRAINER); do \
		python=$(PY); folder=tests/trainers/$$trainer; \
		if [ -f $$folder/install.sh ]; then sh $$folder/install.sh $(PY); fi; \
		if [ -d .venv-$$trainer ]; then python=.venv-$$trainer/bin/python; fi; \
		echo "$$trainer:"; TRAINER=$$trainer $$python -m pytest -W default $$folder; \
	done

.PHONY: test-ray
test-ray: $(RUNTIME) $(TOOLS) ## the Ray Serve application on a Ray cluster of this machine, in an environment of its own (.venv-ray)
	sh tests/trainers/environment.sh ray $(PY) tests/deploy/ray
	.venv-ray/bin/python -m pytest -W default tests/deploy/ray

.PHONY: bench
bench: $(RUNTIME) $(TOOLS) ## judged comparisons a second against vLLM offline, its OpenAI server and transformers, as ratios
	$(PY) -m benchmarks

.PHONY: verify
verify: $(RUNTIME) $(TOOLS) ## a released judge through the service, beside its published scores (MODEL=, DEVICE=cuda; LIMIT=20 to try; GRAM_DATA_DIR)
	$(PY) -m training verify --engine vllm --device $(DEVICE) $(if $(MODEL),--model '$(MODEL)') $(if $(FAMILY),--family '$(FAMILY)') \
		$(if $(NAME),--name '$(NAME)') $(if $(LIMIT),--limit $(LIMIT))

.PHONY: soak
soak: $(RUNTIME) $(TOOLS) ## every property and promised figure at its full count, in parts of at most half an hour that are run once a commit (PART=Q7 for one)
	$(PY) -m benchmarks soak --strict --write-docs $(if $(PART),--part '$(PART)')

.PHONY: studies
studies: $(RUNTIME) $(TOOLS) ## claims about training judges, re-tested on small models (SIZE=full: hours, see docs/studies)
	$(PY) -m training study all --size $(SIZE)

.PHONY: verify-image
verify-image: $(RUNTIME) ## the Dockerfile's own steps without a container engine: install, start, health check, stop (some minutes)
	$(PY) -m deploy.verify_image

.PHONY: manifests
manifests: $(RUNTIME) ## render deploy/kubernetes again after a change there (needs kubectl, which carries kustomize)
	$(PY) -m deploy.manifests

.PHONY: sbom
sbom: $(RUNTIME) .venv-sbom/stamp ## bill of materials of the installed runtime, CycloneDX: build/sbom-cpu.cdx.json (DEVICE=cuda: of that one)
	$(PY) -m deploy.sbom --tool .venv-sbom/bin/cyclonedx-py --output build/sbom-$(DEVICE).cdx.json \
		$(if $(filter cpu,$(DEVICE)),--requirements requirements/cpu.txt,--requirements requirements/gpu.txt --closure)

.venv-sbom/stamp: requirements/sbom.txt | $(PY)
	@$(PY) -m venv .venv-sbom
	.venv-sbom/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements/sbom.txt
	@touch $@

.PHONY: clean
clean: ## remove environments, caches and build outputs
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- installation ------------------------------------------------------------------------------------------------------

# A bare Debian has Python without its venv module, and may lack the NUMA library that vLLM's CPU kernels link to.
$(PY):
	@test -n '$(PYTHON)' || { echo 'Python 3.11, 3.12 or 3.13 is needed: install one, or name it with make PYTHON=/path/to/python3.'; exit 1; }
	@missing=''; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		missing="$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
	if [ $(DEVICE) = cpu ] && ! $(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then missing="$$missing libnuma1"; fi; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing system packages:" $$missing; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
		else \
			echo "System packages are missing. Run this, then make again:"; echo "  sudo apt-get install -y" $$missing; exit 1; \
		fi; \
	fi
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# torch alone may come from PyTorch's index; no retries, so that a host that cannot be reached costs seconds.
$(VENV)/cpu.stamp: requirements/cpu.txt | $(PY)
	$(PIP) --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) "$$(sed -n '/^torch==/p' requirements/cpu.txt)"
	$(PIP) --no-deps -r requirements/cpu.txt
	@$(COMPILE)
	@touch $@

$(VENV)/gpu.stamp: requirements/gpu.txt requirements/gpu-lock.txt requirements/floor.txt | $(PY)
	$(PIP) -r requirements/gpu.txt -c requirements/gpu-lock.txt -c requirements/floor.txt
	@$(COMPILE)
	@touch $@

# After the runtime: one pip at a time in one environment, also under make -j.
$(TOOLS): requirements/dev.txt tests/trainers/openrlhf/requirements.txt | $(RUNTIME)
	$(PIP) --no-deps -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation --no-index --editable client
	sh tests/trainers/openrlhf/install.sh $(PY)
	@$(COMPILE)
	@touch $@
