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
# Nobody debugs these programs, and without what debuggers read they are compiled in nine tenths of the time. For all
# commands of Go, so that they share what is compiled (lab/internal/programs says the same).
export GOFLAGS := -gcflags=all=-dwarf=false
# Go's compiler collects less garbage: a sixth of its processor time (docs/figures.md).
COMPILING := GOGC=400

# Python keeps what it has compiled, also where a container says that it is not to: else every command compiles the
# project anew, and each worker of the tests all of the tests.
export PYTHONDONTWRITEBYTECODE :=

# Where a run leaves its reports, its preview and its plan.
OUT ?= .lab/out

.PHONY: help setup build upgrades omnictl watching releases-lock lab drill lab-shell test unit lint python-lint go-lint types format go-test go-lab-test \
	lab-test bench clean render render-diff chart-facts review reach drift workflows-lint namespaces preview explain apply-plan \
	unlock keep-state repair destroy drill-backup kills campaigns summary comment drift-report drift-issue \
	update-merge update-due update-open update-note

# What `make help` shows together. What a target does stands behind its `##`.
define HELP_GROUPS
First minutes: help namespaces setup build upgrades omnictl watching lab lab-shell clean
The platform: reach review preview explain apply-plan drift render render-diff chart-facts releases-lock
Recovery: unlock keep-state repair destroy
Rehearsals: drill drill-backup kills campaigns bench
Checks: test lint python-lint go-lint workflows-lint types unit go-test go-lab-test lab-test format
Workflows: summary comment drift-report drift-issue update-merge update-due update-open update-note
endef
export HELP_GROUPS

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' $(MAKEFILE_LIST) |
		sed 's|\$$(STACK_FILE)|$(STACK_FILE)|; s|\$$(OUT)|$(OUT)|' |
		awk -F '\t' '
			{ text[$$1] = $$2 }
			END {
				groups = split(ENVIRON["HELP_GROUPS"], group, "\n")
				for (g = 1; g <= groups; g++) {
					split(group[g], title, ": ")
					print (g > 1 ? "\n" : "") title[1]
					names = split(title[2], name, " ")
					for (n = 1; n <= names; n++) {
						line = sprintf("  %-14s", name[n])
						words = split(text[name[n]], word, " ")
						for (w = 1; w <= words; w++) {
							if (length(line " " word[w]) > 80) {
								print line
								line = sprintf("%16s", "")
							}
							line = line " " word[w]
						}
						print line
					}
				}
			}'

setup: ## uv, the virtual environment and Go, from the package registries
	@mkdir -p $(BIN)
	./setup.sh > .lab/go-path

# Where programs come from: as LAB_BUILD says, else as the last time (lab/internal/programs/releases.go).
takes_releases = [ "$${LAB_BUILD:-$$(cat $(BIN)/.source 2> /dev/null || echo compiled)}" != compiled ]

build: setup ## the lab and the real programs it runs (cached); LAB_BUILD=releases: the vendors' own, minutes sooner; LAB_PROGRAMS=simulated: without those of pods
	@export GO=$$(tail -n 1 .lab/go-path)
	echo "building the lab" >&2
	if $(takes_releases); then
		$(COMPILING) "$$GO" build -C lab -o ../$(BIN)/releases ./cmd/releases
		# The files come while the lab is compiled.
		$(COMPILING) "$$GO" build -C lab -o ../$(BIN)/lab ./cmd/lab & compiling=$$!
		trap 'kill $$compiling 2> /dev/null || true' EXIT
		$(BIN)/releases
		wait $$compiling
		trap - EXIT
	else
		$(COMPILING) "$$GO" build -C lab -o ../$(BIN)/lab ./cmd/lab
	fi
	$(BIN)/lab build

upgrades: build ## the Kubernetes releases that the campaigns upgrade to
	@export GO=$$(tail -n 1 .lab/go-path)
	if $(takes_releases); then $(BIN)/releases --upgrades; fi
	$(BIN)/lab build --upgrades

omnictl: build ## the command line of Sidero Omni, for clusters that it manages
	@export GO=$$(tail -n 1 .lab/go-path)
	if $(takes_releases); then $(BIN)/releases --omni; fi
	$(BIN)/lab build --omni

