# `make demo` and `make test` do all of their set-up by themselves, as root, on Debian 12 and Ubuntu 22.04
# or later. V=1 shows the commands.
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench soak fuzz fuzz-merge lint format types man clean
.SUFFIXES:

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# "compat": the tree is on Python's path. By itself setuptools puts a finder there, 15 ms of every start.
EDITABLE := --config-settings editable_mode=compat --editable
PIP := PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
C_SOURCES := $(wildcard bpf/*.h bpf/*.c collector/lines.h collector/lines.c)
C_FORMATTED := $(C_SOURCES) $(wildcard tests/fuzz/*.h tests/fuzz/*.c tests/bench/bpf/*)
MINUTES := 10
ROUNDS := 10
ONLY :=
Q := $(if $(V),,@)

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## packages and the virtual environment, with `flowml` in .venv/bin

# The system's packages are visible in it: bcc comes from python3-bpfcc.
$(VENV)/.ready: pyproject.toml setup.py packaging/packages.sh collector/build_core.py $(C_SOURCES)
	$(Q)packaging/packages.sh run
	$(Q)test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(Q)$(PIP) install --quiet $(EDITABLE) .
	$(Q)touch $@

$(VENV)/.ready-to-test: $(VENV)/.ready tests/constraints.txt
	$(Q)packaging/packages.sh test
	$(Q)$(PIP) install --quiet --constraint tests/constraints.txt $(EDITABLE) '.[test,transformer]'
	$(Q)touch $@

demo: setup ## devices in namespaces, real TLS: collect, train, attach, predict
	$(Q)packaging/packages.sh demo
	$(Q)$(BIN)/python -m tests.demo

test: lint types ## everything that CI runs (as root; FLOWML_TRACES=DIR adds real captures)
	$(Q)$(BIN)/python -m pytest

bench: $(VENV)/.ready-to-test ## how fast, beside others, into docs/benchmarks.md (FLOWML_TRACES=DIR, ROUNDS=10, ONLY=)
	$(Q)packaging/packages.sh test bench
	$(Q)$(BIN)/python -m tests.bench --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY))

soak: $(VENV)/.ready-to-test ## MINUTES=10 of connections as fast as they go: flat memory, nothing unaccounted for
	$(Q)$(BIN)/python -m tests.soak $(MINUTES)

fuzz: $(VENV)/.ready-to-test ## hostile packets and files, MINUTES=10 long; what is found stays in tests/fuzz/findings
	$(Q)$(BIN)/python -m tests.fuzz.run $(MINUTES)

fuzz-merge: $(VENV)/.ready-to-test ## keep what fuzzing came by, if it reaches anything new
	$(Q)$(BIN)/python -m tests.fuzz.run merge

lint: $(VENV)/.ready-to-test ## ruff and clang-format
	$(Q)$(BIN)/ruff check --quiet .
	$(Q)$(BIN)/ruff format --quiet --check .
	$(Q)clang-format --dry-run --Werror $(C_FORMATTED)

format: $(VENV)/.ready-to-test ## rewrite the sources as lint wants them
	$(Q)$(BIN)/ruff check --quiet --fix .
	$(Q)$(BIN)/ruff format --quiet .
	$(Q)clang-format -i $(C_FORMATTED)

types: $(VENV)/.ready-to-test ## mypy, strict
	$(Q)$(BIN)/mypy --no-error-summary

man: setup ## the manual page, from the help texts
	$(Q)$(BIN)/python -m collector.manual > packaging/flowml.1

clean: ## forget the virtual environment and what was built
	$(Q)rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
