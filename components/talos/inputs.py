"""Layer Talos: what the machines' configuration, and the way to their cluster, follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.way_out import WayOut

if TYPE_CHECKING:
    from config.settings import Cluster, Kubernetes, Machine, NetworkSettings, Settings, Talos


@dataclass(frozen=True)
class TalosInputs:
    """The layer's own sections of the settings, and what it has to know of the others."""

    cluster: Cluster
    machines: tuple[Machine, ...]
    network: NetworkSettings
    talos: Talos
    kubernetes: Kubernetes
    endpoint: str
    """The Kubernetes API's URL."""
    installer_image: str
    way: WayOut
    """How machines get outside."""
    routing: str
    """How pods' packets go between machines: `native`, `vxlan` or `geneve`."""
    backup: bool
    """Whether a job in the cluster takes backups of etcd, and asks the machines for them."""
    logs: bool
    """Whether the platform keeps the machines' logs itself."""

    @classmethod
    def of(cls, settings: Settings) -> TalosInputs:
        """Take them from the settings."""
        cilium = settings.services.cilium
        return cls(
            cluster=settings.cluster,
            machines=settings.machines,
            network=settings.network,
            talos=settings.talos,
            kubernetes=settings.kubernetes,
            endpoint=settings.endpoint,
            installer_image=settings.installer_image,
            way=WayOut.of(settings),
            routing="native" if cilium is None else cilium.routing,
            backup=settings.services.backup is not None,
            logs=settings.services.logging is not None and settings.services.logging.machines,
        )

    @property
    def control_planes(self) -> list[Machine]:
        """The machines that run etcd and the API server; the first one bootstraps the cluster."""
        return [machine for machine in self.machines if machine.is_control_plane]

    @property
    def workers(self) -> list[Machine]:
        """The machines that only run workloads."""
        return [machine for machine in self.machines if not machine.is_control_plane]
