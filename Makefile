# Two commands do everything: `make run` and `make test`. No root is needed for either.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint demo bench faults soak fuzz clean system-test deps-system deps-faults deps-vm

# Tests wait more than they compute: two files at a time for each core.
JOBS ?= $(shell echo $$((2 * $$(nproc))))
SEED ?= 1
MINUTES ?= 1

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' --config-settings editable_mode=compat
	$(BIN)/python -m compileall -q $(VENV)/lib boxlited >/dev/null 2>&1 || true
	touch $@

run: $(VENV)/.installed
	@$(BIN)/python -m boxlited.cli.run_dev

test: $(VENV)/.installed deps-system
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder

# systemd-analyze checks the units, Chromium shows the page; where they cannot be installed those tests say so and skip.
deps-system:
	@missing=; command -v systemd-analyze >/dev/null || missing=systemd; \
	  { command -v chromium && command -v chromedriver; } >/dev/null || missing="$$missing chromium chromium-driver"; \
	  [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	  && for package in $$missing; do apt-get install -qq -y --no-install-recommends $$package >/dev/null || true; done; } || true

# A real machine: Debian in QEMU, systemd, the wheel, the units; reboots and power cuts (CUTS=20, SEED=). Says a line a step.
SYSTEM ?= tests/system
system-test: $(VENV)/.installed deps-vm
	TMPDIR=$${TMPDIR:-/var/tmp} $(BIN)/pytest -s -q $(SYSTEM)

# Where these cannot be installed, the test says which are missing.
VM_TOOLS := qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs depmod:kmod lz4:lz4 cpio:cpio
deps-vm:
	@missing=; for tool in $(VM_TOOLS); do PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; done; \
	  [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; } || true

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# Every critical call and every named point of every operation, cut one at a time; then all at once, for MINUTES, from SEED.
faults: $(VENV)/.installed deps-faults
	$(BIN)/pytest -q -s tests/faults --seed=$(SEED) --minutes=$(MINUTES)
	BOXLITED_EVERY_CASE=1 $(BIN)/pytest -q tests/integration/test_faults_*.py tests/integration/test_hostile_*.py
	BOXLITED_MODEL_EXAMPLES=20 BOXLITED_MODEL_STEPS=25 $(BIN)/pytest -q tests/integration/test_model_of_a_life.py

soak: $(VENV)/.installed deps-faults
	$(BIN)/pytest -q -s tests/faults/test_soak.py --seed=$(SEED) --minutes=$(MINUTES)

deps-faults:
	@command -v strace >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends strace >/dev/null; } \
	  || { echo "strace is needed: install it (apt install strace)" >&2; exit 1; }

# Each target in turn, SECONDS each; stops at the first finding, which lies in tests/fuzz/findings.
SECONDS ?= 60
TARGETS ?= $(patsubst tests/fuzz/targets/%.py,%,$(filter-out %/__init__.py,$(wildcard tests/fuzz/targets/*.py)))
fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@for target in $(TARGETS); do echo "== $$target"; $(BIN)/python -m tests.fuzz.run $$target -max_total_time=$(SECONDS) -verbosity=0 || exit 1; done

demo: $(VENV)/.installed
	@$(BIN)/python -m boxlited.cli.demo

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info
