PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo speed wasm docs test lint

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with everything installed (about 6 GB)

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup ## simulate a compressor, learn it in a minute or two, write a page to hear and see it on
	$(BIN)/python -m klann_lightning simulate compressor data --seconds 60
	$(BIN)/python -m klann_lightning fit --config sweeps/demo.yaml --trainer.max_epochs=120
	$(BIN)/python -m klann_lightning report runs/demo-report runs/demo

speed: setup ## measure this machine, and write docs/speed.md
	$(BIN)/python -m klann_lightning bench --json docs/speed.json --markdown docs/speed.md

# By Debian 12's clang, with its packages lld, libc++-dev-wasm32 and libclang-rt-dev-wasm32
WASM := clang++ --target=wasm32-wasi -std=c++17 -O3 -msimd128 -fno-exceptions -fno-rtti -mexec-model=reactor \
	-Wall -Wextra -Wl,--strip-all
WASM_FILE := klann.wasm

wasm: ## build the runtime that the report's page plays files by
	cd klann_lightning/runtime && $(WASM) \
	-DKLANN_SOURCE="\"$$(cat klann.hpp klann_wasm.cpp | sha256sum | cut -c 1-64)\"" klann_wasm.cpp -o $(WASM_FILE) && chmod 644 $(WASM_FILE)

docs: setup ## build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: setup lint ## lint, then all tests, two at a time; no GPU and no network needed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
