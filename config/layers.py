"""Configuration: the platform's layers, each of which one component makes, in order.

The one table of them: the rules between services, the order of the deployment (components/
layers.py) and the words of reviews follow from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A layer, and what it stands on."""

    name: str
    """What people call it; where it has a chart, the chart's name."""
    type: str
    """The type token of its component."""
    stands_on: tuple[str, ...] = ()
    """Layers, by their names, that must be there, and ready, before it."""
    service: str = ""
    """The key of `platform:services` that asks for it; empty when every platform has it."""
    after: tuple[str, ...] = ()
    """Layers that it waits for in place of those that it stands on, where they are there."""
    partly_after: tuple[str, ...] = ()
    """Layers that only a part of it waits for: its address, its certificate, the way to it."""
    brought_by: tuple[str, ...] = ()
    """Layers that must be there too, and install what runs in it; it does not wait for them."""
    namespace: str = ""
    """Where its workloads run, if no chart says it."""

    def waits_for(self, there: Collection[str]) -> list[str]:
        """Give the layers to wait for, of those that are there."""
        return [name for name in self.after if name in there] or list(self.stands_on)


LAYERS: Mapping[str, Layer] = {
    layer.name: layer
    for layer in (
        Layer("image", "platform:talos:Image"),
        Layer("machines", "platform:vsphere:Machines", ("image",)),
        Layer("identity", "platform:talos:Identity"),
        Layer("nodes", "platform:talos:Nodes", ("machines", "identity")),
        Layer("cluster", "platform:talos:Cluster", ("nodes",)),
        Layer("foundation", "platform:kubernetes:Foundation", ("cluster",)),
        Layer("guardrails", "platform:kubernetes:Guardrails", ("cluster",)),
        Layer("cilium", "platform:kubernetes:Cilium", ("foundation",), "cilium"),
        Layer("metallb", "platform:kubernetes:MetalLB", ("cilium",), "metallb"),
        Layer("cert-manager", "platform:kubernetes:CertManager", ("cilium",), "certManager"),
        Layer(
            "metrics-server",
            "platform:kubernetes:MetricsServer",
            ("cilium",),
            "metricsServer",
            after=("cert-manager",),  # which issues its certificate, and stands on Cilium too
        ),
        Layer(
            "traefik",
            "platform:kubernetes:Traefik",
            ("metallb", "cert-manager"),
            "traefik",
            after=("cilium",),  # which both of them stand on
            partly_after=("metallb", "cert-manager"),
        ),
        Layer(
            "argo-cd",
            "platform:kubernetes:ArgoCD",
            ("cilium",),
            "argocd",
            partly_after=("traefik",),
        ),
        Layer("local-volumes", "platform:kubernetes:LocalVolumes", ("cluster",), "localVolumes"),
        Layer(
            "monitoring",
            "platform:kubernetes:Monitoring",
            ("cilium", "guardrails"),
            "monitoring",
            partly_after=("traefik",),
            brought_by=("argo-cd",),
            namespace="monitoring",
        ),
        Layer(
            "logging",
            "platform:kubernetes:Logging",
            ("cilium", "guardrails"),
            "logging",
            partly_after=("traefik",),
            brought_by=("argo-cd",),
            namespace="logging",
        ),
        Layer(
            "backup",
            "platform:kubernetes:Backup",
            ("cilium",),
            "backup",
            namespace="platform-backup",
        ),
    )
}
"""By name, each after those that it stands on."""
