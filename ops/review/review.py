"""Layer Review: a preview's verdict, who is touched, and what to watch, as data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from components.talos.redaction import MAIN
from config.resource_types import MACHINE
from ops.engine.preview import Change, Preview
from ops.policies import steps
from ops.policies.model import Level
from ops.render.difference import DEFINITION
from ops.review import kubernetes, talos, upgrades, watch
from ops.review.charts import ChartChange
from ops.review.judge import (
    LAYER_ORDER,
    Judged,
    control_planes,
    judge,
    machine_names,
    properties,
    upgraded,
)
from ops.review.shrink import shrinks
from ops.review.verdict import Effect, Verdict, worst

NAMES = 4
FEW = 6
"""So many lines need no folding."""
UNTOUCHED = (Verdict.SAFE, Verdict.REFUSED)
"""Whatever else happens to a machine, its turn comes in the order of changes."""


class Row(BaseModel):
    """A line of "what happens to whom": equal effects of one layer together."""

    model_config = ConfigDict(frozen=True)

    layer: str
    who: str
    operation: str
    what: str
    away: str
    verdict: str
    source: str


class MachineField(BaseModel):
    """A field of the machines' configuration that changes, for all machines alike."""

    model_config = ConfigDict(frozen=True)

    machines: str
    field: str
    before: str
    after: str
    effect: str


class Entry(BaseModel):
    """One change of the preview, whatever it is: none is left out."""

    model_config = ConfigDict(frozen=True)

    urn: str
    operation: str
    layer: str
    verdict: str
    why: str
    protected: bool
    waits: bool
    properties: tuple[tuple[str, str, str], ...]


