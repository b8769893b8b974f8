"""The rules on a plan's steps: what is there must not go unseen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from config.resource_types import CONFIGURATION, GATE, MACHINE, MACHINE_SECRETS
from ops.policies.model import Level
from ops.policies.steps import PLAN_RULES, SAFE_AMOUNT, PlanError, violations

ROOT = Path(__file__).parents[2]
PARENT = "platform:vsphere:Machines$"
REPLACEMENT = ("delete-replaced", "replace", "create-replacement")
Step = dict[str, Any]


def step(
    op: str, type_: str, name: str, *, old: Step | None = None, new: Step | None = None
) -> Step:
    """Give a step; what is there before and after follows from the operation."""
    made: Step = {"op": op, "urn": f"urn:pulumi:prod::platform::{PARENT}{type_}::{name}"}
    if op != "create":
        made["oldState"] = old or {}
    if op not in {"delete", "delete-replaced"}:
        made["newState"] = new if new is not None else dict(old or {})
    return made


def replaced(name: str, type_: str = MACHINE, **old: object) -> list[Step]:
    return [step(op, type_, name, old=dict(old)) for op in REPLACEMENT]


def gate(*names: str) -> Step:
    state = {"inputs": {"controlPlanes": dict.fromkeys(names, "172.16.20.51")}}
    return step("same", GATE, "etcd-members", old=state)


def changed(name: str, *after: str) -> Step:
    return step("update", MACHINE, name, old={"dependencies": list(after)})


def after(name: str) -> Step:
    """Give a change of a machine that waits for another one."""
    return changed(name, f"urn:pulumi:prod::platform::x:y:Nodes${CONFIGURATION}::before-it")


THREE = gate("node01", "node02", "node03")
PROTECTED = {"protect": True}

GOOD: list[tuple[str, list[Step]]] = [
    ("plan-keeps-machine-secrets", [step("same", MACHINE_SECRETS, "prod", old=PROTECTED)]),
    ("plan-keeps-machine-secrets", [step("create", MACHINE_SECRETS, "prod")]),
    ("plan-keeps-protection", [step("update", "x:a:A", "one", old=PROTECTED)]),
    ("plan-keeps-protection", [step("delete", "x:a:A", "one")]),
    ("plan-replaces-one-control-plane", [THREE, *replaced("node02")]),
    ("plan-replaces-one-control-plane", [THREE, *replaced("worker01"), *replaced("worker02")]),
    ("plan-replaces-one-control-plane", [THREE, *replaced("node02"), *replaced("worker02")]),
    # Five become three: each leaves etcd before it goes.
    (
        "plan-replaces-one-control-plane",
        [gate("a", "b"), step("delete", MACHINE, "a"), step("delete", MACHINE, "b")],
    ),
    ("plan-changes-one-control-plane-at-a-time", [THREE, changed("node01"), after("node02")]),
    ("plan-changes-one-control-plane-at-a-time", [THREE, changed("node02")]),
    (
        "plan-changes-one-control-plane-at-a-time",
        [THREE, *(step("create", MACHINE, name) for name in ("node01", "node02", "node03"))],
    ),
    ("plan-is-small", [step("delete", "x:a:A", str(n)) for n in range(SAFE_AMOUNT)]),
]

BAD: list[tuple[str, str, list[Step]]] = [
    ("plan-keeps-machine-secrets", "deleted: nobody", [step("delete", MACHINE_SECRETS, "prod")]),
    ("plan-keeps-machine-secrets", "recreated", replaced("prod", MACHINE_SECRETS, protect=True)),
    ("plan-keeps-protection", "would be deleted", [step("delete", "x:a:A", "one", old=PROTECTED)]),
    ("plan-keeps-protection", "would be deleted", replaced("one", "x:a:A", protect=True)),
    (
        "plan-keeps-protection",
        "one loses its protection",
        [step("update", "x:a:A", "one", old=PROTECTED, new={"protect": False})],
    ),
    (
        "plan-keeps-protection",
        "prod loses its protection",
        [step("same", MACHINE_SECRETS, "prod", old=PROTECTED, new={"inputs": {}})],
    ),
    (
        "plan-replaces-one-control-plane",
        "node01, node03 would be lost",
        [THREE, *replaced("node01"), *replaced("node03")],
    ),
    (
        "plan-replaces-one-control-plane",
        "node01, node02 would be lost",
        [THREE, *replaced("node01"), step("delete", MACHINE, "node02")],
    ),
    # Without the gate nobody knows which machines are control planes.
    ("plan-replaces-one-control-plane", "a, b would be lost", [*replaced("a"), *replaced("b")]),
    (
        "plan-changes-one-control-plane-at-a-time",
        "node01, node03 would be changed",
        [THREE, changed("node01"), after("node02"), changed("node03")],
    ),
    (
        "plan-changes-one-control-plane-at-a-time",
        "node01, node02 would be changed",
        [THREE, changed("node01"), *replaced("node02")],
    ),
    (
        "plan-is-small",
        f"{SAFE_AMOUNT + 1} resources",
        [step("delete", "x:a:A", str(n)) for n in range(SAFE_AMOUNT + 1)],
    ),
]


@pytest.mark.parametrize(("name", "steps"), GOOD)
def test_a_plan_that_is_right_passes(name: str, steps: list[Step]) -> None:
    assert [str(one) for one in violations({"steps": steps}) if one.rule == name] == []


@pytest.mark.parametrize(("name", "says", "steps"), BAD)
def test_a_plan_that_takes_away_too_much_is_found_once_with_the_fix(
    name: str, says: str, steps: list[Step]
) -> None:
    (found,) = [one for one in violations({"steps": steps}) if one.rule == name]
    assert re.search(says, found.text)
    assert ";" in found.text
    assert str(found).startswith(f"[{found.level.value}] {name}: ")


def test_every_rule_has_a_plan_that_passes_and_one_that_fails() -> None:
    names = {rule.name for rule in PLAN_RULES}
    assert {name for name, _ in GOOD} == {name for name, _, _ in BAD} == names
    assert {rule.level for rule in PLAN_RULES} == set(Level)


@pytest.mark.parametrize("given", [{}, {"steps": []}, {"steps": "none"}])
def test_what_is_no_plan_does_not_pass(given: Step) -> None:
    with pytest.raises(PlanError, match="preview --json"):
        violations(given)


def test_every_rule_is_explained_in_the_documents_under_its_level() -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", text, re.MULTILINE))
    assert {rule.name: rule.level.value for rule in PLAN_RULES}.items() <= rows.items()
