"""Layer Kubernetes: all layers on the cluster, in the order in which they stand on each other.

A layer that the settings do not list is not installed; one that is removed from them goes, while
the others stay. When the machines go, nothing of it is deleted one by one: it is gone with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pulumi

from clients import chart_repositories
from components.gitops.generated import folder
from components.gitops.login import sign_on
from components.gitops.root import root_application
from components.kubernetes import argocd, cert_manager, cilium, metallb, metrics_server, traefik
from components.kubernetes.backup import Backup
from components.kubernetes.foundation import Definition, Foundation, load_definitions
from components.kubernetes.guardrails import Guardrails, hosts_of
from components.kubernetes.local_volumes import LocalVolumes
from components.kubernetes.logging import Logging
from components.kubernetes.manifests import ManifestError
from components.kubernetes.monitoring import RECEIVERS, Monitoring
from components.stack_settings import require_secret
from config.charts import ChartPlan
from config.layers import LAYERS
from config.needed_secrets import needed
from config.way_out import WayOut

if TYPE_CHECKING:
    from components.talos.kubernetes_access import KubernetesAccess
    from config.settings import ArgoCD as ArgoCDSettings
    from config.settings import Settings


def plans(settings: Settings) -> tuple[ChartPlan, ...]:
    """Plan the charts that these settings install, in the order of their installation."""
    return tuple(_plans(settings))


def _plans(settings: Settings) -> Iterator[ChartPlan]:
    services = settings.services
    if services.cilium is not None:
        yield cilium.plan(
            services.cilium,
            cluster=settings.cluster.name,
            pods=str(settings.network.pods),
            machines=len(settings.machines),
        )
    if services.metallb is not None:
        yield metallb.plan(services.metallb)
    if services.cert_manager is not None:
        yield cert_manager.plan(services.cert_manager, WayOut.of(settings))
    if services.metrics_server is not None:
        verified = services.cert_manager is not None
        yield metrics_server.plan(services.metrics_server, verified=verified)
    if services.traefik is not None:
        yield traefik.plan(services.traefik)
    if services.argocd is not None:
        yield argocd.plan(services.argocd, folder(settings.talos.patches))


class PublishedError(Exception):
    """What others publish cannot be had; the text names every setting, and what to do."""


def published(settings: Settings) -> list[Definition]:
    """Fetch the definitions, and look whether each chart can be had. Raises `PublishedError`."""
    problems, definitions = [], list[Definition]()
    try:
        definitions = load_definitions(settings.services, settings.site.definitions)
    except ManifestError as error:
        problems.append(str(error))
    try:
        chart_repositories.check(plans(settings))
    except chart_repositories.ChartError as error:
        problems.append(str(error))
    if problems:
        raise PublishedError("\n".join(problems))
    return definitions


def build(  # noqa: C901 a branch for each service
    settings: Settings,
    definitions: list[Definition],
    *,
    cluster: KubernetesAccess,
    machines: pulumi.Resource,
) -> dict[str, pulumi.Resource]:
    """Register every layer that the settings list; gives them by their names."""
    services, kubeconfig, way = settings.services, cluster.kubeconfig, WayOut.of(settings)
    charts = {chart.chart: chart for chart in plans(settings)}
    secrets = {key.name: require_secret(key.name) for key in needed(services)}
    made: dict[str, pulumi.Resource] = {"cluster": cluster}
    ingress: traefik.Traefik | None = None

    def below(name: str) -> pulumi.ResourceOptions:
        """Give the options of a layer: it comes after those that it stands on."""
        return pulumi.ResourceOptions(
            providers=[cluster.provider],
            deleted_with=machines,
            depends_on=[made[layer] for layer in LAYERS[name].waits_for(made)],
        )

    made["foundation"] = Foundation("foundation", definitions, below("foundation"))
    made["guardrails"] = Guardrails("guardrails", hosts_of(services), below("guardrails"))
    if services.cilium is not None:
        made["cilium"] = cilium.Cilium(
            "cilium",
            services.cilium,
            charts["cilium"],
            kubeconfig,
            machines=[machine.name for machine in settings.machines],
            opts=below("cilium"),
        )
    # First of what stands on Cilium: the certificate is what all others wait for in the end.
    if services.cert_manager is not None:
        made["cert-manager"] = cert_manager.CertManager(
            "cert-manager",
            services.cert_manager,
            charts["cert-manager"],
            kubeconfig,
            cluster=settings.cluster,
            way=way,
            dns_token=secrets.get("dnsToken"),
            dns_access_key=secrets.get("dnsAccessKey"),
            opts=below("cert-manager"),
        )
    if services.metallb is not None:
        made["metallb"] = metallb.MetalLB(
            "metallb",
            services.metallb,
            charts["metallb"],
            kubeconfig,
            pools=settings.network.pools,
            network=settings.network.cidr,
            opts=below("metallb"),
        )
    if services.metrics_server is not None:
        made["metrics-server"] = metrics_server.MetricsServer(
            "metrics-server", charts["metrics-server"], kubeconfig, below("metrics-server")
        )
    if services.traefik is not None and services.cert_manager is not None:
        made["traefik"] = ingress = traefik.Traefik(
            "traefik",
            services.traefik,
            charts["traefik"],
            kubeconfig,
            addresses=made["metallb"],
            issuers=made["cert-manager"],
            certificates=services.cert_manager,
            served=hosts_of(services),
            dashboard_password=secrets.get("traefikDashboardPassword"),
            opts=below("traefik"),
        )
    if services.argocd is not None and ingress is not None:
        made["argo-cd"] = argocd.ArgoCD(
            "argocd",
            services.argocd,
            charts["argo-cd"],
            kubeconfig,
            root=root_application(services.argocd, folder(settings.talos.patches), argocd.ROOT),
            way=way,
            secrets=_secrets_of(services.argocd, secrets),
            entrance=ingress.entrance,
            opts=below("argo-cd"),
        )
    if services.local_volumes is not None:
        made["local-volumes"] = LocalVolumes(
            "local-volumes", services.local_volumes, settings.machines, below("local-volumes")
        )
    if services.monitoring is not None and services.argocd is not None and ingress is not None:
        made["monitoring"] = Monitoring(
            "monitoring",
            services.monitoring,
            domain=services.argocd.domain,
            way=way,
            secrets=_receivers(secrets),
            expiries=settings.cluster.expiries,
            entrance=ingress.entrance,
            opts=below("monitoring"),
        )
    if services.logging is not None and services.argocd is not None and ingress is not None:
        made["logging"] = Logging(
            "logging",
            settings,
            domain=services.argocd.domain,
            entrance=ingress.entrance,
            opts=below("logging"),
        )
    if services.backup is not None:
        made["backup"] = Backup(
            "backup",
            services.backup,
            kubeconfig,
            cluster=settings.cluster.name,
            way=way,
            access_key=secrets["backupAccessKey"],
            secret_key=secrets["backupSecretKey"],
            opts=below("backup"),
        )
    return made


def _secrets_of(
    settings: ArgoCDSettings, secrets: Mapping[str, pulumi.Output[str]]
) -> argocd.Secrets:
    """Pick Argo CD's secrets out of those that the services need."""
    login = sign_on(settings)
    return argocd.Secrets(
        redis=secrets["argocdRedisPassword"],
        webhook=secrets.get(f"{settings.git_host}WebhookSecret"),
        login=None if login is None else secrets[f"{login.kind}ClientSecret"],
        repository=secrets.get("argocdRepositoryKey"),
        commit_status=secrets.get("commitStatusKey"),
    )


def _receivers(secrets: Mapping[str, pulumi.Output[str]]) -> dict[str, pulumi.Output[str]]:
    """Pick what is secret of the alerts' receivers, by the file that each is in."""
    return {file: secrets[key] for file, key in RECEIVERS.items() if key in secrets}
