# Every target makes .venv by itself when it is missing or older than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-whole test-slow test-gpu test-browser bench bench-smoke chaos fuzz check axe ui clean
FUZZ_S ?= 60
AXE := 4.14.1

demo: .venv/made
	$(BIN)/pressft demo

# in the order of collection: the longest files, each one test, would come last else
TESTS := $(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test: .venv/made
	$(TESTS)

test-whole: .venv/made
	$(BIN)/pytest -q -m whole

test-slow: .venv/made
	$(BIN)/pytest -q -m slow

test-gpu: .venv/made
	$(BIN)/pytest -q -m gpu

chaos: .venv/made
	$(BIN)/python tests/chaos.py
	$(BIN)/python tests/chaos.py --crowd

fuzz: .venv/made
	$(BIN)/python -m pip install --quiet 'atheris>=3.0'
	$(BIN)/python tests/crawler/fuzz.py -max_total_time=$(FUZZ_S) -timeout=25 \
		-rss_limit_mb=3000 "$$(mktemp -d)" tests/crawler/recorded

check: .venv/made
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TESTS)

bench: .venv/made
	$(BIN)/python benchmarks/step.py --model smollm2-135m --rounds 3
	$(BIN)/python benchmarks/scan.py --model smollm2-135m --corpus wikipedia --rounds 3
	$(BIN)/python benchmarks/study.py --rounds 3
	$(BIN)/python benchmarks/overhead.py --trials 2 --slow-s 1 --rounds 1
	$(BIN)/python benchmarks/workers.py --workers 1 4 16 --wait 2 --trials 10000 --rounds 1
	$(BIN)/python benchmarks/crawl.py --articles 100 1000
	$(BIN)/python benchmarks/corpus.py --megabytes 100 --model smollm2-135m

bench-smoke: .venv/made
	$(BIN)/pytest -q -n 2 -m bench

test-browser: .venv/made
	$(BIN)/pytest -q -m browser

axe: .venv/axe.min.js  # which finds faults of accessibility in tests/test_browser.py

.venv/axe.min.js: .venv/made
	cd .venv && npm pack --silent axe-core@$(AXE)
	tar -xzmf .venv/axe-core-$(AXE).tgz -C .venv --strip-components 1 package/axe.min.js

ui: .venv/made
	$(BIN)/pressft ui

clean:
	rm -rf .venv build *.egg-info

.venv/made: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pressft needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing into .venv: about 2 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
