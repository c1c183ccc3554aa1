# `make sweep` and `make test` need nothing but Python >= 3.11 and this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torchvision must match torch: both come from the index in one resolution.
STAMP := $(VENV)/installed

.PHONY: sweep test install dist docs docs-version clean

sweep: $(STAMP)
	$(BIN)/fastface-tuner sweep search_spaces/fastface.yaml --data synthetic --trials 8

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

install: $(STAMP)

dist: $(STAMP)
	$(BIN)/python -m hatchling build

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

# Adds the pages of the installed version to the branch gh-pages, beside those of earlier versions; pushes nothing.
docs-version: $(STAMP)
	$(BIN)/mike deploy --update-aliases $$($(BIN)/python -m hatchling version) latest
	$(BIN)/mike set-default latest

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python >= 3.11 is needed, but $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist site
