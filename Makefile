# Each target sets up all it needs in .venv; Python 3.11 or newer is the only requirement.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test sanitize check format bench clean

demo: $(INSTALLED)
	$(BIN)/prunella demo

test: $(INSTALLED)-test
	$(BIN)/python -m pytest -n logical --dist loadfile

# The native engine's tests, with sanitizers for memory, undefined behaviour and races: minutes, and needs GCC.
sanitize: $(INSTALLED)-test
	$(PIP) cmake "nanobind>=3.1,<4"
	$(BIN)/python tests/native/sanitize.py address
	$(BIN)/python tests/native/sanitize.py thread

check: $(INSTALLED)-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright

format: $(INSTALLED)-dev
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

# torch first and by itself: the pinned build, before anything else asks for a newer one.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[train]"
	touch $@

$(INSTALLED)-test: $(INSTALLED)
	$(PIP) --editable ".[train,test]"
	touch $@

$(INSTALLED)-dev: $(INSTALLED)-test
	$(PIP) --editable ".[train,test,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo-run .pytest_cache .ruff_cache .hypothesis
