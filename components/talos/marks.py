"""Layer Talos: the labels and taints of a machine's configuration are on its node.

Talos sets a worker's with the kubelet's rights, and the API server may refuse them all without a
machine being any less healthy. A worker's taints count only when its node registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.talos.redaction import MAIN


@dataclass(frozen=True)
class Marks:
    """Labels, and taints as value by key and effect."""

    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return bool(self.labels or self.taints)

    @classmethod
    def of_gate(cls, inputs: Mapping[str, Any] | None) -> Marks:
        """Read what the inputs of a machine's gate say; none when they do not."""
        machine: Any = inputs or {}
        for key in ("fields", MAIN, "machine"):
            machine = machine.get(key) if isinstance(machine, Mapping) else None
        return cls.of_machine(machine) if isinstance(machine, Mapping) else cls()

    @classmethod
    def of_machine(cls, machine: Mapping[str, Any]) -> Marks:
        """Read the section `machine` of a configuration."""
        taints = {}
        for key, text in (machine.get("nodeTaints") or {}).items():
            value, _, effect = str(text).rpartition(":")
            taints[str(key), effect] = value
        kubelet = (machine.get("kubelet") or {}).get("extraConfig") or {}
        for one in kubelet.get("registerWithTaints") or ():
            taints[str(one.get("key")), str(one.get("effect"))] = str(one.get("value") or "")
        labels = machine.get("nodeLabels") or {}
        return cls({str(key): str(value) for key, value in labels.items()}, taints)


def lacking(node: Mapping[str, Any], wanted: Marks) -> str:
    """Say what a node does not have, with the commands that give it; empty when it has all."""
    name = node["metadata"]["name"]
    labels = node["metadata"].get("labels") or {}
    taints = {
        (one["key"], one["effect"]): str(one.get("value") or "")
        for one in (node.get("spec") or {}).get("taints") or ()
    }
    commands = [
        f"kubectl label --overwrite node {name} {key}={value}"
        for key, value in sorted(wanted.labels.items())
        if labels.get(key) != value
    ]
    commands += [
        f"kubectl taint --overwrite node {name} {key}={value}:{effect}"
        for (key, effect), value in sorted(wanted.taints.items())
        if taints.get((key, effect)) != value
    ]
    told = " && ".join(commands)
    return f"its node has not taken them; on a node that was there before: `{told}`" if told else ""
