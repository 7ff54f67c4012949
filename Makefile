# `make help` lists the targets. GNU make, a POSIX shell, Python 3.10 to 3.12.

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
WORKERS ?= 2

SHELL := /bin/sh
BIN := $(VENV)/bin
STAMP := $(VENV)/.nnunetv2_mastpro-installed
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder --durations=10 --cov=nnunetv2_mastpro --cov-report=term --cov-fail-under=85

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint install clean

help:
	@echo "make demo      install, then make a phantom data set, train, predict and show the result in $(OUT)/"
	@echo "make test      install, then run the quick tests; fails under 85 % coverage"
	@echo "make test-all  install, then run every test, the slow ones too"
	@echo "make lint      install, then run ruff"
	@echo "make install   make $(VENV) if absent and install the package into it, editable"
	@echo "make clean     remove demo/, build/ and caches; the environment stays (rm -r .venv)"
	@echo
	@echo "PYTHON=python3.11    the interpreter that makes the environment (now: $(PYTHON))"
	@echo "VENV=/path/to/env    the environment to use; made if absent (now: $(VENV))"
	@echo "OUT=folder           where make demo writes (now: $(OUT))"
	@echo "WORKERS=n            tests run in so many processes (now: $(WORKERS))"

demo: $(STAMP)
	@echo "[mastpro] demo: phantom data, training, prediction; 4 to 11 minutes on 2 idle cores"
	@$(BIN)/mastpro demo -o "$(OUT)"

test: $(STAMP)
	@echo "[mastpro] quick tests, 6 to 30 minutes on 2 cores"
	@$(PYTEST) -m "not slow" --timeout=600

test-all: $(STAMP)
	@echo "[mastpro] all tests, the slow matrix too"
	@$(PYTEST) --timeout=1800

lint: $(STAMP)
	@echo "[mastpro] ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

install: $(STAMP)
	@echo "[mastpro] installed in $(VENV)"

# Again when the metadata changed, or when the environment was last installed from another checkout.
ifneq ($(shell cat "$(STAMP)" 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
$(STAMP): setup.cfg pyproject.toml | $(BIN)/python
	@$(BIN)/python -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))" || { \
	  echo "[mastpro] $(VENV) has `$(BIN)/python -V 2>&1`, not Python 3.10 to 3.12;" \
	    "remove it or name another one: make VENV=/path/to/env" >&2; exit 1; }
	@echo "[mastpro] installing into $(VENV); torch is a large download: about 4 minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@printf '%s\n' "$(CURDIR)" > "$@"

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "[mastpro] no $(PYTHON) here; apt install python3 python3-venv, or name one: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))" || { \
	  echo "[mastpro] $(PYTHON) is `$(PYTHON) -V 2>&1`, not Python 3.10 to 3.12; name another one: make PYTHON=python3.11" >&2; \
	  exit 1; }
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "[mastpro] $(PYTHON) cannot make environments; apt install python3-venv (or the one of your version)" >&2; exit 1; }
	@echo "[mastpro] making the environment $(VENV) with `$(PYTHON) -V 2>&1`"
	@"$(PYTHON)" -m venv "$(VENV)"

clean:
	@echo "[mastpro] removing demo/, build/, dist/ and caches"
	@rm -rf build dist demo .pytest_cache .ruff_cache .coverage .coverage.* *.egg-info
	@find nnunetv2_mastpro trainers tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
