# Zero Fleet. `make` alone lists what there is.
SHELL := /bin/sh
PY := .venv/bin/python
export PYTHONDONTWRITEBYTECODE =

.PHONY: help setup up down clean status logs password demo test soak bench lint

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## the virtual environment, from the lock file
	@PYTHON='$(PYTHON)' deployments/one_machine/setup.sh

demo: setup ## everything, on this machine, with stand-ins for what cannot be had offline
	@$(PY) -m deployments.one_machine demo

up: setup ## the stack alone, with the settings of .env (OVERWRITE=1: they win over what was edited in the UI)
	@$(PY) -m deployments.one_machine up $(if $(OVERWRITE),--overwrite)

down: setup ## stop it; data and containers stay
	@$(PY) -m deployments.one_machine down

status: setup ## what runs and where
	@$(PY) -m deployments.one_machine status

logs: setup ## the last lines of every log (F=1: go on showing)
	@$(PY) -m deployments.one_machine logs $(if $(F),--follow)

password: setup ## the auth string that the Prefect UI asks for
	@$(PY) -m deployments.one_machine password

clean: setup ## stop it and delete everything that it made (CONFIRM=<fleet id> when there are clients of your own)
	@$(PY) -m deployments.one_machine clean $(if $(CONFIRM),--confirm $(CONFIRM))
	@if $(PY) -m deployments.one_machine idle; then rm -rf .venv; fi
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

lint: setup ## ruff, the type checker, the arrows
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

test: setup lint ## all tests, on real parts, in two processes (T=<path>: only those, in one)
	@$(PY) -m pytest $(if $(T),$(T),-n 2 --dist loadscope)

soak: setup ## the fault and concurrency tests with their full counts
	@$(PY) -m pytest --soak -m soak $(T)

bench: setup ## the figures (AREA=clients|health|gmail|backups)
	@$(PY) -m tests.bench $(AREA)
