# The farm's commands. Each sets up what it needs in .venv, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# A farm starts four processes, and tests start many farms: without bytecode each compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE
LUACHECK ?= luacheck
AS_ROOT := $(filter 0,$(shell id -u))
# Half as many again as cores: many tests wait for processes that they have started.
TEST_PROCESSES ?= $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))
# glibc: keep large buffers between layers instead of returning them to the system.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296

.PHONY: help demo demo-ops drill up quick test test-full chaos volume bench-peers check bench bench-gpu figures docs site format train-miniature train-checker evaluate-miniature
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

demo: .venv/set-up-run ## render four prompts on a temporary farm; the images are in out/
	@$(BIN)/farm demo

demo-ops: .venv/set-up-dev promtool alertmanager ## break a farm in five ways beside Prometheus and Alertmanager; print when each alert came and went
	@$(BIN)/python -m tests.demo_ops

drill: .venv/set-up-dev promtool alertmanager ## break a farm in one of six ways, and measure how soon you name it (docs/runbook.md)
	@$(BIN)/python -m tests.demo_ops.drill --rounds $(or $(ROUNDS),1)

up: .venv/set-up-run ## run a farm at http://127.0.0.1:8000 until Ctrl-C (HOST=127.0.0.1 PORT=8000)
	@exec $(BIN)/farm up $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

check: .venv/set-up-dev luacheck ## format, lint, types, import contracts
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(LUACHECK) -q --no-color farm/jobstore/lua
	@$(BIN)/lint-imports --no-logo | tail -n 3
	@$(BIN)/mypy

quick: check ## checks and unit tests, under 90 seconds; not those that load weights or wait
	@$(BIN)/pytest -q -m "not full and not slow" --numprocesses auto --dist loadfile tests/unit

test: check chromium promtool ## every check and test
	@$(BIN)/pytest -m "not full and not alone" --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	@$(BIN)/pytest -m "not full and alone"

test-full: test alertmanager ## every check and test, and the long tests
	@$(BIN)/pytest -m full

chaos: .venv/set-up-dev ## break a farm while callers use it, and judge the result (JOBS=10000 SEED=any)
	@$(BIN)/python -m tests.chaos --jobs $(or $(JOBS),10000) $(if $(SEED),--seed $(SEED))

volume: .venv/set-up-dev ## a bulk of 100,000 lines while workers are killed, and its judge (LINES=100000)
	@$(BIN)/python -m tests.volume --lines $(or $(LINES),100000)

bench: .venv/set-up-dev ## benchmarks of control plane and engine without a GPU, each beside its baseline
	@$(BIN)/python -m tests.bench

bench-peers: .venv-peers/set-up ## the farm beside LitServe, Ray Serve, and Flask with Celery, in one run (ROUNDS=5 SECONDS=10)
	@$(BIN)/python -m tests.bench.peers --rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),10)

bench-gpu: .venv/set-up-run ## render benchmarks on this machine's CUDA card (QUICK=yes)
	@$(BIN)/python -m tests.bench.gpu $(if $(QUICK),--quick)

figures: .venv/set-up-dev ## print size, shape and documentation of the code (ROOT=folder)
	@$(BIN)/python -m tests.figures $(ROOT)

train-miniature: .venv/set-up-dev ## train a miniature; continues where it stopped (MINUTES=360 DEVICE=cpu EDITS=no)
	@$(KEEP_MEMORY) $(BIN)/python -m miniature train --minutes $(or $(MINUTES),360) --device $(or $(DEVICE),cpu) $(if $(filter no,$(EDITS)),--no-edits)

train-checker: .venv/set-up-dev ## train the miniature's safety checker further; continues where it stopped (MINUTES=120 WEIGHTS=folder)
	@$(KEEP_MEMORY) $(BIN)/python -m miniature train-checker --minutes $(or $(MINUTES),120) $(if $(WEIGHTS),--home $(WEIGHTS))

evaluate-miniature: .venv/set-up-dev ## measure the miniature: figures and a grid of images (NUMBER=200 WEIGHTS=folder)
	@$(BIN)/python -m miniature evaluate --number $(or $(NUMBER),200) $(if $(WEIGHTS),--home $(WEIGHTS))

docs: .venv/set-up-dev ## generate the reference pages in docs/, and the files in deploy/
	@$(BIN)/python -m farm.settings docs/settings.md deploy/env.example
	@$(BIN)/python -m farm.dialects.limits_page docs/limits.md
	@$(BIN)/python -m farm.dialects.failure_codes_page docs/failure-codes.md
	@$(BIN)/python -m farm.telemetry.page docs/metrics.md
	@$(BIN)/python -m farm.cli.commands_page docs/cli.md
	@$(BIN)/python -m tests.docs_index docs/llms.txt
	@$(BIN)/python -m monitoring deploy

site: docs ## build the documentation as a site in site/
	@$(BIN)/python -m zensical build --strict

format: .venv/set-up-dev ## format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

# Set-up happens once, and again when pyproject.toml changes. `dev` brings all of `run`.
.venv/set-up-run: pyproject.toml | python
	@$(call install,embedded$(comma)worker)
	@touch $@
.venv/set-up-dev: pyproject.toml | python
	@$(call install,dev)
	@touch $@ .venv/set-up-run

# The peers' packages lie on top of the farm's, which they see by a .pth file and cannot change.
.venv-peers/set-up: tests/bench/peers/requirements.txt .venv/set-up-dev
	@$(PYTHON) -m venv .venv-peers
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
	  > "$$(.venv-peers/bin/python -c 'import site; print(site.getsitepackages()[0])')/farm.pth"
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/bench/peers/requirements.txt
	@touch $@

comma := ,
define install
echo "setting up .venv (once; a few minutes, mostly for torch)" && $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --editable '.[$(1)]' 2> >(grep -v '^WARNING: Location' >&2) || { echo "The set-up failed; the reason is above. Then run: rm -rf .venv && make"; exit 1; }
endef

# One line says what is missing, and the command that brings it.
.PHONY: python luacheck chromium promtool alertmanager
luacheck:
	@$(call debian,$(LUACHECK),lua-check,luacheck)
chromium:
	@$(call debian,chromium,chromium)
promtool:
	@$(call debian,promtool,prometheus)
alertmanager:
	@$(call debian,prometheus-alertmanager,prometheus-alertmanager)
define debian
command -v $(1) >/dev/null \
  || $(if $(AS_ROOT),(export DEBIAN_FRONTEND=noninteractive; apt-get update; apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $(2)) >/dev/null 2>&1 </dev/null,false) \
  || { echo "$(or $(3),$(1)) is missing; run: $(if $(AS_ROOT),,sudo )apt install $(2)"; exit 1; }
endef
python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or later is missing; run: sudo apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) -V); run: make PYTHON=python3.11"; exit 1; }
	@test -e .venv || $(PYTHON) -m venv .venv >/dev/null || { rm -rf .venv; echo "Python's venv module is missing; run: sudo apt install python3-venv"; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || { echo ".venv is broken; run: rm -rf .venv, then this command again"; exit 1; }
