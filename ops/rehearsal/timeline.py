"""Rehearsal: when each resource of a deployment was worked on, and what determined its end.

`python -m ops rehearse timeline EVENTS STATE OUT.html` draws it; EVENTS is the engine's event log
(`pulumi up --event-log`), STATE what `pulumi stack export` says after the run (before it, for a
destroy). Times are seconds since the log's first event. They are exact to some hundredths when
recorder.py watched the run, else whole seconds.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from config.resource_types import GATE
from ops.engine.operations import BOOKKEEPING, DELETIONS
from ops.engine.urn import name_of, provider_of, stack_of, type_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

Json = dict[str, Any]

STACK = "pulumi:pulumi:Stack"
PROVIDER = "pulumi:providers:"


class TimelineError(Exception):
    """The event log or the state is not what the engine writes."""


class Outcome(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Step:
    """What the engine did to one resource; a replaced resource has two steps."""

    urn: str
    operation: str
    """As the engine names it: create, update, delete, same, create-replacement, ..."""
    start: float
    end: float
    outcome: Outcome = Outcome.DONE

    @property
    def seconds(self) -> float:
        """The step's duration."""
        return self.end - self.start

    @property
    def deletes(self) -> bool:
        """Whether the step takes the resource away."""
        return self.operation in DELETIONS

    @property
    def type(self) -> str:
        """The resource's type token."""
        return type_of(self.urn)

    @property
    def name(self) -> str:
        """The resource's name in the program."""
        return name_of(self.urn)

    @property
    def label(self) -> str:
        """Type and name for people: `VirtualMachine node01`, `vsphere provider platform`."""
        kind = self.type.rsplit(":", 1)[-1]
        if self.type.startswith(PROVIDER):
            kind += " provider"
        return kind if self.name.lower() in kind.lower().split() else f"{kind} {self.name}"


Waits = dict[Step, list[Step]]
"""The steps that a step has to wait for."""


def critical_path(steps: Iterable[Step], waits: Mapping[Step, Collection[Step]]) -> list[Step]:
    """Give the chain of steps that determined the end, from the first to the last.

    From the step that ended last, back to whichever it waited for longest, and so on. A step may
    start later than its predecessor ended: there something else held it up.
    """
    path: list[Step] = []
    step = max(steps, key=_by_end, default=None)
    while step is not None:
        path.append(step)
        step = last_awaited(step, waits)
    return path[::-1]


def last_awaited(step: Step, waits: Mapping[Step, Collection[Step]]) -> Step | None:
    """Give the step that ended last of those that this one waited for."""
    before = (one for one in waits.get(step, ()) if one.end <= step.start)
    return max(before, key=_by_end, default=None)


def _by_end(step: Step) -> tuple[float, float]:
    return step.end, step.start


@dataclass(frozen=True)
class Timeline:
    """A deployment's steps in the order of their start, and what each waited for."""

    stack: str
    began: datetime
    wall: float
    """Seconds from the first event to the last."""
    precise: bool
    steps: Sequence[Step]
    waits: Waits
    parents: Mapping[str, str]
    """From a resource's URN to its parent's."""

    @classmethod
    def from_events(cls, event_log: Path, state: Mapping[str, Any]) -> Self:
        """Read the engine's event log and the stack's exported state."""
        events = list(read_events(event_log))
        if not events:
            message = f"{event_log}: no events; write it by `pulumi up --event-log {event_log}`"
            raise TimelineError(message)
        resources: list[Json] = (state.get("deployment") or {}).get("resources") or []
        precise = all("time" in event for event in events)
        origin = _time(events[0])
        steps = sorted(_steps(events, resources, precise=precise), key=lambda one: one.start)
        return cls(
            stack=stack_of(steps[0].urn) if steps else "",
            began=datetime.fromtimestamp(origin).astimezone(),
            wall=_time(events[-1]) - origin,
            precise=precise,
            steps=steps,
            waits=_waits(steps, resources),
            parents=_parents(events),
        )

    @cached_property
    def components(self) -> frozenset[str]:
        """URNs of the resources that others are children of."""
        return frozenset(self.parents.values())

    @cached_property
    def changes(self) -> list[Step]:
        """The steps of one resource each that did something."""
        return [
            one
            for one in self.steps
            if one.operation != "same" and one.urn not in self.components and one.type != STACK
        ]

    @cached_property
    def critical_path(self) -> list[Step]:
        """The chain of changes that determined the end."""
        changes = set(self.changes)
        return [one for one in critical_path(changes, self.waits) if one in changes]

    @property
    def critical_seconds(self) -> float:
        """Seconds of work on the critical path."""
        return sum(one.seconds for one in self.critical_path)

    @property
    def ratio(self) -> float | None:
        """Wall time over work on the critical path: 1 is ideal; None when there was no work."""
        return self.wall / self.critical_seconds if self.critical_seconds else None

    def waited(self, step: Step) -> float:
        """Give the seconds that a step could have run and did not."""
        before = last_awaited(step, self.waits)
        return step.start - (before.end if before else 0.0)

    @property
    def waited_longest(self) -> Step | None:
        """The step that waited longest for something that is no dependency."""
        return max(self.changes, key=self.waited, default=None)


