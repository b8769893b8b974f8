"""Argo CD tells GitHub what became of each commit, as a GitHub App."""

from __future__ import annotations

import json

from ops.rehearsal.world import World, wait_until
from tests.lab.real_programs.argocd import HOST, NAMESPACE, Repository
from tests.lab.real_programs.cluster import Object, kinds

API = "https://api.github.com/repos/example/platform/commits"
CLUSTER = "prod"


def statuses(world: World, commit: str) -> dict[str, Object]:
    """Ask GitHub, as anybody may, for the newest status of each context of a commit."""
    asked = ("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30")
    told = json.loads(world.run(*asked, f"{API}/{commit}/status").stdout)
    assert told["sha"] == commit
    return {one["context"]: one for one in told["statuses"]}


def state(world: World, commit: str, application: str) -> str:
    """Say what GitHub shows for an Application; empty before anything was told."""
    found: str = statuses(world, commit).get(f"{CLUSTER}/{application}", {}).get("state", "")
    return found


def becomes(world: World, commit: str, application: str, wanted: str) -> None:
    """Wait until GitHub shows a state of an Application."""
    what = f"{application} to be {wanted} at GitHub"
    wait_until(what, lambda: state(world, commit, application) == wanted)


def test_the_first_commit_has_a_status_of_each_application(
    world: World, repository: Repository
) -> None:
    first = repository.git("rev-list", "--max-parents=0", "HEAD")
    # The one of Argo CD itself has two sources: a chart, and this repository with its values.
    applications = ("root", "argo-cd", "logging", "monitoring", "podinfo")
    for application in applications:
        becomes(world, first, application, "success")
    told = statuses(world, first)
    assert set(told) == {f"{CLUSTER}/{one}" for one in applications}
    assert {one["description"] for one in told.values()} == {"synced, healthy"}
    assert (
        told["prod/podinfo"]["target_url"]
        == f"https://{HOST}/applications/{NAMESPACE}/podinfo?operation=true"
    )
    assert kinds(world)["github-api"] == "simulated"


def test_a_commit_that_is_synced_and_healthy_has_a_status_that_says_so(
    world: World, repository: Repository
) -> None:
    commit = repository.annotate("first")
    becomes(world, commit, "podinfo", "success")
    assert set(statuses(world, commit)) == {f"{CLUSTER}/podinfo"}, "it changed nothing else"


def test_a_commit_that_cannot_be_synced_has_a_status_that_says_why(
    world: World, repository: Repository
) -> None:
    bad = repository.break_podinfo()
    becomes(world, bad, "podinfo", "failure")
    told = statuses(world, bad)
    assert set(told) == {f"{CLUSTER}/podinfo"}
    assert told["prod/podinfo"]["description"].startswith("not synced: ")
    good = repository.revert()
    becomes(world, good, "podinfo", "success")
    assert state(world, bad, "podinfo") == "failure"
