"""Layer Talos: the patches that make one machine's configuration, as YAML texts.

First the files that an operator writes (`clusters/prod/`: common.yaml, then controlplane.yaml or
worker.yaml, then NAME.yaml for a single machine, each where it exists), then what follows from the
settings, so that no file can contradict them. Field names are those of Talos 1.13's schema
(pkg/machinery/config/schemas/config.schema.json).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from config.settings import Machine, Settings

LINK = "eth0"
"""The only network interface; Talos' VMware image boots with net.ifnames=0."""
COMMON = "common"
GITOPS = "gitops"
"""A folder beside the patches: what Argo CD reads of this cluster (gitops/generated.py)."""


class PatchError(Exception):
    """The folder of patches is missing, or holds a file that no machine would get."""


def check_patch_files(settings: Settings, root: Path) -> None:
    """Fail on a patch file that is not for any machine, such as one with a misspelled name."""
    folder = root / settings.talos.patches
    if not folder.is_dir():
        message = f"platform:talos.patches = {settings.talos.patches}: no such folder; create it"
        raise PatchError(message)
    names = {COMMON, "controlplane", "worker", *(one.name for one in settings.machines)}
    strays = sorted(
        one.name
        for one in folder.iterdir()
        if one.name != GITOPS and (one.suffix != ".yaml" or one.stem not in names)
    )
    if strays:
        message = (
            f"platform:talos.patches = {settings.talos.patches}: {', '.join(strays)} would be "
            f"given to no machine; name it after one of {', '.join(sorted(names))}, as NAME.yaml"
        )
        raise PatchError(message)


def patches(settings: Settings, machine: Machine, root: Path) -> list[str]:
    """List the patches of a machine, in the order in which Talos merges them."""
    folder = root / settings.talos.patches
    files = [folder / f"{name}.yaml" for name in (COMMON, machine.role, machine.name)]
    written = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return written + [
        yaml.safe_dump(document, sort_keys=False) for document in documents(settings, machine)
    ]


def documents(settings: Settings, machine: Machine) -> list[dict[str, Any]]:
    """List the configuration documents that follow from the settings."""
    return [
        {"machine": _machine(settings, machine), "cluster": _cluster(settings, machine)},
        *_network(settings, machine),
        *_kernel_log(settings),
    ]


def _machine(settings: Settings, machine: Machine) -> dict[str, Any]:
    own = str(machine.address)
    section: dict[str, Any] = {
        "install": {"disk": settings.talos.install_disk, "image": settings.installer_image},
        "certSANs": [own],
        # The machine's own address alone: the VIP lies in the same network, and moves.
        "kubelet": {"nodeIP": {"validSubnets": [f"{own}/32"]}},
    }
    if machine.labels:
        section["nodeLabels"] = dict(machine.labels)
    if machine.taints:
        section["nodeTaints"] = {one.key: f"{one.value}:{one.effect}" for one in machine.taints}
    if settings.talos.log_destinations.services:
        section["logging"] = {
            "destinations": [
                {"endpoint": one, "format": "json_lines"}
                for one in settings.talos.log_destinations.services
            ]
        }
    return section


def _cluster(settings: Settings, machine: Machine) -> dict[str, Any]:
    network = settings.network
    section: dict[str, Any] = {
        "network": {
            "podSubnets": [str(network.pods)],
            "serviceSubnets": [str(network.services)],
        }
    }
    if machine.is_control_plane:
        names = [str(one.address) for one in settings.control_planes]
        if network.vip is not None:
            names.insert(0, str(network.vip))
        section["apiServer"] = {"certSANs": names}
        section["etcd"] = {"advertisedSubnets": [f"{machine.address}/32"]}
    return section


def _network(settings: Settings, machine: Machine) -> list[dict[str, Any]]:
    network = settings.network
    found = [
        _document("HostnameConfig", auto="off", hostname=machine.name),
        _document(
            "LinkConfig",
            name=LINK,
            addresses=[{"address": f"{machine.address}/{network.cidr.prefixlen}"}],
            routes=[{"gateway": str(network.gateway)}],
        ),
        _document(
            "ResolverConfig",
            nameservers=[{"address": str(address)} for address in network.name_servers],
        ),
        _document("TimeSyncConfig", ntp={"servers": list(network.time_servers)}),
    ]
    if machine.is_control_plane and network.vip is not None:
        found.append(_document("Layer2VIPConfig", name=str(network.vip), link=LINK))
    return found


def _kernel_log(settings: Settings) -> list[dict[str, Any]]:
    return [
        _document("KmsgLogConfig", name=f"kernel-{number}", url=url)
        for number, url in enumerate(settings.talos.log_destinations.kernel)
    ]


def _document(kind: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 YAML values
    return {"apiVersion": "v1alpha1", "kind": kind, **fields}
