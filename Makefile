# What a person types. `make help` lists it; ARGS goes on to ansible-playbook: make deploy ARGS='--check --diff'
.POSIX:
.SUFFIXES:

ARGS =
N =
SEED =
FROM =
BENCH =
SCENARIOS =
SCALE = 0.1
ROLE = $(GEERLINGGUY_ROLE)
CHECK = .venv/bin/python scripts/check.py

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1	/p' Makefile | expand -t 14

.PHONY: deploy
deploy: setup ## the registry's database on staging, then on production
	@scripts/play deploy.yml $(ARGS)

.PHONY: status
status: setup ## where each database stands
	@scripts/play playbooks/status.yml $(ARGS)

.PHONY: rollback
rollback: setup ## back to a version: make rollback ARGS='-e migrations_version=20240101000001'
	@scripts/play playbooks/rollback.yml $(ARGS)

.PHONY: stairway
stairway: setup ## prove on staging that every migration can be taken back, in a database made for that
	@scripts/play playbooks/stairway.yml $(ARGS)

.PHONY: backup
backup: setup ## archiving and scheduled backups are on, and one is taken now
	@scripts/play playbooks/backup.yml $(ARGS)

.PHONY: restore
restore: setup ## a cluster comes back, beside the running one: make restore ARGS='--limit production'
	@scripts/play playbooks/restore.yml $(ARGS)

.PHONY: maintenance
maintenance: setup ## retention, VACUUM, ANALYZE, REINDEX, as far as there is anything to do
	@scripts/play playbooks/maintenance.yml $(ARGS)

.PHONY: report
report: setup ## how each database does: sizes, indexes, slow statements, jobs, locks
	@scripts/play playbooks/report.yml $(ARGS)

.PHONY: setup
setup: ## what the commands above need: .venv and .ansible, made once
	@scripts/setup

.PHONY: test
test: setup-tests ## every check
	@$(CHECK)

.PHONY: lint
lint: setup-tests ## style, types, and that what is said twice is the same
	@$(CHECK) lint

.PHONY: sanity
sanity: setup-tests ## ansible-test sanity
	@$(CHECK) sanity

.PHONY: docs-lint
docs-lint: setup-tests ## the documentation and the changelog
	@$(CHECK) docs-lint

.PHONY: unit
unit: setup-tests ## unit tests
	@$(CHECK) unit

.PHONY: integration
integration: setup-tests ## tests against PostgreSQL servers of their own
	@$(CHECK) integration

.PHONY: faults
faults: setup-tests ## kill runs at every step: make faults N=1000 SEED=7
	@$(CHECK) --install faults
	@N=$(N) SEED=$(SEED) FROM=$(FROM) .venv/bin/pytest tests/faults

.PHONY: interop
interop: setup-tests ## with real sqlx, of four versions and as a library
	@SQLX_VERSIONS="$${SQLX_VERSIONS:-0.6.3 0.7.4 0.8.6 0.9.0}" $(CHECK) interop

.PHONY: acceptance
acceptance: setup-tests ## `make deploy` and all that follows on fresh Debian machines, in containers
	@$(CHECK) machines

.PHONY: molecule
molecule: setup-tests ## the scenarios of molecule/ on hosts in containers: make molecule SCENARIOS='default many'
	@SCENARIOS="$(SCENARIOS)" $(CHECK) molecule

.PHONY: bench
bench: setup-tests ## measure speed: docs/benchmarks.md; BENCH=--help lists what there is to choose
	@$(CHECK) --install integration
	@GEERLINGGUY_ROLE="$(ROLE)" PYTHONPATH=.ansible/collections:tests:tests/machines .venv/bin/python tests/benchmarks/bench.py $(BENCH)

.PHONY: bench-schema
bench-schema: setup-tests ## measure the registry's SQL on a filled one: SCALE=1 is the full size; docs/schema-performance.md
	@$(CHECK) --install integration
	@PYTHONPATH=tests .venv/bin/python tests/benchmarks/schema.py --scale $(SCALE) $(BENCH)

.PHONY: schema-docs
schema-docs: setup-tests ## write docs/schema.md from the catalogue of a migrated database
	@.venv/bin/python scripts/schema_docs.py

.PHONY: setup-tests
setup-tests:
	@scripts/setup tests

.PHONY: build
build: setup ## the collection's tarball
	@.venv/bin/ansible-galaxy collection build --force

.PHONY: clean
clean: ## take away what make set up
	rm -rf .venv .ansible tests/output
