"""Layer monitoring: the boundary in which Argo CD runs what watches the platform.

Namespace, policies, rights, Secrets and the way in are Pulumi's, so that no commit opens them; the
workloads are Argo CD's (platform/monitoring). People see the dashboards below Argo CD's own name,
where the browser shows Argo CD's session (watching.py).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pulumi

from components.gitops.monitoring import NAMESPACE, PATH, pages
from components.kubernetes import outside, watching
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
from components.talos.firewall import (
    CILIUM_METRICS,
    CONTROL_PLANE_METRICS,
    KUBELET,
    METALLB_METRICS,
    numbers,
)
from config import plain_yaml
from config.settings import API_PORT
from config.values import split_url
from config.way_out import ANYWHERE, HTTPS_PORT

if TYPE_CHECKING:
    from config.settings import Expiry
    from config.settings import Monitoring as MonitoringSettings
    from config.way_out import WayOut

NAME = "app.kubernetes.io/name"
ENDS = "rules-of-settings"
"""The ConfigMap with rules about the stack's secrets, which vmalert reads where it is."""
SOON_DAYS = 21
VICTORIA_METRICS, VMALERT, ALERTMANAGER, STATE = 8428, 8880, 9093, 8080
SEEN = tuple(
    f"{PATH}/{path}"
    for path in (
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
        expiries: Sequence[Expiry],
        entrance: pulumi.Resource,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make it; people come through `entrance`, to Argo CD's `domain`.

        `expiries` are the stack's secrets of which an alert tells in time.
        """
        super().__init__("platform:kubernetes:Monitoring", name, None, opts)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self, labels=MONITORING_LABEL)
        for what, ingress, egress in _policies(monitoring, way):
            namespace.allow(what, {NAME: what}, ingress=ingress, egress=egress)
        outside.authorities(way, namespace)
        namespace.secret("receivers", secrets)
        if expiries:
            _ends(expiries, namespace)
        for account, rules in RIGHTS.items():
            watching.account(namespace, account, rules)
        # Twice what runs, for the moment in which one takes the place of another.
        watching.quota(namespace, pods="12", limits_memory="4Gi", requests_cpu="1")
        watching.route(
            namespace, domain, SEEN, VICTORIA_METRICS, "victoria-metrics", after=entrance
        )
        self.register_outputs({"namespace": NAMESPACE, "address": pages(domain)})


def _policies(
    monitoring: MonitoringSettings, way: WayOut
) -> Iterator[tuple[str, list[Rule], list[Rule]]]:
    """Give what each workload lets in, and where it goes."""

    def of(name: str) -> Rule:
        return {"podSelector": {"matchLabels": {NAME: name}}}

    machines = numbers(KUBELET, *CONTROL_PLANE_METRICS, *METALLB_METRICS, *CILIUM_METRICS)
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
            anybody(API_PORT, *machines),
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
        list(outside.egress(way, _told(monitoring), *_mail_ports(monitoring))),
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
    return places


def _mail_ports(monitoring: MonitoringSettings) -> list[int]:
    """Give the mail server's port: Alertmanager sends mail by no proxy."""
    mail = monitoring.receivers.email
    server = None if mail is None else split_url(f"smtp://{mail.server}")
    return [] if server is None or server.port is None else [server.port]


def _ends(expiries: Sequence[Expiry], namespace: IsolatedNamespace) -> None:
    """Give vmalert a rule for each secret that ends; it takes a change within a minute.

    Not by Git, as the other rules: whoever rotates a secret changes its day in the same run.
    """
    rules = [
        {
            "alert": "SecretEnds",
            "expr": f"vector(time()) > {_second(secret.ends - dt.timedelta(days=SOON_DAYS))}",
            "labels": {"severity": "warning", "secret": secret.name},
            "annotations": {
                "summary": f"The stack's secret {secret.name} ends on {secret.ends}.",
                "page": "docs/procedures/rotate-secret.md",
            },
        }
        for secret in expiries
    ]
    text = plain_yaml.written({"groups": [{"name": "secrets", "rules": rules}]})
    KubernetesObject(
        "v1",
        "ConfigMap",
        f"{NAMESPACE}/{ENDS}",
        metadata={"name": ENDS, "namespace": NAMESPACE},
        data={"secrets.yaml": text},
        opts=namespace.options(),
    )


def _second(day: dt.date) -> int:
    """Give a day's beginning as seconds since 1970, UTC."""
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp())
