"""Layer Talos: what a new configuration must not bring to a machine that runs.

Kubernetes' version policy (https://kubernetes.io/releases/version-skew-policy/) has API servers go
up by one minor version at a time, and before the kubelets. A new configuration restarts a machine's
kubelet and its control plane at once, so another minor version is not its business; nor is a Talos
that is further away than one minor version, or older (Talos' page on upgrading). Partitions are
encrypted and formatted when they are made; Talos leaves those that exist as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from components.talos import volumes
from config import plain_yaml

UPGRADE_KUBERNETES = "docs/procedures/upgrade-kubernetes.md"
UPGRADE_TALOS = "docs/procedures/upgrade-talos.md"


def of(running: str, wanted: str, talos: str) -> list[str]:
    """Say why a machine must not get a configuration; empty when it may.

    `running` and `wanted` are whole configurations as YAML, `talos` is the version that the machine
    runs, such as `v1.13.9`. A version that is not told is not compared.
    """
    return [
        *_kubernetes(_version(running, "kubelet"), _version(wanted, "kubelet")),
        *of_talos(talos, _version(wanted, "install")),
        *_encryption(_encrypted(running), _encrypted(wanted)),
        *_filesystems(volumes.formatted(running), volumes.formatted(wanted)),
    ]


Minor = tuple[int, int]
Keys = dict[str, Any]


def _kubernetes(runs: str, wanted: str) -> list[str]:
    before, after = _minor(runs), _minor(wanted)
    if before is None or after is None or before == after:
        return []
    key = f"platform:kubernetes.version = {wanted.removeprefix('v')}"
    fault = f"{key}: it runs {runs}, and a configuration moves Kubernetes to no other minor version"
    return [f"{fault}. Set it back, or upgrade in order, one at a time ({UPGRADE_KUBERNETES})"]


def of_talos(runs: str, wanted: str) -> list[str]:
    """Say why a machine must not go from one version of Talos, as `v1.13.9`, to another one."""
    before, after = _minor(runs), _minor(wanted)
    if before is None or after is None:
        return []
    (old_major, old_minor), (major, minor) = before, after
    if old_major == major and minor - old_minor in (0, 1):
        return []
    key = f"platform:talos.version = {wanted.removeprefix('v')}"
    fault = f"{key}: it runs {runs}, and Talos goes up by one minor version at a time"
    return [f"{fault} and not down across one. Set it back ({UPGRADE_TALOS})"]


def _encryption(runs: Keys, wanted: Keys) -> list[str]:
    if runs == wanted:
        return []
    fault = "platform:talos.diskEncryption: not what the machine was installed with"
    fix = "Set it back; a change takes a rebuild (docs/procedures/destroy-and-rebuild.md)"
    return [f"{fault}, and its partitions stay as they are. {fix}"]


def _encrypted(configuration: str) -> Keys:
    """Read how each partition is encrypted, by its name."""
    return {
        str(one.get("name")): one["encryption"]
        for one in plain_yaml.read_all(configuration)
        if isinstance(one, dict) and one.get("kind") == "VolumeConfig" and one.get("encryption")
    }


def _filesystems(runs: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"platform:machines, dataDisks {name}, filesystem = {wanted[name]}: its volume has been "
        f"formatted as {runs[name]}, and Talos formats none again. Set it back, or give a new disk "
        "another name (docs/procedures/local-volumes.md)"
        for name in runs
        if name in wanted and runs[name] != wanted[name]
    ]


def _version(configuration: str, section: str) -> str:
    """Read the tag of the kubelet's image, or of the installer's."""
    documents: list[Any] = list(plain_yaml.read_all(configuration))
    for one in documents:
        if isinstance(one, dict) and isinstance(one.get("machine"), dict):
            image = (one["machine"].get(section) or {}).get("image") or ""
            return str(image).partition("@")[0].rpartition(":")[2]
    return ""


def _minor(version: str) -> Minor | None:
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.\d+\S*", version)
    return (int(found[1]), int(found[2])) if found else None
