"""Layer Kubernetes: all layers on the cluster, in the order in which they stand on each other.

A layer that the settings do not list is not installed; one that is removed from them goes, while
the others stay. When the machines go, nothing of it is deleted one by one: it is gone with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pulumi

from clients import chart_repositories
from components.kubernetes import argocd, cert_manager, cilium, metallb, metrics_server, traefik
from components.kubernetes.backup import Backup
from components.kubernetes.foundation import Definition, Foundation, load_definitions
from components.kubernetes.guardrails import Guardrails
from components.kubernetes.manifests import ManifestError
from config.charts import ChartPlan

if TYPE_CHECKING:
    from components.talos.cluster import Cluster
    from config.settings import Settings

PLANS: tuple[Callable[[Settings], ChartPlan | None], ...] = (
    cilium.plan,
    metrics_server.plan,
    metallb.plan,
    cert_manager.plan,
    traefik.plan,
    argocd.plan,
)


def plans(settings: Settings) -> tuple[ChartPlan, ...]:
    """Plan the charts that these settings install, in the order of their installation."""
    return tuple(found for plan in PLANS if (found := plan(settings)) is not None)


class PublishedError(Exception):
    """What others publish cannot be had; the text names every setting, and what to do."""


def published(settings: Settings) -> list[Definition]:
    """Fetch the definitions, and look whether each chart can be had. Raises `PublishedError`."""
    problems, definitions = [], list[Definition]()
    try:
        definitions = load_definitions(settings)
    except ManifestError as error:
        problems.append(str(error))
    try:
        chart_repositories.check(plans(settings))
    except chart_repositories.ChartError as error:
        problems.append(str(error))
    if problems:
        raise PublishedError("\n".join(problems))
    return definitions


def build(
    settings: Settings,
    definitions: list[Definition],
    *,
    cluster: Cluster,
    machines: pulumi.Resource,
) -> None:
    """Register every layer that the settings list."""
    services, kubeconfig = settings.services, cluster.kubeconfig

    def on(*below: pulumi.Resource | None) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            providers=[cluster.provider],
            deleted_with=machines,
            depends_on=[one for one in below if one is not None],
        )

    foundation = Foundation("foundation", definitions, on(cluster))
    Guardrails("guardrails", settings, on(cluster))
    if services.cilium is None:
        return
    network = cilium.Cilium("cilium", settings, kubeconfig, on(foundation))
    if services.backup is not None:
        Backup("backup", settings, kubeconfig, on(network))
    addresses = certificates = ingress = None
    if services.metallb is not None:
        addresses = metallb.MetalLB("metallb", settings, kubeconfig, on(network))
    if services.cert_manager is not None:
        certificates = cert_manager.CertManager("cert-manager", settings, kubeconfig, on(network))
    if services.metrics_server is not None:
        after = on(certificates or network)
        metrics_server.MetricsServer("metrics-server", settings, kubeconfig, after)
    if services.traefik is not None and certificates is not None:
        ingress = traefik.Traefik(
            "traefik",
            settings,
            kubeconfig,
            issuer=certificates.issuer,
            opts=on(addresses, certificates),
        )
    if services.argocd is not None:
        argocd.ArgoCD("argocd", settings, kubeconfig, on(ingress))
