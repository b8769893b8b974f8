"""The workflows: pinned, with least permissions, and nothing in them that is not a make target."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config import plain_yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))}
PINNED = re.compile(r"^\s*(?:- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
STACK_GROUP = "stack-prod"
CREDENTIALS = "PULUMI_CONFIG_PASSPHRASE"
# Make expands what is given to it on its command line; nobody may choose that.
ARGUMENT = re.compile(r"(BASE|FILES|LOG|REVIEW)=[\w./-]+")
# What a token may do beside reading the repository, and where.
PERMISSIONS = {
    ("pull-request", "comment"): {"pull-requests": "write"},
    ("drift", "issue"): {"issues": "write"},
    ("updates", "merge"): {
        "actions": "read",
        "checks": "read",
        "contents": "write",
        "deployments": "read",
        "issues": "read",
        "pull-requests": "write",
    },
    ("updates", "decide"): {
        "actions": "read",
        "deployments": "read",
        "issues": "read",
        "pull-requests": "read",
    },
    ("updates", "note"): {"issues": "write", "pull-requests": "write"},
}
# Targets that read a stack with its credentials, by the environment that guards them.
ENVIRONMENTS = {
    ("pull-request", "preview"): "prod-preview",
    ("deploy", "plan"): "prod-plan",
    ("deploy", "up"): "prod",
    ("drift", "drift"): "prod-plan",
    ("updates", "plan"): "prod-plan",
    ("updates", "up"): "prod-updates",
}


@cache
def load(name: str) -> dict[Any, Any]:
    document: dict[Any, Any] = plain_yaml.read(WORKFLOWS[name].read_text(encoding="utf-8"))
    return document


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for workflow in WORKFLOWS:
        for name, job in load(workflow)["jobs"].items():
            yield workflow, name, job


def steps() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for workflow, name, job in jobs():
        for step in job["steps"]:
            yield workflow, name, step


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))


def not_a_make_target(command: str) -> str | None:
    """Say what is wrong with the command of a step."""
    words = shlex.split(command)
    if words[:1] != ["make"] or len(words) < 2:
        return "not `make TARGET`"
    for word in words[1:]:
        if word not in targets() and not ARGUMENT.fullmatch(word):
            return f"{word}: neither a target nor an argument that is known"
    return None


def test_there_are_the_five_workflows() -> None:
    assert set(WORKFLOWS) == {"pull-request", "deploy", "drift", "drill", "updates"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_commit_with_its_version(name: str) -> None:
    lines = WORKFLOWS[name].read_text(encoding="utf-8").splitlines()
    uses = [line for line in lines if re.match(r"\s*(- )?uses:", line)]
    assert uses
    assert [line for line in uses if not PINNED.match(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "      - uses: actions/checkout@v7",
        "      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1",
        "      - uses: actions/checkout@3d3c42e # v7.0.1",
        "      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # main",
    ],
)
def test_an_action_that_floats_is_found(line: str) -> None:
    assert not PINNED.match(line)


def test_one_action_has_one_version() -> None:
    used = {step["uses"] for _, _, step in steps() if "uses" in step}
    assert len({one.split("@")[0] for one in used}) == len(used)


def test_no_checkout_leaves_its_token_behind() -> None:
    checkouts = [one for *_, one in steps() if one.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(list(jobs()))
    assert all(one["with"]["persist-credentials"] is False for one in checkouts)


def test_every_step_is_a_make_target() -> None:
    commands = [(workflow, one["run"]) for workflow, _, one in steps() if "run" in one]
    assert len(commands) > 10
    wrong = [(*one, said) for one in commands if (said := not_a_make_target(one[1]))]
    assert wrong == []


@pytest.mark.parametrize(
    "command",
    [
        "pulumi up",
        "make",
        "make no-such-target",
        "make lint; pulumi up",
        "make review BASE=${{ github.base_ref }}",
        "make review BASE=$BASE",
        "make lint && true",
    ],
)
def test_a_step_that_is_no_make_target_is_found(command: str) -> None:
    assert not_a_make_target(command) is not None


def test_nothing_is_allowed_unless_a_job_says_so() -> None:
    assert [name for name in WORKFLOWS if load(name)["permissions"] != {}] == []
    for workflow, name, job in jobs():
        allowed = {"contents": "read"} | PERMISSIONS.get((workflow, name), {})
        assert job["permissions"] == allowed, (workflow, name)


def test_what_reads_production_writes_nothing_on_github() -> None:
    for workflow, name, job in jobs():
        if (workflow, name) in ENVIRONMENTS:
            assert job["permissions"] == {"contents": "read"}, (workflow, name)


def test_every_job_ends_and_names_the_status_that_it_reports() -> None:
    for workflow, name, job in jobs():
        assert 0 < job["timeout-minutes"] <= 240, (workflow, name)
        assert job["name"] == name, (workflow, name)


def test_what_changes_the_stack_runs_alone_and_is_never_cut_off() -> None:
    groups = {name: load(name)["concurrency"] for name in WORKFLOWS}
    for name in ("deploy", "drift"):
        assert groups[name] == {"group": STACK_GROUP, "cancel-in-progress": False}
    # A job's own group could let two through: but for the update's, which alone needs the lock.
    own = {
        (workflow, name): job["concurrency"]
        for workflow, name, job in jobs()
        if "concurrency" in job
    }
    assert own == {("updates", "up"): groups["deploy"]}
    deploying = {
        (workflow, name) for workflow, name, one in steps() if "apply-plan" in one.get("run", "")
    }
    assert deploying == {("deploy", "up"), ("updates", "up")}
    cut_off = {name for name, group in groups.items() if group["cancel-in-progress"] is not False}
    assert cut_off == {"pull-request"}


@pytest.mark.parametrize("workflow", ["deploy", "updates"])
def test_a_deployment_that_is_cut_off_leaves_no_lock(workflow: str) -> None:
    up = load(workflow)["jobs"]["up"]["steps"]
    runs = [(one.get("run"), one.get("if"), one.get("env")) for one in up if "run" in one]
    first = next(at for at, one in enumerate(runs) if one[0] != "make update-open")
    (applied, _, credentials), (last, condition, environment) = runs[first : first + 2]
    assert str(applied).startswith("make apply-plan")
    assert (last, condition) == ("make unlock", "${{ always() }}")
    assert environment == credentials, "it looks for the lock where the deployment took it"


def test_a_deployment_ends_with_a_copy_of_the_state_also_when_it_failed() -> None:
    up = load("deploy")["jobs"]["up"]["steps"]
    runs = [(one.get("run"), one.get("if"), one.get("env")) for one in up if "run" in one]
    assert runs[-1] == ("make keep-state", "${{ always() }}", runs[0][2])


def test_credentials_are_behind_the_environment_that_guards_them() -> None:
    found = {
        (workflow, name): job.get("environment")
        for workflow, name, job in jobs()
        if CREDENTIALS in json.dumps(job)
    }
    assert found == ENVIRONMENTS
    for workflow, name, job in jobs():
        self_hosted = "self-hosted" in job["runs-on"]
        assert self_hosted is ((workflow, name) in ENVIRONMENTS), (workflow, name)
        assert "secrets" not in json.dumps(job.get("env", {})), "only the step that needs it"


def test_a_fork_gets_no_credentials() -> None:
    assert set(load("pull-request")[True]) == {"pull_request"}, "not pull_request_target"
    condition = load("pull-request")["jobs"]["preview"]["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in condition
    assert "||" not in condition
    assert "vars.PROD_PREVIEW == 'true'" in condition


def test_what_deploys_is_on_main_only() -> None:
    for workflow, first in (("deploy", "plan"), ("drift", "drift"), ("updates", "merge")):
        assert "github.ref == 'refs/heads/main'" in load(workflow)["jobs"][first]["if"]
    assert load("deploy")["jobs"]["up"]["needs"] == "plan"
    assert load("deploy")[True]["push"] == {"branches": ["main"]}


def test_an_update_is_deployed_only_after_its_plan_was_decided_on() -> None:
    updates = load("updates")["jobs"]
    needs = {name: job.get("needs") for name, job in updates.items()}
    assert needs == {
        "merge": None,
        "plan": "merge",
        "decide": "plan",
        "up": "decide",
        "note": ["decide", "up"],
    }
    assert updates["plan"]["if"] == "needs.merge.outputs.due == 'true'"
    assert updates["up"]["if"] == "needs.decide.outputs.due == 'true'"
    (decided,) = (one["run"] for one in updates["decide"]["steps"] if "run" in one)
    assert decided == "make update-due REVIEW=.lab/out/preview-review.json"


def test_a_deployment_without_a_person_that_had_to_wait_looks_at_the_window_again() -> None:
    jobs = load("updates")["jobs"]
    looks, applies = [one for one in jobs["up"]["steps"] if "run" in one][:2]
    assert (looks["id"], looks["run"]) == ("window", "make update-open")
    assert "if" not in looks
    assert applies["run"].startswith("make apply-plan")
    assert "if" not in applies
    # Nothing was changed, so nothing stops the updates.
    assert jobs["up"]["outputs"] == {"closed": "${{ steps.window.outputs.closed }}"}
    assert "needs.up.outputs.closed != 'true'" in jobs["note"]["if"]


@pytest.mark.parametrize("workflow", ["deploy", "updates"])
def test_the_plan_that_is_carried_out_is_the_one_that_was_reviewed(workflow: str) -> None:
    plan, up = (load(workflow)["jobs"][name]["steps"] for name in ("plan", "up"))
    kept = [one["with"] for one in plan if "upload-artifact" in one.get("uses", "")]
    got = [one["with"] for one in up if "download-artifact" in one.get("uses", "")]
    assert [one["name"] for one in kept] == [one["name"] for one in got] == ["plan"]
    files = {".lab/out/plan.json", ".lab/out/plan-origin.json"}
    assert files <= set(kept[0]["path"].split())
    assert got[0]["path"] == ".lab/out"
    # What is hidden is not uploaded unless it is asked for.
    uploads = [one["with"] for *_, one in steps() if "upload-artifact" in one.get("uses", "")]
    assert all(one["include-hidden-files"] for one in uploads)
    missing = {one["name"]: one["if-no-files-found"] for one in uploads}
    # A deployment whose runner died leaves neither log nor report, and is told of all the same.
    assert {name for name, what in missing.items() if what != "error"} == {"up"}


def test_a_merge_waits_for_all_that_a_pull_request_reports() -> None:
    rules = json.loads((ROOT / ".github" / "rulesets" / "main.json").read_text("utf-8"))["rules"]
    (required,) = (one for one in rules if one["type"] == "required_status_checks")
    names = {one["context"] for one in required["parameters"]["required_status_checks"]}
    reported: Mapping[str, Any] = load("pull-request")["jobs"]
    assert names == {job["name"] for job in reported.values()}
