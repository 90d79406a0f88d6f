# Two commands do everything: `make run` and `make test`. No root is needed for either.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint demo bench faults system-test clean deps-system deps-vm

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q $(VENV)/lib boxlited >/dev/null 2>&1 || true
	touch $@

run: $(VENV)/.installed
	@$(BIN)/python -m boxlited.cli.run_dev

test: $(VENV)/.installed deps-system
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# systemd-analyze checks the units; where it cannot be installed those tests say so and skip.
deps-system:
	@command -v systemd-analyze >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends systemd >/dev/null; } || true

# A real machine: Debian in QEMU, systemd, the wheel, the units; reboots and power cuts (CUTS=20, SEED=). Says a line a step.
system-test: $(VENV)/.installed deps-vm
	$(BIN)/pytest -s -q tests/system

# Where these cannot be installed, the test says which are missing.
VM_TOOLS := qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs depmod:kmod lz4:lz4 cpio:cpio
deps-vm:
	@missing=; for tool in $(VM_TOOLS); do PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; done; \
	  [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; } || true

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

faults: $(VENV)/.installed
	$(BIN)/pytest tests/integration/test_faults_*.py

demo: $(VENV)/.installed
	@$(BIN)/python -m boxlited.cli.demo

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info
