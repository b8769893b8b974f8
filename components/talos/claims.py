"""Layer Talos: a data disk that a pod's volume lies on is not taken away.

vCenter would detach it under the running pod and delete it; Talos could not unmount it. So the
Kubernetes API is asked first whether the disk's PersistentVolume is claimed
(components/kubernetes/local_volumes.py makes one of each disk).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.talosctl import Talosctl, TalosctlError

PAGE = "docs/procedures/local-volumes.md"
BOUND = "Bound"


def volume_name(machine: str, disk: str) -> str:
    """Name the PersistentVolume of a machine's disk: neither name has a dot in it."""
    return f"{machine}.{disk}"


def fault(
    talos: Talosctl, control_planes: Sequence[str], machine: str, disks: Iterable[str]
) -> str:
    """Say why these data disks of a machine must not go; empty when they may.

    The first of the control planes, given by their addresses, that hands out a kubeconfig is asked.
    Without any there is no cluster, and nobody's claim.
    """
    for address in control_planes:
        try:
            api = KubernetesApi(talos.kubeconfig(address))
        except TalosctlError:
            continue
        try:
            found = [_claim(api, machine, disk) for disk in sorted(disks)]
        except ApiError as error:
            return f"the Kubernetes API does not say whether a pod uses its data disks: {error}"
        return ". ".join(filter(None, found))
    return ""


def _claim(api: KubernetesApi, machine: str, disk: str) -> str:
    volume = api.find(f"/api/v1/persistentvolumes/{volume_name(machine, disk)}")
    if volume is None or (volume.get("status") or {}).get("phase") != BOUND:
        return ""
    claim = volume["spec"]["claimRef"]
    return (
        f"platform:machines, {machine}, dataDisks {disk}: its volume is claimed by "
        f"{claim['namespace']}/{claim['name']}; delete that claim first ({PAGE})"
    )