def read_events(log: Path) -> Iterator[Json]:
    """Read an event log, one JSON object (Pulumi's apitype.EngineEvent) a line.

    The end of a last line that a killed engine left unfinished is passed over.
    """
    for number, line in enumerate(log.read_text().splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return
        try:
            event = json.loads(line)
            _time(event)
        except (ValueError, KeyError, TypeError):
            message = (
                f"{log}: line {number} is not an event of the engine; "
                "is it from `pulumi --event-log`?"
            )
            raise TimelineError(message) from None
        yield event


def _time(event: Json) -> float:
    return float(event["time"] if "time" in event else event["timestamp"])


def _steps(events: Sequence[Json], resources: Sequence[Json], *, precise: bool) -> Iterator[Step]:
    """Pair the events that begin and end a step.

    A component says that it ends only when the program registers its outputs, so the state's
    stamp counts: children and dependants need its registration and no more.
    """
    origin = _time(events[0])
    registered = dict(_component_stamps(resources, origin, precise=precise))
    begun: dict[str, tuple[str, float]] = {}

    def ended(urn: str, end: float, outcome: Outcome) -> Step:
        operation, start = begun.pop(urn)
        if urn in registered and outcome != Outcome.FAILED and not operation.startswith("delete"):
            outcome, end = Outcome.DONE, min(end, max(start, registered[urn]))
        return Step(urn, operation, start, end, outcome)

    for event in events:
        now = _time(event) - origin
        if meta := _metadata(event, "resourcePreEvent"):
            if meta["op"] not in BOOKKEEPING:
                begun[meta["urn"]] = (meta["op"], now)
        elif (meta := _metadata(event, "resOutputsEvent")) and meta["urn"] in begun:
            yield ended(meta["urn"], now, Outcome.DONE)
        elif (meta := _metadata(event, "resOpFailedEvent")) and meta["urn"] in begun:
            yield ended(meta["urn"], now, Outcome.FAILED)
    for urn in list(begun):
        yield ended(urn, _time(events[-1]) - origin, Outcome.UNFINISHED)


def _metadata(event: Json, kind: str) -> Json | None:
    """Give what a resource event is about; None for other events, and for those of a preview."""
    payload: Json = event.get(kind) or {}
    return None if payload.get("planning") else payload.get("metadata")


def _component_stamps(
    resources: Sequence[Json], origin: float, *, precise: bool
) -> Iterator[tuple[str, float]]:
    for resource in resources:
        if not resource.get("custom") and (stamp := resource.get("modified")):
            seconds = datetime.fromisoformat(stamp).timestamp()
            yield resource["urn"], (seconds if precise else math.floor(seconds)) - origin


def _waits(steps: Sequence[Step], resources: Sequence[Json]) -> Waits:
    """Turn the state's dependencies into those between steps; deletions go the other way round."""
    waits: Waits = defaultdict(list)
    made = {one.urn: one for one in steps if not one.deletes}
    gone = {one.urn: one for one in steps if one.deletes}
    for resource in resources:
        urn = resource["urn"]
        for needed in _needs(resource):
            if urn in made and needed in made:
                waits[made[urn]].append(made[needed])
            if urn in gone and needed in gone:
                waits[gone[needed]].append(gone[urn])
    for urn in made.keys() & gone.keys():
        first, second = sorted((made[urn], gone[urn]), key=lambda one: one.start)
        waits[second].append(first)
    for resource in resources:
        if resource["type"] == GATE and resource["urn"] in made:
            in_front = {made[urn] for urn in resource.get("dependencies", ()) if urn in made}
            _wait_for_gate(made[resource["urn"]], in_front, waits)
    return dict(waits)


def _wait_for_gate(gate: Step, in_front: set[Step], waits: Waits) -> None:
    """Let the steps behind a gate wait for it.

    A gate has no children, so the state names what is in front of the gate as the dependency of
    those behind it (components/gate.py, `opened`).
    """
    for step, awaited in waits.items():
        if step.start >= gate.end and step != gate and not in_front.isdisjoint(awaited):
            awaited.append(gate)


def _needs(resource: Json) -> set[str]:
    """Give the URNs that must be there before a resource: dependencies, parent and provider."""
    provider = provider_of(resource.get("provider", ""))
    return {*resource.get("dependencies", ()), resource.get("parent", ""), provider} - {""}


def _parents(events: Sequence[Json]) -> dict[str, str]:
    """Read the parents from the events: the state no longer has what was deleted."""
    parents = {}
    for event in events:
        if meta := _metadata(event, "resourcePreEvent"):
            parent = (meta.get("new") or meta.get("old") or {}).get("parent")
            if parent:
                parents[meta["urn"]] = parent
    return parents
