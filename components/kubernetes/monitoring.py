"""Layer monitoring: the boundary in which Argo CD runs what watches the platform.

Namespace, policies, rights, Secrets and the way in are Pulumi's, so that no commit opens them; the
workloads are Argo CD's (platform/monitoring). People see the dashboards below Argo CD's own name,
where the browser shows Argo CD's session: Traefik asks Argo CD whether that session may look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pulumi

from components.gitops.monitoring import NAMESPACE, PATH
from components.kubernetes import outside
from components.kubernetes.argocd import NAMESPACE as ARGOCD
from components.kubernetes.argocd import SERVER
from components.kubernetes.guardrails import ROUTE_PRIORITY
from components.kubernetes.isolated_namespace import (
    MONITORING_LABEL,
    IsolatedNamespace,
    Rule,
    anybody,
    in_namespace,
    metrics,
    ports,
)
from components.kubernetes.objects import KubernetesObject
from components.kubernetes.traefik import NAMESPACE as TRAEFIK
from components.kubernetes.traefik import ROUTE_API
from components.talos.firewall import CONTROL_PLANE_METRICS, KUBELET, METALLB_METRICS
from config.settings import API_PORT
from config.values import split_url
from config.way_out import ANYWHERE

if TYPE_CHECKING:
    from config.settings import Monitoring as MonitoringSettings
    from config.way_out import WayOut

NAME = "app.kubernetes.io/name"
RBAC = "rbac.authorization.k8s.io/v1"
HTTPS_PORT = 443
VICTORIA_METRICS, VMALERT, ALERTMANAGER, STATE = 8428, 8880, 9093, 8080
CILIUM_METRICS = (9962, 9963, 9964, 9965)
SESSION = f"http://{SERVER}.{ARGOCD}.svc.cluster.local/api/v1/projects/platform"
"""Argo CD gives this project to who may see it, and to nobody without a session (its RBAC)."""
SEEN = (
    "vmui/",
    "prometheus/vmui/",
    "prometheus/api/v1/query",
    "prometheus/api/v1/query_range",
    "prometheus/api/v1/series",
    "prometheus/api/v1/labels",
    "prometheus/api/v1/label/",
    "prometheus/api/v1/metadata",
    "prometheus/api/v1/status/",
    "prometheus/prettify-query",
    "prometheus/expand-with-exprs",
    "prometheus/vmalert/api/v1/",
)
"""What the pages ask for. All else writes, deletes, or shows settings."""
RECEIVERS: Mapping[str, str] = {
    "webhook": "alertWebhookUrl",
    "slack": "alertSlackUrl",
    "mail": "alertMailPassword",
    "pager-duty": "alertPagerDutyKey",
    "heartbeat": "heartbeatUrl",
}
"""The files that Alertmanager reads what is secret from (components/gitops/monitoring.py), and the
secrets of the stack that are in them."""
RIGHTS: Mapping[str, list[Rule]] = {
    # Nothing of it is a Secret; with these it finds its targets, and is let in by them.
    "victoria-metrics": [
        {
            "apiGroups": [""],
            "resources": ["nodes", "pods", "services", "endpoints"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"nonResourceURLs": ["/metrics", "/metrics/slis"], "verbs": ["get"]},
    ],
    "kube-state-metrics": [
        {
            "apiGroups": [""],
            "resources": ["nodes", "pods", "persistentvolumeclaims"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["apps"],
            "resources": ["daemonsets", "deployments", "statefulsets"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["autoscaling"],
            "resources": ["horizontalpodautoscalers"],
            "verbs": ["list", "watch"],
        },
    ],
    "vmalert": [],
    "alertmanager": [],
}
"""What each workload's account may do in the whole cluster."""


class Monitoring(pulumi.ComponentResource):
    """The namespace of what watches the platform."""

    def __init__(  # noqa: PLR0913 its settings, its secrets, and what it comes after
        self,
        name: str,
        monitoring: MonitoringSettings,
        *,
        domain: str,
        way: WayOut,
        secrets: Mapping[str, pulumi.Output[str]],
        entrance: pulumi.Resource,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make it; `domain` is Argo CD's, `entrance` is Argo CD, which answers there."""
        super().__init__("platform:kubernetes:Monitoring", name, None, opts)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self, labels=MONITORING_LABEL)
        for what, ingress, egress in _policies(monitoring, way):
            namespace.allow(what, {NAME: what}, ingress=ingress, egress=egress)
        outside.authorities(way, namespace)
        namespace.secret("receivers", secrets)
        for account, rules in RIGHTS.items():
            _account(namespace, account, rules)
        KubernetesObject(
            "v1",
            "ResourceQuota",
            f"{NAMESPACE}/quota",
            metadata={"name": "quota", "namespace": NAMESPACE},
            # Twice what runs, for the moment in which one takes the place of another.
            spec={"hard": {"pods": "12", "limits.memory": "4Gi", "requests.cpu": "1"}},
            opts=namespace.options(),
        )
        _route(domain, namespace.options(entrance))
        self.register_outputs({"namespace": NAMESPACE, "address": f"https://{domain}{PATH}/vmui/"})


