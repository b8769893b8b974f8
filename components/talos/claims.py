"""Layer Talos: a data disk that a pod's volume lies on is not taken away.

vCenter would detach it under the running pod and delete it; Talos could not unmount it. So the
Kubernetes API is asked first whether the disk's PersistentVolume is claimed
(components/kubernetes/local_volumes.py makes one of each disk).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.talosctl import Talosctl, TalosctlError
from components.talos.etcd import Member

PAGE = "docs/procedures/local-volumes.md"
BOUND = "Bound"


def volume_name(machine: str, disk: str) -> str:
    """Name the PersistentVolume of a machine's disk: neither name has a dot in it."""
    return f"{machine}.{disk}"


def fault(
    talos: Talosctl, control_planes: Sequence[str], machine: Member, disks: Iterable[str]
) -> str:
    """Say why these data disks of a machine must not go; empty when they may.

    The first of the control planes, given by their addresses, that hands out a kubeconfig is asked.
    When none does, nobody knows: only a machine that still waits for its first configuration has
    no volumes yet, and so nobody's claim.
    """
    silent = []
    for address in control_planes:
        try:
            api = KubernetesApi(talos.kubeconfig(address))
        except TalosctlError as error:
            silent.append(f"{address}: {error}")
            continue
        try:
            found = [_claim(api, machine.name, disk) for disk in sorted(disks)]
        except ApiError as error:
            return _nobody_says(machine, disks, f"the Kubernetes API: {error}")
        return ". ".join(filter(None, found))
    if talos.in_maintenance(machine.address):
        return ""
    return _nobody_says(machine, disks, "; ".join(silent))


def _nobody_says(machine: Member, disks: Iterable[str], why: str) -> str:
    return (
        f"platform:machines, {machine.name}, dataDisks {', '.join(sorted(disks))}: nobody says "
        f"whether a pod uses what is to go ({why}). Bring a control plane back, or this "
        f"computer's way to it ({PAGE})"
    )


def _claim(api: KubernetesApi, machine: str, disk: str) -> str:
    volume = api.find(f"/api/v1/persistentvolumes/{volume_name(machine, disk)}")
    if volume is None or (volume.get("status") or {}).get("phase") != BOUND:
        return ""
    claim = volume["spec"]["claimRef"]
    return (
        f"platform:machines, {machine}, dataDisks {disk}: its volume is claimed by "
        f"{claim['namespace']}/{claim['name']}; delete that claim first ({PAGE})"
    )