watching: build ## the programs that watch the platform: metrics, alerts, logs; without them their pods are simulated
	@if [ "$${LAB_PROGRAMS:-real}" = simulated ]; then exit; fi
	export GO=$$(tail -n 1 .lab/go-path)
	if $(takes_releases); then $(BIN)/releases --watching; fi
	$(BIN)/lab build --watching

releases-lock: setup ## write lab/releases.lock: the digests of all vendors' releases, from their own files
	@export GO=$$(tail -n 1 .lab/go-path)
	$(COMPILING) "$$GO" build -C lab -o ../$(BIN)/releases ./cmd/releases
	$(BIN)/releases --lock

# Go's collector takes a tenth of a world's processor time; memory instead, up to 6 GiB a world.
IN_WORLDS := GOGC=300

lab: watching ## the whole life of $(STACK_FILE) in the lab: up, look, preview, destroy; LAB_PROGRAMS=simulated: quicker
	@$(IN_WORLDS) $(BIN)/lab run --stack-file $(STACK_FILE) --out $(OUT) -- python -m ops rehearse

# What these look at is not what runs in pods.
drill drill-backup kills review go-test render render-diff chart-facts: export LAB_PROGRAMS ?= simulated

drill: build ## the fire drill in the lab: up, destroy, up, everything as before
	@$(IN_WORLDS) $(BIN)/lab run --stack-file $(STACK_FILE) --out $(OUT) -- python -m ops rehearse drill

drill-backup: build ## try a backup in the lab: restore it, count what came back; PRODUCTION=1: the newest of the real stack
	@$(if $(PRODUCTION),$(PYTHON) -m ops rehearse backup --production,$(IN_WORLDS) $(BIN)/lab run --stack-file $(STACK_FILE) --out $(OUT) -- python -m ops rehearse backup)

SEED ?=
KINDS ?= up,destroy,refresh,import,plan
KILLS ?= 40
WORLDS ?= 1

kills: build ## kill the engine's commands on $(STACK_FILE) at random moments in the lab, and run them again: KILLS=40 KINDS=up,destroy WORLDS=2 SEED=1
	@$(IN_WORLDS) $(PYTHON) -m ops rehearse kills --stack-file $(STACK_FILE) --kills $(KILLS) --kinds $(KINDS) --worlds $(WORLDS) $(if $(SEED),--seed $(SEED)) --out $(OUT)/kills.json

BASE ?= origin/main

review: build ## what this tree does to the platform that BASE built, in the lab: BASE=origin/main
	@$(IN_WORLDS) $(PYTHON) -m ops rehearse review $(BASE)

reach: setup ## what $(STACK_FILE) needs from its site, tried from here: vCenter, repositories, DNS, free addresses
	@$(PYTHON) -m ops check --reach $(STACK_FILE)

drift: setup ## what was changed without the stack, and who owns it (`Error 3` when something was)
	@mkdir -p $(OUT)
	$(PYTHON) -m ops drift --markdown $(OUT)/drift.md --json $(OUT)/drift.json

# A world that runs has its stack file already.
JOIN ?=
shell_flags = $(if $(JOIN),--join $(if $(filter command environment,$(firstword $(origin STACK_FILE))),--stack-file $(STACK_FILE)),--stack-file $(STACK_FILE))

lab-shell: build ## a shell in a world of its own, for work by hand; JOIN=1: in the one that runs
	@exec env $(IN_WORLDS) $(BIN)/lab shell $(shell_flags)

test: setup ## everything: format, lint, types, unit, Go, and the lab end to end
	@echo "the build and the checks of Python: a first build takes 20 minutes, and tells its steps when it is done" >&2
	# A build leaves processors idle where it links.
	$(MAKE) --jobs=2 --output-sync=target build types unit python-lint
	# The machines' Go tests wait for the clocks of Talos and etcd, and leave two processors to the others.
	$(MAKE) --jobs=3 --output-sync=target go-lab-test go-lint go-test workflows-lint
	$(MAKE) lab-test

lint: python-lint go-lint ## format, lint, spelling, imports, the Go code, the settings, what the charts render

