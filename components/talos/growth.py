"""Layer Talos: a machine that has grown is used in full only when its node says so.

The kubelet reads CPUs and memory when it starts (kubernetes/kubernetes #62355). Talos takes up
memory while it runs, CPUs only at a boot (siderolabs/talos #12260). A partition grows when Talos
finds it (internal/app/machined/pkg/controllers/block), and the kernel asks a disk how large it is
when it finds that: more of any disk is taken up at a boot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.talosctl import Talosctl, TalosctlError
from components.vsphere.disks import SYSTEM

MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
UNITS = {"Ki": 1 << 10, "Mi": MEBIBYTE, "Gi": GIBIBYTE, "Ti": 1 << 40}

KERNEL_SHARE = 0.1
"""At most so much of a machine's memory is the kernel's own, and not in the node's capacity."""


@dataclass(frozen=True)
class Size:
    """What a machine has, or its node says that it has."""

    cpus: float
    memory_mib: float
    disk_gib: float
    """Of a machine its system disk, of a node the partition for pods on it."""
    data_gib: Mapping[str, float] = field(default_factory=dict)
    """Of a machine its data disks, by name."""

    @classmethod
    def of_gate(cls, inputs: Mapping[str, Any] | None) -> Size | None:
        """Read what the inputs of a machine's gate say; None when they do not."""
        given = inputs or {}
        disks = given.get("disksGiB")
        if not isinstance(disks, Mapping):
            return None
        sizes = {str(name): float(size) for name, size in disks.items()}
        system = sizes.pop(SYSTEM, None)
        if system is None or "cpus" not in given or "memoryMiB" not in given:
            return None
        return cls(float(given["cpus"]), float(given["memoryMiB"]), system, sizes)

    @classmethod
    def of_node(cls, node: Mapping[str, Any]) -> Size:
        """Read a node's capacity."""
        capacity = node["status"]["capacity"]
        return cls(
            quantity(capacity["cpu"]),
            quantity(capacity["memory"]) / MEBIBYTE,
            quantity(capacity["ephemeral-storage"]) / GIBIBYTE,
        )

    def boots_for(self, new: Size) -> bool:
        """Tell whether a machine of this size must boot to use the new one."""
        larger = (new.data_gib.get(name, size) > size for name, size in self.data_gib.items())
        return new.cpus > self.cpus or new.disk_gib > self.disk_gib or any(larger)


def quantity(text: str) -> float:
    """Read a quantity of Kubernetes, such as `16374032Ki`, `3920m` or `4`."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def lacking(node: Size, machine: Size) -> str:
    """Say what a node does not have of its machine; empty when it has all.

    Of the disk nothing: how much of it the partition for pods takes is a matter of patches.
    """
    lacks = []
    if node.cpus < machine.cpus:
        lacks.append(f"{node.cpus:g} of {machine.cpus:g} CPUs")
    if node.memory_mib < machine.memory_mib * (1 - KERNEL_SHARE):
        lacks.append(f"{node.memory_mib:.0f} of {machine.memory_mib:g} MiB of memory")
    return f"its node has {' and '.join(lacks)}" if lacks else ""


def of_node(talos: Talosctl, control_planes: list[str], name: str) -> Size | str:
    """Read a node's size as `node_of` does; a text says why not."""
    node = node_of(talos, control_planes, name)
    return node if isinstance(node, str) else Size.of_node(node)


def node_of(talos: Talosctl, control_planes: list[str], name: str) -> Mapping[str, Any] | str:
    """Ask the Kubernetes API, with the first of these machines' kubeconfig; a text says why not."""
    reason = "there is no control plane"
    for address in control_planes:
        try:
            api = KubernetesApi(talos.kubeconfig(address))
            found: Mapping[str, Any] = api.get(f"/api/v1/nodes/{name}")
        except (TalosctlError, ApiError) as error:
            reason = str(error)
        else:
            return found
    return f"the Kubernetes API does not tell of the node: {reason}"
