"""Layer Talos: what Talos makes of a machine's data disks, and how far it has got.

Of each disk one partition and one filesystem, mounted at /var/mnt/NAME (UserVolumeConfig). When
Talos makes it, it takes the disk by its SCSI target, which follows from the disk's name: /dev/sdb
may be another one after the next boot. From then on it knows the partition by its label, `u-NAME`,
on whatever disk that is, and formats nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from config import plain_yaml

if TYPE_CHECKING:
    from clients.talosctl import Volume
    from config.settings import DataDisk

KIND = "UserVolumeConfig"
PREFIX = "u-"
"""Of a user volume's name among the volumes."""
FOLDER = "/var/mnt"
"""Where Talos mounts them."""
READY = "ready"
LEAST_SIZE = "512MiB"
"""Talos asks for one; XFS takes 300 MiB. The volume takes its whole disk, and grows with it."""
TABLES_GIB = 1 / 64
"""More than a disk's partition tables take."""
GIBIBYTE = 1 << 30


def document(disk: DataDisk, encryption: Mapping[str, Any] | None) -> dict[str, Any]:
    """Write the document of a disk's volume, encrypted like the machine's own partitions."""
    found = {
        "apiVersion": "v1alpha1",
        "kind": KIND,
        "name": disk.name,
        "provisioning": {
            # A SCSI device is host:channel:target:LUN; there is one controller with disks.
            "diskSelector": {
                "match": f'disk.bus_path.endsWith(":0:{disk.target}:0") && !system_disk'
            },
            "minSize": LEAST_SIZE,
            "grow": True,
        },
        "filesystem": {"type": disk.filesystem},
    }
    return found if encryption is None else {**found, "encryption": dict(encryption)}


def formatted(configuration: str) -> dict[str, str]:
    """Read the filesystem of each user volume of a configuration; Talos' default is XFS."""
    return {
        str(one.get("name")): str((one.get("filesystem") or {}).get("type") or "xfs")
        for one in plain_yaml.read_all(configuration)
        if isinstance(one, dict) and one.get("kind") == KIND
    }


def named(configuration: str) -> set[str]:
    """Name the user volumes of a configuration."""
    return set(formatted(configuration))


def lacking(found: Mapping[str, Volume], wanted: Mapping[str, float]) -> dict[str, str]:
    """Say what the volumes of data disks lack, by `volume NAME`; empty when they have all.

    `found` are a machine's volumes by their names among all, `wanted` the disks' sizes in GiB.
    """
    lacks = {}
    for name, size in wanted.items():
        volume = found.get(f"{PREFIX}{name}")
        if volume is None:
            lacks[f"volume {name}"] = "not there"
        elif volume.phase != READY:
            lacks[f"volume {name}"] = f"{volume.phase} {volume.error}".strip()
        elif volume.size < (size - TABLES_GIB) * GIBIBYTE:
            has = volume.size / GIBIBYTE
            lacks[f"volume {name}"] = f"has {has:.1f} of {size:g} GiB"
    return lacks