python-lint: setup ## lint without the Go code
	@$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	.venv/bin/codespell
	.venv/bin/codespell --dictionary docs/words.txt $$(git ls-files '*.md' '*.py')
	.venv/bin/lint-imports --no-cache
	$(PYTHON) -m ops check Pulumi.prod.yaml
	$(PYTHON) -m ops render check

# The first run reads all that the lab stands on: five minutes of processor time, and three to build the linter; the next
# ones read what has changed. The collector works for its memory: other jobs run beside it.
go-lint: setup ## the lab's Go code: golangci-lint, with the rules in lab/.golangci.yml (cached)
	@go=$$(tail -n 1 .lab/go-path)
	$(COMPILING) "$$go" build -C lab/tools/golangci-lint -ldflags="-s -w" -o ../../../$(BIN)/golangci-lint \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	cd lab
	PATH=$$(dirname "$$go"):$$PATH GOGC=50 ../$(BIN)/golangci-lint run --concurrency 2

workflows-lint: setup ## the workflows of GitHub Actions: actionlint and zizmor
	@go=$$(tail -n 1 .lab/go-path)
	$(COMPILING) "$$go" build -C lab/tools/actionlint -o ../../../$(BIN)/actionlint \
		github.com/rhysd/actionlint/cmd/actionlint
	$(BIN)/actionlint
	.venv/bin/zizmor --offline --persona=pedantic --strict-collection .github

types: setup ## the types, with mypy
	@$(PYTHON) -m mypy .

unit: setup ## the quick tests (seconds)
	@$(PYTHON) -m pytest tests/unit --numprocesses auto --dist loadfile

go-test: build ## vet and test the lab's Go code, without what go-lab-test does
	@go=$$(tail -n 1 .lab/go-path)
	unformatted=$$("$$("$$go" env GOROOT)/bin/gofmt" -l lab)
	test -z "$$unformatted" || { echo "not formatted: $$unformatted" >&2; exit 1; }
	cd lab
	$(COMPILING) "$$go" vet -tags lab ./...
	# More packages at a time than processors: most of a test is waiting.
	$(COMPILING) "$$go" test -vet=off -p 4 -ldflags="-s -w" ./...

# Each in namespaces of its own, so all at once: they wait for clocks. The storage for backups needs none.
go-lab-test: build ## the Go tests of the lab's machines, of its Kubernetes plugin and of its storage, with the real programs
	@go=$$(tail -n 1 .lab/go-path)
	export LAB_BIN=$(CURDIR)/$(BIN) $(COMPILING)
	cd lab
	"$$go" test -tags=lab -vet=off -count=1 -p 4 -ldflags="-s -w" \
		./internal/machine ./internal/machine/pods ./internal/plugins/kubernetesplugin ./internal/storage

# Worlds at a time: a third one leaves two processors nothing to wait for, and all are slower.
LAB_WORKERS ?= 2

lab_pytest = $(IN_WORLDS) $(PYTHON) -m pytest --numprocesses $(LAB_WORKERS) --dist loadfile --no-loadscope-reorder

lab-test: build ## the lab end to end (minutes), without its campaigns
	@$(lab_pytest) tests/lab -m "not campaign"

campaigns: upgrades omnictl watching ## what `make test` leaves to the weekly drill: more killed runs, upgrades of Kubernetes, slow pages
	@$(lab_pytest) tests/lab -m campaign

render: build ## what CHART renders with our values; without CHART, all of them
	@$(PYTHON) -m ops render --stack-file $(STACK_FILE) show $(CHART)

render-diff: build ## what an upgrade would change: CHART=traefik TO=39.1.0
	@$(if $(and $(CHART),$(TO)),,$(error say which: make render-diff CHART=traefik TO=39.1.0))
	$(PYTHON) -m ops render --stack-file $(STACK_FILE) diff $(CHART) $(TO)

chart-facts: build ## renew ops/render/charts, what each chart accepts, from the real packages
	@$(PYTHON) -m ops render --stack-file $(STACK_FILE) renew

# What the workflows in .github/workflows run; each works in `make lab-shell` too. PULUMI_STACK
# names the stack; docs/workflows.md says what else they need.

