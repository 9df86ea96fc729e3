# make demo   shows a worker process execute tasks that another process sends (BROKER=redis://... elsewhere than in SQLite)
# make test   sets up all it needs, then lint, types, layers and every test
# make faults the long fault and soak runs      make bench  the benchmark tables      make bench-peers  beside others on Redis
#                                       make bench-peers-rabbitmq  beside others on RabbitMQ
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test lint tests faults bench bench-peers bench-peers-rabbitmq servers clean

help:
	@sed -n 's/^# //p' Makefile

$(BIN)/python:
	tools/make-venv $(VENV)

# The stamps are remade when the dependencies change; pip does nothing for what is there already.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python tools/install_groups.py test lint interop
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/.installed
	$(BIN)/python tools/install_groups.py bench
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python examples/quickstart/demo.py $(BROKER)

servers:
	@tools/need-servers

test: $(VENV)/.installed-dev servers lint tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# By files: each has servers and runs of its own, which are started once then.
tests: $(VENV)/.installed-dev
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not long"

faults: $(VENV)/.installed-dev servers
	$(BIN)/pytest -s tests/faults

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.installed servers
	$(BIN)/python -m benchmarks.peers

bench-peers-rabbitmq: $(VENV)/.installed servers
	$(BIN)/python -m benchmarks.peers --broker rabbitmq

clean:
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis
