"""`pulumi up` killed inside a layer, plugin included, is repaired by the next one.

One world grows layer by layer; each step is killed in the middle, and run again. The first steps
are always run, all of them in the campaign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ops.rehearsal.world import PROJECT, World
from tests.lab.test_interruption import Moment, kill_at, said

WITH_SERVICES = True
RELEASE = "kubernetes:helm.sh/v3:Release"
PRODUCTION = yaml.safe_load((PROJECT / "Pulumi.prod.yaml").read_text())["config"]
SERVICES = PRODUCTION["platform:services"]
SECOND_POOL = {"name": "second", "addresses": "172.16.20.160-172.16.20.169"}
BGP = {"localAsn": 65001, "peers": [{"address": "172.16.20.2", "asn": 65000}]}


@dataclass(frozen=True)
class Step:
    """A change of the settings, and the line of the engine at which it is killed."""

    name: str
    line: str
    services: dict[str, object]
    pool: dict[str, str] | None = None
    later: float = 0.5


def installs(chart: str, service: str, later: float = 0.5) -> Step:
    line = f"{RELEASE} {chart} creating"
    return Step(f"{chart} is installed", line, {service: SERVICES[service]}, later=later)


STEPS = [
    installs("cilium", "cilium"),
    installs("metallb", "metallb"),
    Step("a pool is added", "IPAddressPool pool-second creating", {}, SECOND_POOL, later=0.0),
    installs("cert-manager", "certManager", later=1.0),
    installs("traefik", "traefik"),
    Step(
        "traefik is upgraded",
        f"{RELEASE} traefik updating",
        {"traefik": SERVICES["traefik"] | {"replicas": 2}},
    ),
    Step(
        "the approver starts",
        "Deployment kubelet-serving-cert-approver creating",
        {"metricsServer": {}},
        later=0.0,
    ),
    Step(
        "the backup is scheduled",
        "CronJob etcd-backup creating",
        {"backup": SERVICES["backup"]},
        later=0.0,
    ),
    installs("argo-cd", "argocd", later=1.0),
    Step("cilium is upgraded", f"{RELEASE} cilium updating", {"cilium": {"bgp": BGP}}),
]

ALWAYS = 2
"""So many of them are run by every `make test`."""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world()  # of the whole file: it has every secret
    document = yaml.safe_load(world.stack_file.read_text())
    del document["config"]["platform:services"]
    world.stack_file.write_text(yaml.safe_dump(document, sort_keys=False))
    world.up()
    world.write_credentials()
    return world


@pytest.mark.parametrize(
    "step",
    STEPS[:ALWAYS] + [pytest.param(one, marks=pytest.mark.campaign) for one in STEPS[ALWAYS:]],
    ids=lambda step: step.name,
)
def test_a_layer_that_was_killed_is_repaired_by_the_next_up(
    world: World, tmp_path: Path, step: Step
) -> None:
    apply(world.stack_file, step)
    kill_at(world, Moment(step.name, said(step.line), step.later), tmp_path / "up.log")
    world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
    world.up()
    world.expect_no_changes()
    # Applied, not lost: no record of Helm's is left half-way.
    pending = world.run(
        "kubectl", "get", "secrets", "--all-namespaces", "--output", "name", "--selector",
        "owner=helm,status in (pending-install,pending-upgrade,pending-rollback)",
    )  # fmt: skip
    assert pending.stdout == ""


def apply(stack_file: Path, step: Step) -> None:
    """Add a step's settings to the stack file."""
    document = yaml.safe_load(stack_file.read_text())
    document["config"].setdefault("platform:services", {}).update(step.services)
    if step.pool is not None:
        document["config"]["platform:network"]["pools"].append(step.pool)
    stack_file.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.mark.campaign
def test_the_upgrade_that_was_killed_is_what_runs(world: World) -> None:
    replicas = world.run(
        "kubectl", "get", "deployment", "traefik", "--namespace", "traefik",
        "--output", "jsonpath={.status.readyReplicas}",
    )  # fmt: skip
    assert replicas.stdout == "2"
    peers = world.run("kubectl", "get", "ciliumbgpclusterconfigs", "--output", "name")
    assert peers.stdout.strip() == "ciliumbgpclusterconfig.cilium.io/site"
