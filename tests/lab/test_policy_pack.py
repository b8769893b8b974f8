"""The policy pack in the real engine: production passes, a change that breaks a rule is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.policies.catalogue import RULES
from ops.policies.model import Level
from ops.rehearsal import judgement, repository
from ops.rehearsal.world import PROJECT, World
from tests.lab.conftest import WORLDS

WITH_SERVICES = True
PACK = ("--policy-pack", str(PROJECT / "ops" / "policies"))
BREACHES = {
    "machine-secrets-stay": (
        "components/talos/identity.py",
        "protect=True,",
        "protect=False,",
        "prod: protect is not true; set `protect=True` in its ResourceOptions",
    ),
    "no-plain-secret": (
        "__main__.py",
        'password = require_secret("vspherePassword")',
        'password = pulumi.Output.unsecret(require_secret("vspherePassword"))',
        "password holds one of the stack's own secrets in plain text (not shown); pass it as",
    ),
    "no-node-port": (
        "components/kubernetes/traefik.py",
        '"allocateLoadBalancerNodePorts": False,',
        '"allocateLoadBalancerNodePorts": True,',
        "values.service.spec also gets ports of the machines; set allocateLoadBalancerNodePorts",
    ),
}
"""Rule: the file of the program, what it says, what a careless change makes of it, the message."""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(scope="module")
def careless() -> Path:
    """Give a copy of the program with changes that nobody should make."""
    copy = repository.copy(WORLDS / "careless.repository")
    for file, said, says, _ in BREACHES.values():
        text = (copy / file).read_text()
        assert text.count(said) == 1, file
        (copy / file).write_text(text.replace(said, says))
    return copy


def resources(world: World) -> list[str]:
    deployment = world.state_with_secrets()["deployment"]
    return [one["urn"] for one in deployment.get("resources") or ()]


def test_the_production_stack_passes_every_rule(world: World, tmp_path: Path) -> None:
    log = tmp_path / "preview.events"
    arguments = ("--json", "--non-interactive", "--event-log", str(log))
    plan = json.loads(world.run("pulumi", "preview", *PACK, *arguments).stdout)
    judged = judgement.of(log, plan)
    assert judged.violations == ()
    assert judged.rules == len(RULES)
    assert judged.resources == len(plan["steps"]) > 100


def test_a_careless_change_is_refused_before_anything_is_made(
    world: World, careless: Path, tmp_path: Path
) -> None:
    before = resources(world)
    log = tmp_path / "up.events"
    refused = world.run(
        "pulumi", "--cwd", str(careless), "up", "--yes", "--non-interactive",
        "--event-log", str(log), *PACK, code=None,
    )  # fmt: skip
    assert refused.returncode != 0
    violations = [
        event["policyEvent"]
        for line in log.read_text().splitlines()
        if "policyEvent" in (event := json.loads(line))
    ]
    shown = " ".join(refused.stdout.split())
    for rule, (*_, message) in BREACHES.items():
        (found,) = (one for one in violations if one["policyName"] == rule)
        assert found["enforcementLevel"] == Level.MANDATORY.value
        assert message in found["message"]
        assert rule in shown
        assert message in shown
    assert {one["policyName"] for one in violations} == set(BREACHES)
    assert resources(world) == before == []
    spec = json.loads((world.state / "world.json").read_text())
    password = spec["secrets"]["values"]["vspherePassword"]
    assert len(password) > 10
    assert password not in refused.stdout + refused.stderr + log.read_text()
