"""Layer Kubernetes: the machines' data disks as volumes that pods can claim.

A PersistentVolume for each disk of which Talos makes a volume, and a class that binds a claim only
when a pod of it is placed: the pod then runs where the disk is. The volumes are written down, not
found by a program in the cluster: the settings know each disk
(docs/decisions/0029-volumes-of-applications.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pulumi

from components.kubernetes.objects import KubernetesObject, Metadata
from components.talos.claims import volume_name
from components.talos.volumes import FOLDER

if TYPE_CHECKING:
    from config.settings import DataDisk, Machine
    from config.settings import LocalVolumes as LocalVolumesSettings

NOBODY = "kubernetes.io/no-provisioner"
"""The provisioner of a class whose volumes are made beforehand."""
DEFAULT = "storageclass.kubernetes.io/is-default-class"
HOST_NAME = "kubernetes.io/hostname"
"""The label with which Kubernetes names a node; Talos' node has its machine's name."""


class LocalVolumes(pulumi.ComponentResource):
    """The class, and the volumes."""

    def __init__(
        self,
        name: str,
        settings: LocalVolumesSettings,
        machines: Sequence[Machine],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make the class, and a volume for each data disk that has one."""
        super().__init__("platform:kubernetes:LocalVolumes", name, None, opts)
        self._class = settings.storage_class
        metadata: Metadata = {"name": self._class}
        if settings.default:
            metadata["annotations"] = {DEFAULT: "true"}
        KubernetesObject(
            "storage.k8s.io/v1",
            "StorageClass",
            self._class,
            metadata=metadata,
            provisioner=NOBODY,
            volumeBindingMode="WaitForFirstConsumer",
            opts=pulumi.ResourceOptions(parent=self),
        )
        volumes = [(machine.name, disk) for machine in machines for disk in machine.volumes]
        for node, disk in volumes:
            self._volume(node, disk)
        self.register_outputs(
            {
                "storageClass": self._class,
                "volumes": {
                    volume_name(node, disk.name): f"{disk.size_gib}Gi" for node, disk in volumes
                },
            }
        )

    def _volume(self, node: str, disk: DataDisk) -> None:
        name = volume_name(node, disk.name)
        expression = {"key": HOST_NAME, "operator": "In", "values": [node]}
        KubernetesObject(
            "v1",
            "PersistentVolume",
            name,
            metadata={"name": name},
            spec={
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": f"{disk.size_gib}Gi"},
                "local": {"path": f"{FOLDER}/{disk.name}"},
                "nodeAffinity": {
                    "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
                },
                # What a claim has left stays until a person has looked at it.
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": self._class,
                "volumeMode": "Filesystem",
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
