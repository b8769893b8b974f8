"""Layer Review: what a change leaves less of: machines, memory, disks, replicas, addresses.

The verdict names the worst; what shrinks besides is easily missed, and missed when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config.resource_types import MACHINE
from ops.review import kubernetes, vsphere
from ops.review.difference import leaves
from ops.review.judge import Judged

AMOUNTS = frozenset(
    [
        "cpu",
        "ephemeral-storage",
        "maxReplicas",
        "memory",
        "minAvailable",
        "minReplicas",
        "parallelism",
        "replicaCount",
        "replicas",
        "size",
        "storage",
    ]
)
"""Fields that say how much of something there is."""
QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
FACTORS = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
POOL = "IPAddressPool"

Found = tuple[str, str, Judged]
"""Whose it is, what of it shrinks, and the change."""


def shrinks(acting: Sequence[Judged], planes: tuple[int, int]) -> Iterator[Found]:
    """Give all that shrinks; `planes` are the numbers of control planes before and after."""
    before, after = planes
    for one in acting:
        change = one.change
        if change.type == MACHINE:
            yield from ((one.machine or change.name, text, one) for text in _machine(one))
        elif one.chart is not None:
            yield from ((one.chart.release, text, one) for text in _chart(one))
        elif change.operation in ("update", "replace") and change.type.startswith(
            kubernetes.PREFIX
        ):
            yield from ((change.name, text, one) for text in _object(one))
        if change.type == MACHINE and change.operation == "delete" and after < before:
            yield "control planes", f"{before} to {after}", one
            before = after  # once


def _machine(one: Judged) -> Iterator[str]:
    change = one.change
    if change.operation == "delete":
        yield "removed"
        return
    for key, what, unit in (("memory", "memory", " MiB"), ("numCpus", "CPUs", "")):
        old, new = change.before(key), change.after(key)
        if vsphere.less(new, old):
            yield f"{what} {old:g} to {new:g}{unit}"
    if change.operation == "update":
        old, new = (
            vsphere.sizes(value) for value in (change.before("disks"), change.after("disks"))
        )
        for label, size in old.items():
            if label not in new:
                yield f"loses the disk {label}"
            elif vsphere.less(new[label], size):
                yield f"disk {label} {size} to {new[label]} GiB"


def _chart(one: Judged) -> Iterator[str]:
    chart = one.chart
    if chart is None:
        return
    if chart.problem:
        yield from (
            f"{where} {old} to {new}" for where, old, new in chart.values if _less(where, old, new)
        )
        return
    for each in chart.objects:
        kind, name = each.name.split(" ")[0], each.name.rpartition(" ")[2].rpartition("/")[2]
        for where, old, new in each.fields:
            if _less(where, old, new):
                yield f"{kind} {name}: {_short(where)} {old} to {new}"


def _object(one: Judged) -> Iterator[str]:
    change = one.change
    kind = kubernetes.kind_of(change)
    old, new = change.before("spec"), change.after("spec")
    if kind == POOL:
        lost = kubernetes.addresses_lost(change)
        if lost:
            yield f"loses {lost} addresses"
        return
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    for leaf in leaves(old, new):
        was, is_ = leaf.texts()
        if _less(leaf.where, was, is_):
            yield f"{_short(leaf.where)} {was} to {is_}"


def _less(where: str, old: str, new: str) -> bool:
    was, is_ = amount(old), amount(new)
    known = was is not None and is_ is not None
    return _name(where) in AMOUNTS and known and is_ < was  # type: ignore[operator]


def _name(where: str) -> str:
    return re.split(r"[.\[\]\"]+", where.rstrip('"]'))[-1]


def _short(where: str) -> str:
    """Give the end of a path, which says what it is: `limits.memory`."""
    parts = where.split(".")
    return ".".join(parts[-2:]) if parts[-2:-1] in (["limits"], ["requests"]) else parts[-1]


def amount(text: Any) -> float | None:  # noqa: ANN401 JSON
    """Read a number or one of Kubernetes' quantities; None when it is neither."""
    found = QUANTITY.match(str(text))
    return float(found[1]) * FACTORS[found[2] or ""] if found else None
