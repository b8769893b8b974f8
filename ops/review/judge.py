"""Layer Review: finds the rule for each change of a preview."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from config.layers import LAYERS
from config.resource_types import (
    CONFIGURATION,
    GATE,
    HEALTHY,
    JOINED,
    MACHINE,
    PLACE,
    RELEASE,
    UPGRADED,
)
from ops.engine.preview import Change, Preview
from ops.review import charts, kubernetes, omni, talos, upgrades, vsphere
from ops.review.charts import ChartChange
from ops.review.difference import Leaf, leaves
from ops.review.verdict import Effect, Verdict

STACK, UNKNOWN = "stack", "unknown layer"
LAYER_ORDER = (STACK, *LAYERS, UNKNOWN)
NAMES: Mapping[str, str] = {layer.type: layer.name for layer in LAYERS.values()} | {
    "platform:omni:Nodes": "nodes",
    "platform:omni:Cluster": "cluster",
}
"""Layers by the type of their component; Omni's are in the place of the stack's own."""
RULES = {**vsphere.RULES, **talos.RULES}
GOES_ALONG = frozenset(("NetworkPolicy", "Secret", "Service", "CronJob", "Job", "Certificate"))
"""Kinds that nobody misses once the layer which they belong to is gone."""


SHOWN_ELSEWHERE = ("fields", "configuration")
"""Inputs of a machine's gate: its configuration, and its digest."""


@dataclass(frozen=True)
class Judged:
    """A change, where it belongs, and what it does."""

    change: Change
    layer: str
    machine: str
    """The machine that it touches; empty when none."""
    effect: Effect
    waits: bool = False
    """It only waits, or only groups others: nothing is touched by it."""
    fields: list[Leaf] = field(default_factory=list)
    chart: ChartChange | None = None


def layer_of(change: Change) -> str:
    """Give the layer of a change."""
    for kind in (*change.ancestry, change.type):
        if kind in NAMES:
            return NAMES[kind]
    return STACK if not change.ancestry or change.type.startswith("pulumi:") else UNKNOWN


def machine_names(preview: Preview) -> list[str]:
    """Give the machines, old and new, in the settings' order, which is the order of changes."""
    named = [str(one.get("name")) for one in preview.settings.get("machines") or []]
    seen = [
        one.name
        for one in (*preview.changes, *preview.unchanged)
        if one.type in (MACHINE, CONFIGURATION)
    ]
    return list(dict.fromkeys([*named, *seen]))


def judge(preview: Preview) -> list[Judged]:
    """Judge every change; none is left out."""
    machines = machine_names(preview)
    gates = {one.name: one for one in preview.changes if one.type == GATE}
    gone = {
        one.urn
        for one in preview.changes
        if one.operation == "delete" and one.type.startswith("platform:kubernetes:")
    }
    version = str((preview.settings.get("kubernetes") or {}).get("version", ""))
    found = [_judge(one, machines, gates, gone, version) for one in preview.changes]
    return [_upgrade(preview, one) if upgrades.is_kubernetes(one.change) else one for one in found]


def _upgrade(preview: Preview, one: Judged) -> Judged:
    """Judge another version of Kubernetes, of all machines that run."""
    running = upgraded(preview)
    planes = [name for name in running if name in control_planes(preview)]
    workers = [name for name in running if name not in planes]
    effect = upgrades.kubernetes(one.change, planes, workers)
    return replace(one, effect=effect, waits=False)


def upgraded(preview: Preview) -> list[str]:
    """Give the machines that another version of Kubernetes reaches: those that are not new."""
    new = {one.name for one in preview.changes if one.type == MACHINE and one.operation == "create"}
    return [name for name in machine_names(preview) if name not in new]


def control_planes(preview: Preview) -> set[str]:
    """Give the names of the settings' control planes."""
    return {
        str(one.get("name"))
        for one in preview.settings.get("machines") or []
        if one.get("role") == "controlplane"
    }


def _machine_of(gate: str) -> str:
    for suffix in (HEALTHY, JOINED, PLACE, UPGRADED):
        gate = gate.removesuffix(suffix)
    return gate


def _judge(
    change: Change, machines: list[str], gates: Mapping[str, Change], gone: set[str], version: str
) -> Judged:
    layer = layer_of(change)
    name = _machine_of(change.name)
    machine = name if name in machines else ""
    if (
        change.type == GATE
        and change.name == f"{machine}{UPGRADED}"
        and change.operation != "delete"
    ):
        return Judged(change, layer, machine, talos.upgrade(change), waits=change.old is None)
    if change.type == GATE and change.name == omni.CLUSTER:
        return Judged(change, layer, "", omni.cluster(change))
    if change.type == GATE or change.type.startswith(("platform:", "pulumi:pulumi:")):
        words = "waits until it is seen" if change.type == GATE else "groups others"
        return Judged(change, layer, machine, Effect(Verdict.SAFE, words), waits=True)
    if change.type == CONFIGURATION:
        fields = talos.machine_fields(gates.get(f"{change.name}{HEALTHY}"))
        effect = talos.configuration(change, fields)
        release = gates.get(f"{change.name}{UPGRADED}")
        if release is not None and talos.upgrade(release).verdict is Verdict.REBOOTS:
            effect = talos.with_the_upgrade(effect)
        return Judged(change, layer, machine, effect, fields=fields)
    if change.type == RELEASE:
        effect, chart = charts.judge(change, version)
        return Judged(change, layer, "", effect, chart=chart)
    return Judged(change, layer, machine, _effect(change, gone))


def _effect(change: Change, gone: set[str]) -> Effect:
    if rule := RULES.get(change.type):
        return rule(change)
    if change.type == kubernetes.PROVIDER:
        return kubernetes.provider(change)
    if change.type.startswith("pulumi:providers:"):
        return _provider(change)
    if change.type.startswith(kubernetes.PREFIX):
        parent = change.old.parent if change.old else ""
        if (
            change.operation == "delete"
            and parent in gone
            and kubernetes.kind_of(change) in GOES_ALONG
        ):
            return Effect(Verdict.SAFE, f"{kubernetes.kind_of(change)} is deleted with its layer")
        return kubernetes.judge(change)
    return Effect(Verdict.UNKNOWN, f"{change.type}: no rule of the review knows this type")


def _provider(change: Change) -> Effect:
    if change.operation == "replace":
        return Effect(
            Verdict.UNKNOWN, "the provider is replaced: whatever it made may be replaced with it"
        )
    return Effect(Verdict.SAFE, "how the provider is reached changes; nothing is touched")


def properties(one: Judged) -> list[tuple[str, str, str]]:
    """Give the inputs of a change that differ: where, before, after; secrets as such."""
    old: dict[str, Any] = one.change.old.inputs if one.change.old else {}
    new: dict[str, Any] = one.change.new.inputs if one.change.new else {}
    if one.change.operation not in ("update", "replace"):
        return []
    return [
        (leaf.where, *leaf.texts())
        for leaf in leaves(old, new)
        if not any(part.startswith("__") for part in leaf.path)
        and leaf.path[0] not in SHOWN_ELSEWHERE
    ]