class Review(BaseModel):
    """All that the review says."""

    model_config = ConfigDict(frozen=True)

    verdict: str
    exit_code: int
    sentence: str
    rows: tuple[Row, ...]
    order: tuple[str, ...]
    """Machines that are touched, in the order in which they are."""
    quorum: str
    """Empty when no control plane is touched."""
    configuration: tuple[MachineField, ...]
    charts: tuple[ChartChange, ...]
    watch: tuple[str, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    forbidden: tuple[str, ...]
    discouraged: tuple[str, ...]
    """What the policies refuse, and what they advise against."""
    changes: tuple[Entry, ...]


def review(preview: Preview, today: dt.date) -> Review:
    """Review a preview; `today` is what expiry is counted from."""
    judged = judge(preview)
    acting = [one for one in judged if not one.waits]
    violations = steps.of_steps(preview.steps)
    forbidden = tuple(one.text for one in violations if one.level is Level.MANDATORY)
    verdict = _verdict((*preview.errors, *forbidden), acting)
    machines = machine_names(preview)
    return Review(
        verdict=verdict.words,
        exit_code=verdict.exit_code,
        sentence=_sentence(verdict, preview, forbidden, acting),
        rows=tuple(_rows(acting, machines)),
        order=tuple(_order(preview, acting, machines)),
        quorum=_quorum(preview, acting, machines),
        configuration=tuple(_configuration(acting, machines)),
        charts=tuple(one.chart for one in acting if one.chart),
        watch=tuple(watch.watch(preview, today)),
        errors=preview.errors,
        warnings=preview.warnings,
        forbidden=forbidden,
        discouraged=tuple(one.text for one in violations if one.level is Level.ADVISORY),
        changes=tuple(_entry(one) for one in judged),
    )


def _verdict(refusals: Sequence[str], acting: Sequence[Judged]) -> Verdict:
    found = [one.effect for one in acting]
    if found and worst(found).verdict is Verdict.LOSES:
        return Verdict.LOSES  # also where the engine refuses: somebody asked for it
    if refusals:
        return Verdict.REFUSED
    return worst(found).verdict if found else Verdict.SAFE


def _sentence(
    verdict: Verdict, preview: Preview, forbidden: Sequence[str], acting: Sequence[Judged]
) -> str:
    """Say why in one sentence."""
    if verdict is Verdict.REFUSED and (refusals := [*preview.errors, *forbidden]):
        return f"Nothing can be deployed: {_first_line(refusals[0])}."
    if not acting:
        return "Nothing changes."
    reasons = [one for one in acting if one.effect.verdict is verdict]
    groups = sorted(_grouped(reasons), key=lambda found: LAYER_ORDER.index(found[0].layer))
    first, others = groups[0], sum(len(one) for one in groups[1:])
    names = fold([_name(one) for one in first])
    text = (
        f"{names} {first[0].effect.why}"
        if _speaks(first[0])
        else (f"{names}: {first[0].effect.why}")
    )
    if others:
        text += f" (and {others} more of that class)"
    if less := _less(preview, acting, first):
        text += f". It shrinks: {less}"
    unknown = sum(one.effect.verdict is Verdict.UNKNOWN for one in acting)
    if unknown and verdict is not Verdict.UNKNOWN:
        text += f"; {unknown} more with unknown effect"
    if preview.errors:
        text += f". The engine refuses it: {_first_line(preview.errors[0])}"
    return f"{text}."


def _less(preview: Preview, acting: Sequence[Judged], told: Sequence[Judged]) -> str:
    """Name all that shrinks, unless the sentence tells it already: `told` are those it names."""
    planes = control_planes(preview)
    removed, added = _moved(preview, acting, planes)
    before = len(planes - added | removed)
    found = list(shrinks(acting, (before, before - len(removed) + len(added))))
    who: dict[str, list[str]] = {}
    for name, what, _ in found:
        who.setdefault(what, []).append(name)
    if len(who) < 2 and all(one in told for _, _, one in found):  # noqa: PLR2004 one kind alone
        return ""
    return ", ".join(f"{fold(names)} {what}" for what, names in who.items())


def _moved(
    preview: Preview, acting: Sequence[Judged], planes: set[str]
) -> tuple[set[str], set[str]]:
    """Give the control planes that go, and those that come."""
    machines = machine_names(preview)
    removed, added = (
        {
            one.change.name
            for one in acting
            if one.change.type == MACHINE
            and one.change.operation == operation
            and one.change.name in machines
            and _is_control_plane(preview, one.change, planes)
        }
        for operation in ("delete", "create")
    )
    return removed, added


def _first_line(text: str) -> str:
    """Give the first line, and what it announces."""
    lines = [one.strip().removeprefix("- ") for one in text.splitlines() if one.strip()] or [""]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


def _speaks(one: Judged) -> bool:
    """Whether the rule's words follow the name as a sentence."""
    return one.effect.why.split(" ")[0] in {"is", "gets", "loses", "goes"}


def _name(one: Judged) -> str:
    """Give the machine or the resource; a definition without its group, which is long."""
    if kubernetes.kind_of(one.change) == DEFINITION:
        return one.change.name.partition(".")[0]
    return one.machine or one.change.name


def _grouped(found: Iterable[Judged]) -> list[list[Judged]]:
    groups: dict[tuple[str, str, Effect], list[Judged]] = {}
    for one in found:
        groups.setdefault((one.layer, one.change.operation, one.effect), []).append(one)
    return list(groups.values())


def _rows(acting: Sequence[Judged], machines: Sequence[str]) -> list[Row]:
    """Give the lines: what touches somebody by itself, what is harmless folded by layer."""
    quiet = [one for one in acting if _is_quiet(one)]
    few = len(_grouped(acting)) <= FEW
    loud = list(acting) if few else [one for one in acting if not _is_quiet(one)]
    return _loud(loud, machines) + ([] if few else _quiet(quiet))


def _is_quiet(one: Judged) -> bool:
    return one.effect.verdict is Verdict.SAFE and not one.machine and one.chart is None


def _quiet(found: Iterable[Judged]) -> list[Row]:
    groups: dict[tuple[str, str], list[str]] = {}
    for one in found:
        kind = one.change.type.rsplit(":", 1)[-1]
        groups.setdefault((one.layer, one.change.operation), []).append(kind)
    return [
        Row(
            layer=layer,
            who=f"{len(kinds)} more",
            operation=operation,
            what=", ".join(sorted(set(kinds))),
            away="",
            verdict=Verdict.SAFE.words,
            source="",
        )
        for (layer, operation), kinds in sorted(
            groups.items(), key=lambda pair: LAYER_ORDER.index(pair[0][0])
        )
    ]


def _loud(acting: Sequence[Judged], machines: Sequence[str]) -> list[Row]:
    order = {name: index for index, name in enumerate(machines)}

    def place(group: list[Judged]) -> tuple[int, int, int]:
        first = group[0]
        return (
            -first.effect.verdict.rank,
            LAYER_ORDER.index(first.layer),
            order.get(first.machine, len(order)),
        )

    return [
        Row(
            layer=group[0].layer,
            who=fold(
                sorted(
                    (_name(one) for one in group),
                    key=lambda name: order.get(name, len(order)),
                )
            ),
            operation=group[0].change.operation,
            what=group[0].effect.why,
            away=group[0].effect.away,
            verdict=group[0].effect.verdict.words,
            source=group[0].effect.source,
        )
        for group in sorted(_grouped(acting), key=place)
    ]


def _order(preview: Preview, acting: Sequence[Judged], machines: Sequence[str]) -> list[str]:
    """Give the machines that something restarts on, in their order."""
    touched = set(_touched(acting, machines))
    if any(upgrades.is_kubernetes(one.change) for one in acting):
        touched.update(upgraded(preview))
    return [name for name in machines if name in touched]


def _touched(acting: Sequence[Judged], machines: Sequence[str]) -> list[str]:
    touched = {one.machine for one in acting if one.effect.verdict not in UNTOUCHED}
    return [name for name in machines if name in touched]


def _quorum(preview: Preview, acting: Sequence[Judged], machines: Sequence[str]) -> str:
    """Say whether etcd keeps its quorum while control planes are touched one after the other."""
    planes = control_planes(preview)
    removed, added = _moved(preview, acting, planes)
    before = len(planes - added | removed)
    touched = [one for one in _touched(acting, machines) if one in planes | removed]
    if not touched and not removed and not added:
        upgrade = any(upgrades.is_kubernetes(one.change) for one in acting)
        return "quorum holds: etcd is not restarted" if upgrade else ""
    if not before:
        return "there is no cluster yet"
    needed = before // 2 + 1
    parts = []
    if stay := [one for one in touched if one not in removed]:
        left = before - 1
        answer = "holds" if left >= needed else "IS LOST while it is down"
        turns = f"{' then '.join(stay)}, each seen healthy before the next"
        parts.append(
            f"quorum {answer}: {turns if len(stay) > 1 else f'{stay[0]} alone is touched'}; "
            f"{left} of {before} etcd members stay, {needed} are needed"
        )
    if removed:
        after = before - len(removed)
        parts.append(
            f"{fold(sorted(removed))} leave etcd one by one before their machines are deleted: "
            f"{before} members become {after}, quorum holds"
            if after
            else "every etcd member is deleted: the cluster's data is lost"
        )
    if added:
        parts.append(f"{fold(sorted(added))} join etcd one by one as learners, quorum holds")
    return "; ".join(parts)


def _is_control_plane(preview: Preview, change: Change, planes: set[str]) -> bool:
    """Ask the settings, and for a machine that goes the gate which knew etcd's members."""
    if change.name in planes:
        return True
    for one in preview.changes:
        if one.name == "etcd-members":
            return change.name in (one.before("controlPlanes") or {})
    return False


def _configuration(acting: Sequence[Judged], machines: Sequence[str]) -> list[MachineField]:
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for one in acting:
        for leaf in one.fields:
            effect = talos.field(leaf)
            where = leaf.where.removeprefix(f"{MAIN}.")
            key = (where, *leaf.texts(), f"{effect.verdict.words}: {effect.why}")
            groups.setdefault(key, []).append(one.machine)
    order = {name: index for index, name in enumerate(machines)}
    return [
        MachineField(
            machines=fold(sorted(names, key=lambda one: order.get(one, 0))),
            field=where, before=before, after=after, effect=effect,
        )
        for (where, before, after, effect), names in groups.items()
    ]  # fmt: skip


def _entry(one: Judged) -> Entry:
    return Entry(
        urn=one.change.urn,
        operation=one.change.operation,
        layer=one.layer,
        verdict=one.effect.verdict.words,
        why=one.effect.why,
        protected=one.change.protected,
        waits=one.waits,
        properties=tuple(properties(one)),
    )


def fold(names: Sequence[str]) -> str:
    """Write names shortly: node01, node02, node03 are `node01-03`, of many others only some."""
    parts: list[str] = []
    for _, run in groupby(enumerate(dict.fromkeys(names)), lambda pair: _run(*pair)):
        found = [name for _, name in run]
        if len(found) > 2:  # noqa: PLR2004 two are as short as a range
            digits = len(found[-1]) - len(_head(found[-1]))
            parts.append(f"{found[0]}-{found[-1][-digits:]}")
        else:
            parts += found
    if len(parts) > NAMES:
        return f"{', '.join(parts[: NAMES - 1])} and {len(parts) - NAMES + 1} more"
    return ", ".join(parts)


def _head(name: str) -> str:
    return name.rstrip("0123456789")


def _run(index: int, name: str) -> tuple[str, int]:
    """Give the same key to names of one run: their number grows as their place does."""
    number = name[len(_head(name)) :]
    return (_head(name), int(number) - index) if number else (name, -index - 1)