def _policies(
    monitoring: MonitoringSettings, way: WayOut
) -> Iterator[tuple[str, list[Rule], list[Rule]]]:
    """Give what each workload lets in, and where it goes."""

    def of(name: str) -> Rule:
        return {"podSelector": {"matchLabels": {NAME: name}}}

    machines = [int(port) for port in (KUBELET, *CONTROL_PLANE_METRICS, *METALLB_METRICS)]
    yield (
        "victoria-metrics",
        [
            {
                "from": [{"namespaceSelector": in_namespace(TRAEFIK)}, of("vmalert")],
                "ports": ports(VICTORIA_METRICS),
            },
            metrics(VICTORIA_METRICS),
        ],
        # Pods of every namespace, each behind its own policy; machines, which no selector matches.
        [
            {"to": [{"namespaceSelector": {}}]},
            anybody(API_PORT, *machines, *CILIUM_METRICS),
        ],
    )
    yield (
        "vmalert",
        [
            {"from": [of("victoria-metrics")], "ports": ports(VMALERT)},
            metrics(VMALERT),
        ],
        [
            {"to": [of("victoria-metrics")], "ports": ports(VICTORIA_METRICS)},
            {"to": [of("alertmanager")], "ports": ports(ALERTMANAGER)},
        ],
    )
    yield (
        "alertmanager",
        [
            {"from": [of("vmalert")], "ports": ports(ALERTMANAGER)},
            metrics(ALERTMANAGER),
        ],
        list(outside.egress(way, _told(monitoring))),
    )
    yield ("kube-state-metrics", [metrics(STATE)], [anybody(API_PORT)])


def _told(monitoring: MonitoringSettings) -> list[tuple[str, int]]:
    """Give where Alertmanager goes; of addresses that are secret the port alone."""
    receivers = monitoring.receivers
    places = []
    if receivers.webhook is not None:
        places.append((ANYWHERE, receivers.webhook.port))
    if monitoring.heartbeat or receivers.slack is not None or receivers.pager_duty is not None:
        places.append((ANYWHERE, HTTPS_PORT))
    if receivers.email is not None and (server := split_url(f"smtp://{receivers.email.server}")):
        places.append((server.host, server.port or HTTPS_PORT))
    return places


def _account(namespace: IsolatedNamespace, name: str, rules: list[Rule]) -> None:
    KubernetesObject(
        "v1",
        "ServiceAccount",
        f"{NAMESPACE}/{name}-account",
        metadata={"name": name, "namespace": NAMESPACE},
        automountServiceAccountToken=bool(rules),
        opts=namespace.options(),
    )
    if not rules:
        return
    full = f"{NAMESPACE}-{name}"
    role = KubernetesObject(
        RBAC,
        "ClusterRole",
        full,
        metadata={"name": full},
        rules=rules,
        opts=namespace.options(),
    )
    KubernetesObject(
        RBAC,
        "ClusterRoleBinding",
        full,
        metadata={"name": full},
        roleRef={"apiGroup": RBAC.partition("/")[0], "kind": "ClusterRole", "name": full},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        opts=namespace.options(role),
    )


def _route(domain: str, opts: pulumi.ResourceOptions) -> None:
    """Serve the pages and what they ask for, to whom Argo CD lets see its project `platform`."""
    paths = " || ".join(f"PathPrefix(`{PATH}/{path}`)" for path in SEEN)
    _traefik("Middleware", "argocd-session", {"forwardAuth": {"address": SESSION}}, opts)
    _traefik(
        "IngressRoute",
        "dashboards",
        {
            "entryPoints": ["websecure"],
            "routes": [
                {
                    "kind": "Rule",
                    "match": f"Host(`{domain}`) && (Method(`GET`) || Method(`POST`)) && ({paths})",
                    "priority": ROUTE_PRIORITY + 2,
                    "middlewares": [{"name": "argocd-session"}],
                    "services": [{"name": "victoria-metrics", "port": VICTORIA_METRICS}],
                },
            ],
            "tls": {},
        },
        opts,
    )


def _traefik(kind: str, name: str, spec: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
    KubernetesObject(
        ROUTE_API,
        kind,
        f"{NAMESPACE}/{name}",
        metadata={"name": name, "namespace": NAMESPACE},
        spec=spec,
        opts=opts,
    )
