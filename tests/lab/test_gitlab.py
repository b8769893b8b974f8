"""A platform whose repository is at the company's GitLab: it is told what became of each commit.

Argo CD, its notifications and the network policies are real; GitLab's API is simulated, with its
rules and words (lab/internal/gitlabapi). One machine and few services: what is told is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ops.rehearsal import repository as copies
from ops.rehearsal.world import World, wait_until
from tests.lab.conftest import WORLDS, changed, write_generated
from tests.lab.real_programs.argocd import HOST, NAMESPACE, GitLabRepository, is_well
from tests.lab.real_programs.cluster import Object, kinds, kubectl

pytestmark = pytest.mark.campaign

GITLAB = "https://gitlab.corp.net:8443"
"""A port of its own, which the notifications' network policy must let out."""
PATH = "team/infra/platform"
URL = f"{GITLAB}/{PATH}"
API = f"{GITLAB}/api/v4/projects/{quote(PATH, safe='')}"
CLUSTER = "prod"
APPLICATIONS = ("root", "argo-cd", "podinfo")
KEY = "platform:commitStatusKey"
QUICK = 300
"""Seconds in which a status comes, on a machine with other work."""


def change(sections: dict[str, Any]) -> None:
    """Make of production a platform of one machine that follows GitLab."""
    del sections["machines"][1:]
    services = sections["services"]
    for name in ("backup", "logging", "monitoring"):
        del services[name]
    domain = services["certManager"]["domain"]
    # Let's Encrypt's certificate takes three minutes.
    services["certManager"] = {"issuer": "private-ca", "domain": domain}
    del services["argocd"]["github"]
    login = {"url": GITLAB, "clientId": "platform", "adminGroups": ["team/infra"]}
    services["argocd"] |= {
        "repositoryUrl": URL,
        "gitHost": "gitlab",
        "gitlab": login,
        "commitStatuses": {},
    }


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Build it."""
    tree = copies.copy(WORLDS / "gitlab.repository")
    stack_file = changed(tree / "Pulumi.prod.yaml", change)
    write_generated(stack_file)
    copies.keep(tree, "the repository is at GitLab")
    world = World(WORLDS / "gitlab", stack_file, "--programs", "real", project=tree).start()
    try:
        world.up(timeout=1200)
        world.write_credentials()
        token(world)
        wait_until("Argo CD to have taken over", lambda: is_well(world, "argo-cd"), seconds=600)
        yield world
    finally:
        world.stop()


@pytest.fixture(scope="module")
def repository(world: World, tmp_path_factory: pytest.TempPathFactory) -> GitLabRepository:
    """Give a clone of the world's repository."""
    folder = tmp_path_factory.mktemp("repository") / "clone"
    return GitLabRepository(world, folder, URL, "--insecure")


def header(world: World) -> Path:
    """Give the file with curl's header that shows GitLab the token."""
    return world.state / "gitlab-token"


def token(world: World) -> str:
    """Read the token that the world's stack has now, and show GitLab that one from here on."""
    shown = f'printf "PRIVATE-TOKEN: %s\\n" "$(pulumi config get {KEY})"'
    world.run("bash", "-c", f"umask 077; {shown} > {header(world)}")
    return header(world).read_text().split()[1]


def statuses(world: World, commit: str, query: str = "") -> list[Object]:
    """Ask GitLab for the statuses of a commit: the newest of each name."""
    asked = ("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30")
    where = f"{API}/repository/commits/{commit}/statuses{query}"
    found: list[Object] = json.loads(
        world.run(*asked, "--header", f"@{header(world)}", where).stdout
    )
    return found


def states(world: World, commit: str) -> dict[str, str]:
    """Give the state of each name."""
    return {one["name"]: one["status"] for one in statuses(world, commit)}


def becomes(world: World, commit: str, application: str, wanted: str) -> None:
    """Wait until GitLab shows a state of an Application."""
    name = f"{CLUSTER}/{application}"
    what = f"{application} to be {wanted} at GitLab"
    wait_until(what, lambda: states(world, commit).get(name) == wanted, seconds=QUICK)


def log(world: World) -> str:
    """Give what Argo CD's notifications say."""
    controller = "deployment/argo-cd-argocd-notifications-controller"
    return kubectl(world, "logs", "--namespace", NAMESPACE, controller, "--tail=-1")


def refusals(world: World, commit: str) -> list[str]:
    """Give the lines that say that GitLab refused a status of a commit."""
    refused = "has failed with error code"
    return [one for one in log(world).splitlines() if refused in one and commit in one]


def test_the_first_commit_has_a_status_of_each_application(
    world: World, repository: GitLabRepository
) -> None:
    first = repository.git("rev-list", "--max-parents=0", "HEAD")
    for application in APPLICATIONS:
        becomes(world, first, application, "success")
    told = {one["name"]: one for one in statuses(world, first)}
    assert set(told) == {f"{CLUSTER}/{one}" for one in APPLICATIONS}
    assert {one["description"] for one in told.values()} == {"synced, healthy"}
    assert {(one["sha"], one["ref"]) for one in told.values()} == {(first, "main")}
    assert (
        told["prod/podinfo"]["target_url"]
        == f"https://{HOST}/applications/{NAMESPACE}/podinfo?operation=true"
    )
    assert kinds(world)["gitlab-api"] == "simulated"


def test_a_commit_that_cannot_be_synced_has_a_status_that_says_why(
    world: World, repository: GitLabRepository
) -> None:
    bad = repository.break_podinfo()
    becomes(world, bad, "podinfo", "failed")
    (told,) = statuses(world, bad)
    assert told["name"] == "prod/podinfo", "it changed nothing else"
    assert told["description"].startswith("not synced: ")
    assert "ClusterRole is not permitted in project apps" in told["description"]
    good = repository.revert()
    becomes(world, good, "podinfo", "success")
    assert states(world, bad) == {"prod/podinfo": "failed"}


def test_a_token_that_has_ended_is_refused_and_harms_nothing_and_the_next_one_is_taken(
    world: World, repository: GitLabRepository
) -> None:
    ended = token(world)
    # It is renewed at GitLab, which ends the old one, and put into the stack, but not yet built.
    made = "printf glpat-%s $(head --bytes=15 /dev/urandom | base32)"
    world.run("bash", "-c", f"{made} | pulumi config set --secret {KEY}")
    renewed = token(world)
    assert ended != renewed
    untold = repository.annotate("with a token that has ended")
    wait_until("it to be synced", lambda: is_well(world, "podinfo", untold), seconds=QUICK)
    wait_until("GitLab's refusal", lambda: bool(refusals(world, untold)), seconds=QUICK)
    (refusal,) = refusals(world, untold)
    assert "error code 401" in refusal
    assert "401 Unauthorized" in refusal
    leaked = [one in log(world) for one in (ended, renewed)]
    assert not any(leaked), "a token is in the log"
    assert all(is_well(world, one) for one in APPLICATIONS)
    assert states(world, untold) == {}
    world.up()
    commit = repository.annotate("with the new token")
    becomes(world, commit, "podinfo", "success")
    # Argo CD tells each once, whatever becomes of it (docs/gitops.md).
    assert states(world, untold) == {}
