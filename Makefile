# Needs make and Python 3.11 or newer, and on a first run the Python package index. `make PYTHON=python3.12 demo`
# chooses another interpreter. Everything is installed into .venv; a second run finds it there.

PYTHON ?= python3
ARGS ?=
V := .venv/bin
PIP := $(V)/python -m pip --quiet --disable-pip-version-check
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(V)/pip-compile --quiet --upgrade --generate-hashes \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
	--strip-extras --allow-unsafe

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench chaos lock clean packages

help: ## list what make can do
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST))

# Ctrl-C reaches the demo, which stops in order; status 130 is then no error to report.
demo: .venv/.runtime ## a whole site on this machine, no hardware: ARGS="--help" lists its options
	@trap : INT; $(V)/ostiary-demo $(ARGS) || { status=$$?; [ $$status -eq 130 ] || exit $$status; }

test: packages .venv/.dev .venv/.hardware ## all tests, two at a time; ARGS="tests/unit -k chain" chooses
	@$(V)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.dev ## formatting, ruff, mypy --strict
	@$(V)/ruff format --check .
	@$(V)/ruff check .
	@$(V)/mypy

bench: packages .venv/.dev ## measure; ARGS="--help" lists the benchmarks
	@trap : INT; $(V)/python -m benchmarks $(ARGS)

chaos: packages .venv/.dev ## break things by seed: ARGS="--schedules 200 --seed 1 --real 0"
	@trap : INT; $(V)/python -m tests.chaos $(ARGS)

lock: .venv/.dev ## resolve the newest versions again and write requirements/
	@$(COMPILE) --all-build-deps -o requirements/runtime.txt pyproject.toml
	@$(COMPILE) --all-build-deps --extra gpio --extra hsm --extra dev -c requirements/runtime.txt \
		-o requirements/dev.txt pyproject.toml
	@printf 'gpiod; sys_platform == "linux"\npyscard\n' | $(COMPILE) -c requirements/dev.txt \
		-o requirements/hardware.txt -

clean: ## remove the environment and everything that was generated
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

packages: # programs from Debian that the tests drive: a broker, pcscd, a browser
	@PYTHON=$(PYTHON) .ci/packages

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Ostiary needs Python 3.11 or newer; $(PYTHON) is older or missing." \
		"Install one and say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; \
		exit 1; }
	@$(PYTHON) -m venv .venv

.venv/.runtime: requirements/runtime.txt pyproject.toml | .venv/bin/python
	@echo "Setting up .venv (once, about a minute) ..." >&2
	@$(PIP) install --require-hashes -r requirements/runtime.txt >&2
	@PYTHONWARNINGS=ignore $(PIP) install --no-deps --no-build-isolation --editable . >&2
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.runtime
	@echo "Adding the development tools to .venv (once) ..." >&2
	@$(PIP) install --require-hashes -r requirements/dev.txt >&2
	@touch $@

# pyscard has no wheel for Linux. Without what it is built with the tests that need it are skipped.
.venv/.hardware: requirements/hardware.txt .venv/.dev | packages
	@if command -v swig >/dev/null && [ -e /usr/include/PCSC/winscard.h ]; then \
		$(PIP) install --no-build-isolation --require-hashes -r requirements/hardware.txt >&2 && touch $@; \
	else \
		echo "No swig or PC/SC headers: pyscard is left out, and the PC/SC tests are skipped." >&2; \
	fi
