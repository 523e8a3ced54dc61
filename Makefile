# SPDX-License-Identifier: Apache-2.0
#
#   make demo     a whole OpenStack on Fisk, shown; it stays   make demo-core  the engine alone, on a real disk
#   make test     check, then run all tests               make check   ruff, mypy, documentation
#   make test-openstack  tests of the adapters, in a cloud    make tempest  OpenStack's own tests, in a cloud
#   make test-hosts  both, for what takes two compute hosts
#   make bench    measure beside nbdkit and qemu-nbd      make docs    build the manual
#   make proof    try to break every promise, 15 minutes   make soak HOURS=n  the same without end
#   make deps     only install what the others need        make samples  options, policy and OpenAPI, from the code
#   make clean    stop the cloud, remove what these made
#
# All install what they need first: Debian packages (bindep.txt) with apt-get, Python packages into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A plain path entry: the import hook of the other editable modes costs every worker time and memory.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat
SPHINX := $(BIN)/sphinx-build -q -W --keep-going -j 2
PYTEST_ARGS ?=
PROOF_ARGS ?=
DEMO_ARGS ?=
HOURS ?= 1
MINISTACK := devstack/ministack/ministack

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo demo-core tempest smoke test-openstack test-hosts test bench proof soak strength check lint types docs samples deps clean system-demo system-test system-bench system-check system-base

# The cloud installs what it needs by itself: packages of the profile "cloud", a Python environment of its own.
demo:
	$(MINISTACK) demo $(DEMO_ARGS)

demo-core: system-demo $(VENV)/.core
	$(BIN)/python -m demo

tempest:
	$(MINISTACK) tempest all
	$(MINISTACK) tempest report

# A part of that in a few minutes, in a cloud that is ended whatever comes of it.
smoke:
	$(MINISTACK) tempest smoke; code=$$?; $(MINISTACK) down; exit $$code

# In two processes: Cinder's and Nova's options cannot be registered in one.
test-openstack:
	$(MINISTACK) exec python -m pytest tests/openstack --ignore tests/openstack/nova $(PYTEST_ARGS)
	$(MINISTACK) exec python -m pytest tests/openstack/nova $(PYTEST_ARGS)

# Another cloud, for which that of the others must be down.
test-hosts:
	$(MINISTACK) --computes 2 exec python -m pytest tests/openstack/nova/test_hosts.py $(PYTEST_ARGS)
	$(MINISTACK) --computes 2 tempest hosts

# Tests wait for a third of their time, for processes and clocks: half as many again as there are processors.
test: system-test check
	$(BIN)/python -m pytest --numprocesses $$(($$(nproc) * 3 / 2)) --dist loadfile $(PYTEST_ARGS)

proof: system-test $(VENV)/.test
	$(BIN)/python -m proof $(PROOF_ARGS)

soak: system-test $(VENV)/.test
	$(BIN)/python -m proof.soak --hours $(HOURS)

strength: system-test $(VENV)/.test
	$(BIN)/python -m proof.strength

bench: system-bench $(VENV)/.bench
	$(BIN)/python -m bench

check: lint types docs

lint: system-check $(VENV)/.test
	$(BIN)/ruff check .
	@tools/shell-scripts | xargs shellcheck --external-sources
	$(BIN)/ruff format --check .
	$(BIN)/reno -q lint

types: $(VENV)/.test
	$(BIN)/mypy

docs: $(VENV)/.test
	$(SPHINX) -b html doc/source doc/build/html

samples: $(VENV)/.test
	$(BIN)/oslo-config-generator --namespace fisk --namespace fisk.daemon --output-file etc/fisk.conf.sample
	$(BIN)/oslopolicy-sample-generator --namespace fisk --output-file etc/policy.yaml.sample
	$(BIN)/python -m fisk_core.api >doc/source/openapi.json

deps: system-demo system-test system-bench $(VENV)/.test $(VENV)/.bench

system-base:
	@tools/system-packages
system-demo system-test system-bench system-check: system-%:
	@tools/system-packages $*

# The stamps are older than setup.cfg when what is to be installed has changed.
$(VENV)/.core: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) -e '.[daemon]'
	@touch $@
$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) -e '.[daemon,test,docs]'
	@touch $@ $(VENV)/.core
$(VENV)/.bench: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) -e '.[daemon,bench]'
	@touch $@ $(VENV)/.core

$(BIN)/python: | system-base
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "fisk: needs Python 3.11 or later, $(PYTHON) is older; try: make PYTHON=python3.12" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)

clean:
	for backend in fisk stock; do \
	    [ ! -d .work/ministack/$$backend ] || \
	    PYTHONPATH=. .work/ministack/venv/bin/python -m devstack.ministack --backend $$backend down || exit; \
	    [ ! -d .work/ministack/$$backend-2 ] || PYTHONPATH=. .work/ministack/venv/bin/python \
	        -m devstack.ministack --backend $$backend --computes 2 down || exit; \
	done
	rm -rf $(VENV) .work build dist doc/build *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find bench demo devstack fisk_core fisk_openstack proof tests -name __pycache__ -prune -exec rm -rf {} +