preview: setup ## preview the stack and keep preview and plan in $(OUT)
	@$(PYTHON) -m ops preview --out $(OUT)

explain: setup ## review that preview: what would happen, to whom
	@code=0
	$(PYTHON) -m ops review $(OUT)/preview.json --markdown $(OUT)/preview.md \
		--json $(OUT)/preview-review.json || code=$$?
	# 0 and the tens are verdicts; they are for people to judge.
	case $$code in 0 | [1-9]0) ;; *) exit $$code ;; esac

LOG ?=

apply-plan: setup ## carry out exactly the plan in $(OUT); a stale one is refused (LOG=FILE: kept there too)
	@$(if $(LOG),,exec) $(PYTHON) -m ops apply --out $(OUT) $(if $(LOG),2>&1 | tee $(LOG))

unlock: setup ## free the stack's lock, if the `make apply-plan` of this folder was lost and left it
	@$(PYTHON) -m ops unlock --out $(OUT)

YES ?=

keep-state: setup ## store a copy of the stack's state, encrypted, beside the backups of etcd
	@$(PYTHON) -m ops restore keep

repair: setup ## after a killed run: what it left in vCenter and in the state is told, and removed (YES=1: without asking)
	@$(PYTHON) -m ops repair $(if $(YES),--yes)

destroy: setup ## delete all but what is protected, whatever a killed run left (YES=1: without asking)
	@exec $(PYTHON) -m ops destroy $(if $(YES),--yes)

summary: setup ## append FILES to the summary of the workflow's job
	@$(PYTHON) -m ops report summary $(FILES)

comment: setup ## make or update the one comment of the pull request
	@$(PYTHON) -m ops report pull-request --lab $(OUT)/review.md --prod $(OUT)/prod/preview.md

drift-report: setup ## look for drift, and keep report and exit code in $(OUT)
	@mkdir -p $(OUT)
	code=0
	$(PYTHON) -m ops drift --markdown $(OUT)/drift.md --json $(OUT)/drift.json || code=$$?
	echo $$code > $(OUT)/drift.code
	# Drift that is found is a report, not a failure.
	case $$code in 0 | 3) ;; *) exit $$code ;; esac

drift-issue: setup ## open, update or close the one issue about drift
	@$(PYTHON) -m ops report drift --report $(OUT)/drift.md --code $(OUT)/drift.code

update-merge: setup ## merge the new versions that need no person, as platform:updates says
	@$(PYTHON) -m ops update merge

REVIEW ?=

update-due: setup ## whether what is merged is to be deployed now, without a person (REVIEW=FILE: by its plan's review)
	@mkdir -p $(OUT)
	code=0
	$(PYTHON) -m ops update due --out $(OUT)/due.json $(if $(REVIEW),--review $(REVIEW)) || code=$$?
	# That nothing is due is no failure.
	case $$code in 0 | 3) ;; *) exit $$code ;; esac

update-open: setup ## refuse a deployment without a person that begins outside of the window
	@$(PYTHON) -m ops update open

update-note: setup ## write on GitHub how that deployment ended (RESULT); one that failed stops the updates
	@$(PYTHON) -m ops update note --due $(OUT)/due.json --result "$$RESULT" \
		--log $(OUT)/up.log --drift $(OUT)/drift.md

namespaces: ## let everybody make namespaces, which the lab needs and Ubuntu forbids (asks for root)
	@key=kernel.apparmor_restrict_unprivileged_userns
	if [ "$$(sysctl -n $$key 2> /dev/null || echo 0)" = 1 ]; then sudo sysctl -w $$key=0; fi

BENCH ?=

bench: build ## measure, and write .lab/bench.json and docs/speed.md: BENCH="--only life --lives 1"
	@$(IN_WORLDS) $(PYTHON) -m ops rehearse bench .lab/bench.json --page docs/speed.md $(BENCH)

format: setup ## format the code
	@$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
	"$$("$$(tail -n 1 .lab/go-path)" env GOROOT)/bin/gofmt" -w lab

clean: ## remove all that the project made
	rm -rf .lab .venv
