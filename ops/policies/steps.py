"""Layer Policies: what a plan must not do to what is there.

The engine tells a policy pack what the program wants, never what there was (analyzer.proto): a
replacement, a deletion, a protection taken away are seen only in a plan's steps. `violations` reads
those of `pulumi preview --json`; the lab and the review of a change call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from config.resource_types import CONFIGURATION, GATE, MACHINE, MACHINE_SECRETS
from ops.engine.operations import OPERATIONS
from ops.engine.preview import Document, Step
from ops.engine.urn import type_of
from ops.engine.values import mapping
from ops.policies.model import Level
from ops.policies.plan import MEMBERS_GATE, WAIT

REPLACES = frozenset(op for op, change in OPERATIONS.items() if change == "replace")
REMOVES = frozenset(op for op, change in OPERATIONS.items() if change == "delete")
GOES = REPLACES | REMOVES
CHANGES = REPLACES | {op for op, change in OPERATIONS.items() if change == "update"}
SAFE_AMOUNT = 20
"""More than all that a layer on the cluster makes: a plan that takes away more is worth a look."""


KEYS_LOST = (
    "nobody gets in any more, and no backup of etcd can be read; undo what changes them, or decide "
    "to lose them and run `pulumi state unprotect` first"
)
UNPROTECT = "keep it, or take its protection away in a change of its own"
ONE = (
    "etcd keeps its quorum only when one is replaced at a time: change one, run `pulumi up`, then "
    "change the next"
)
SPLIT = "read the whole plan, and split the change when that is not its purpose"


class PlanError(Exception):
    """What was given is not a plan."""


@dataclass(frozen=True)
class Violation:
    """What a plan does that it must not, or should not, with the fix."""

    rule: str
    level: Level
    urn: str
    """The resource it is about; empty for the plan as a whole."""
    text: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"[{self.level.value}] {self.rule}: {self.text}"


Finding = tuple[str, str]
"""URN, and what is wrong."""


@dataclass(frozen=True)
class PlanRule:
    """A rule on a plan's steps."""

    name: str
    level: Level
    description: str
    check: Callable[[Sequence[Step]], Iterator[Finding]]


def violations(preview: Mapping[str, Any]) -> list[Violation]:
    """Find what a plan does that it must not: `preview` is the JSON of `pulumi preview --json`.

    Raises `PlanError` when it holds no steps: what was not read must not pass.
    """
    try:
        steps = Document.model_validate(preview).steps
    except ValidationError:
        steps = []
    if not steps:
        raise PlanError("it holds no `steps`: give the whole output of `pulumi preview --json`")
    return of_steps(steps)


def of_steps(steps: Sequence[Step]) -> list[Violation]:
    """Find what these steps of a plan do that they must not."""
    return [
        Violation(rule.name, rule.level, urn, text)
        for rule in PLAN_RULES
        for urn, text in rule.check(steps)
    ]


def _machine_secrets(steps: Sequence[Step]) -> Iterator[Finding]:
    for step in _once(steps, GOES):
        if step.type == MACHINE_SECRETS:
            what = "deleted" if step.op in REMOVES else "recreated"
            text = f"the machine secrets {step.name} would be {what}"
            yield step.urn, f"{text}: {KEYS_LOST}"


def _protection(steps: Sequence[Step]) -> Iterator[Finding]:
    for step in _once(steps, GOES):
        if step.is_protected and step.type != MACHINE_SECRETS:
            yield step.urn, f"{step.name} is protected, and would be deleted; {UNPROTECT}"
    for step in steps:
        if step.is_protected and step.new_state and not step.new_state.protect:
            yield step.urn, f"{step.name} loses its protection; keep `protect=True` in its options"


def _control_planes(steps: Sequence[Step]) -> Iterator[Finding]:
    members = _members(steps)
    touched = [
        step
        for step in _once(steps, GOES)
        if step.type == MACHINE and (members is None or step.name in members)
    ]
    replaced = [step for step in touched if step.op in REPLACES]
    if replaced and len(touched) > 1:
        names = ", ".join(sorted(step.name for step in touched))
        yield (
            replaced[0].urn,
            f"{names} would be lost in one plan, at least one to be recreated; {ONE}",
        )


def _turns(steps: Sequence[Step]) -> Iterator[Finding]:
    """Ask that control planes which are there wait for another's configuration, all but the first.

    Only a first creation makes them together, and then none is there.
    """
    members = _members(steps)
    free = [
        step
        for step in _once([one for one in steps if one.new_state], CHANGES)
        if step.type == MACHINE and (members is None or step.name in members)
        if step.new_state and CONFIGURATION not in map(type_of, step.new_state.dependencies)
    ]
    if len(free) > 1:
        names = ", ".join(sorted(step.name for step in free))
        yield free[1].urn, f"{names} would be changed at the same time; {WAIT}"


def _members(steps: Sequence[Step]) -> set[str] | None:
    """Give the control planes there were and will be; None when no gate tells them."""
    gates = [step for step in steps if (step.type, step.name) == (GATE, MEMBERS_GATE)]
    if not gates:
        return None
    return {
        name
        for step in gates
        for state in (step.old_state, step.new_state)
        for name in mapping(state.inputs.get("controlPlanes") if state else None)
    }


def _amount(steps: Sequence[Step]) -> Iterator[Finding]:
    gone = _once(steps, GOES)
    if len(gone) > SAFE_AMOUNT:
        yield "", f"{len(gone)} resources would be deleted or recreated; {SPLIT}"


def _once(steps: Iterable[Step], ops: frozenset[str]) -> list[Step]:
    """Give the first step with such an operation of each resource: a replacement has several."""
    found: dict[str, Step] = {}
    for step in steps:
        if step.op in ops:
            found.setdefault(step.urn, step)
    return list(found.values())


PLAN_RULES = (
    PlanRule(
        "plan-keeps-machine-secrets",
        Level.MANDATORY,
        "No plan deletes or replaces the machine secrets.",
        _machine_secrets,
    ),
    PlanRule(
        "plan-keeps-protection",
        Level.MANDATORY,
        "What is protected stays, and stays protected.",
        _protection,
    ),
    PlanRule(
        "plan-replaces-one-control-plane",
        Level.MANDATORY,
        "No plan replaces a control plane together with the loss of another.",
        _control_planes,
    ),
    PlanRule(
        "plan-changes-one-control-plane-at-a-time",
        Level.MANDATORY,
        "No plan changes a control plane that exists beside another one.",
        _turns,
    ),
    PlanRule(
        "plan-is-small",
        Level.ADVISORY,
        f"A plan takes away or recreates at most {SAFE_AMOUNT} resources.",
        _amount,
    ),
)
