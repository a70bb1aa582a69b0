# The targets are the documented commands and CI's commands. Everything is installed into .venv here.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := -m pytest
# Twice as many as there are cores, since tests of processes mostly wait.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2)
# Tests start hundreds of interpreters, which find what the first one has compiled.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: install demo test processes gates browser everything processors parity check serve bench clean

install: $(VENV)/.core  ## the light core: draft engine, server, client, command line

demo: $(VENV)/.core  ## make out/demo.mp4 and out/demo.png through a real server
	@$(RUN) demo/demo.py

test: $(VENV)/.test  ## install what the tests need and run them
	$(RUN) -m pytest -n auto --dist worksteal

processes: $(VENV)/.test  ## whole servers, workers, hubs and platforms, some of them killed
	$(RUN) $(PYTEST) -n $(WORKERS) --dist worksteal -m "processes and not slow"

gates: $(VENV)/.test  ## kills, power cuts, two hosts on Postgres, the Compose file: one after the other
	$(RUN) $(PYTEST) -m slow tests/jobs tests/test_compose.py --deselect tests/jobs/test_load.py

everything: $(VENV)/.browser  ## processes, gates and browser at once: half as long as one by one
	$(RUN) $(PYTEST) -n $(WORKERS) --dist worksteal -m "processes or slow or browser" \
		--deselect tests/jobs/test_load.py --deselect tests/parity

browser: $(VENV)/.browser  ## the page in the system's chromium; skipped where there is none
	$(RUN) $(PYTEST) -m browser tests/ui

processors: $(VENV)/.test  ## [LIMITS="lowest --only face"]: the tests that compute, libraries held to older processors
	$(RUN) -m tests.processors $(LIMITS)

parity: $(VENV)/.test  ## REFERENCE=dir: every recorded array of a reference folder
	$(RUN) -m tests.parity --reference "$(REFERENCE)"

check: $(VENV)/.check  ## style, types and the import layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

serve: $(VENV)/.core  ## a local server; needs LATENTSYNC_API_KEY
	$(VENV)/bin/latentsync serve

bench: $(VENV)/.test  ## the figures of docs/figures.md
	$(RUN) -m benchmarks.draft
	$(RUN) -m benchmarks.face
	$(RUN) -m benchmarks.memory
	$(RUN) -m benchmarks.restore
	$(RUN) -m benchmarks.around_networks
	$(RUN) -m benchmarks.lipsync
	$(RUN) -m benchmarks.gpu

clean:
	rm -rf $(VENV) out output.mp4 .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "latentsync needs Python 3.11, 3.12 or 3.13; try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the light core into $(VENV) (about half a minute, no torch) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.browser: $(VENV)/.test
	@echo "Installing what drives a browser ..."
	@$(PIP) --editable '.[browser]'
	@touch $@

$(VENV)/.check: $(VENV)/.test
	@echo "Installing what the checks need ..."
	@$(PIP) --editable '.[test,check]'
	@touch $@
