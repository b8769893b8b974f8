"""GitOps: what Argo CD's Application `monitoring` needs to know of the settings.

What runs is in platform/monitoring, for all clusters alike. Here is what differs: whom Alertmanager
tells, where metrics lie, and what the cluster is called. What follows from versions and services is
not here: rules ask the cluster for it, so that an upgrade needs no further file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.gitops import overlay
from components.gitops.overlay import Tree
from config.values import split_url
from config.way_out import WayOut

if TYPE_CHECKING:
    from config.settings import Monitoring, Receivers, Settings

NAMESPACE = "monitoring"
BASE = "platform/monitoring"
PATH = "/monitoring"
"""Below Argo CD's name: where people find the dashboards (platform/monitoring)."""
SECRETS = "/etc/receivers"
"""Where Alertmanager finds what is secret of its receivers, a file each."""
STORAGE = "victoria-metrics"
"""The claim of a volume for metrics."""


def pages(domain: str) -> str:
    """Give where people find the dashboards, below Argo CD's name."""
    return f"https://{domain}{PATH}/vmui/"


def files(settings: Settings, base: str) -> dict[str, Tree]:
    """Give the folder's files by their names; `base` is the way from it to platform/monitoring."""
    monitoring, argocd = settings.services.monitoring, settings.services.argocd
    if monitoring is None or argocd is None:
        return {}
    address, way = f"https://{argocd.domain}{PATH}", WayOut.of(settings)
    cluster = settings.cluster.name
    patches = {
        "victoria-metrics": _keeps(settings, monitoring),
        "vmalert": {"env": overlay.variables(ADDRESS=address, CLUSTER=cluster)},
        "alertmanager": _goes_outside(way, address),
    }
    resources = [base]
    found: dict[str, Tree] = {}
    if monitoring.volume_gib is not None and settings.services.local_volumes is not None:
        resources.append("volume.yaml")
        storage_class = settings.services.local_volumes.storage_class
        found["volume.yaml"] = overlay.claim(STORAGE, storage_class, monitoring.volume_gib)
    maps = {"alertmanager": ["alertmanager.yaml"]}
    paths = [f"patches/{name}.yaml" for name in patches]
    return found | {
        "kustomization.yaml": overlay.kustomization(NAMESPACE, resources, paths, maps),
        "alertmanager.yaml": alertmanager(monitoring, proxied=way.proxy is not None),
        **{f"patches/{name}.yaml": overlay.patch(name, spec) for name, spec in patches.items()},
    }


# --- Who is told -------------------------------------------------------------------------------

TITLE = "{{ .CommonLabels.cluster }}: {{ .CommonLabels.alertname }} ({{ .Status }})"
TEXT = (
    "{{ range .Alerts }}{{ .Labels.severity }}: {{ .Annotations.summary }} "
    "({{ .Annotations.page }})\n{{ end }}"
)


def alertmanager(monitoring: Monitoring, *, proxied: bool) -> Tree:
    """Give Alertmanager's settings.

    PagerDuty wakes people, so it gets critical alerts alone; the others get all. A machine that is
    away explains the targets on it that do not answer.
    """
    http = {"http_config": {"proxy_from_environment": True}} if proxied else {}
    everybody = _receivers(monitoring.receivers, http)
    pager = []
    if monitoring.receivers.pager_duty is not None:
        pager.append(
            {
                "routing_key_file": f"{SECRETS}/pager-duty",
                "severity": "critical",
                "description": TITLE,
                "details": {"alerts": TEXT},
                **http,
            }
        )
    routes: list[Tree] = [{"matchers": ['severity="none"'], "receiver": "nobody"}]
    receivers: list[Tree] = [{"name": "everybody", **everybody}]
    if monitoring.heartbeat:
        beat = {"matchers": ['alertname="Heartbeat"'], "receiver": "heartbeat"}
        # A little less than the interval in which it looks: else every other minute is left out.
        often = {"group_wait": "0s", "group_interval": "1m", "repeat_interval": "50s"}
        routes.insert(0, beat | often)
        called = {"url_file": f"{SECRETS}/heartbeat", "send_resolved": False, **http}
        receivers.append({"name": "heartbeat", "webhook_configs": [called]})
    if pager:
        routes.append({"matchers": ['severity="critical"'], "receiver": "critical"})
        receivers.append({"name": "critical", **everybody, "pagerduty_configs": pager})
    return {
        "route": {
            "receiver": "everybody",
            "group_by": ["alertname"],
            "group_wait": "10s",
            "group_interval": "1m",
            "repeat_interval": "12h",
            "routes": routes,
        },
        "receivers": [*receivers, {"name": "nobody"}],
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="NodeAway"'],
                "target_matchers": ['alertname=~"ControlPlaneComponentAway|TargetAway"'],
                "equal": ["node"],
            }
        ],
    }


def _receivers(receivers: Receivers, http: Tree) -> Tree:
    found: Tree = {}
    if receivers.webhook is not None:
        found["webhook_configs"] = [{"url_file": f"{SECRETS}/webhook", **http}]
    if receivers.slack is not None:
        found["slack_configs"] = [
            {
                "api_url_file": f"{SECRETS}/slack",
                "channel": receivers.slack.channel,
                "send_resolved": True,
                "title": TITLE,
                "text": TEXT,
                **http,
            }
        ]
    if receivers.email is not None:
        mail = receivers.email
        found["email_configs"] = [
            {
                "to": mail.to,
                "from": mail.sender,
                "smarthost": mail.server,
                "auth_username": mail.user,
                "auth_password_file": f"{SECRETS}/mail",
                "send_resolved": True,
                "headers": {"Subject": TITLE},
                "text": TEXT,
            }
        ]
    return found


# --- Workloads ---------------------------------------------------------------------------------


def _keeps(settings: Settings, monitoring: Monitoring) -> Tree:
    """Give VictoriaMetrics' variables, and its volume."""
    api = split_url(settings.endpoint)
    variables = overlay.variables(
        RETENTION=f"{monitoring.retention_days}d",
        CLUSTER=settings.cluster.name,
        API="" if api is None else f"{api.host}:{api.port}",
    )
    if monitoring.volume_gib is None:
        return {"env": variables}
    return {"env": variables, "volumes": overlay.claimed(STORAGE)}


def _goes_outside(way: WayOut, address: str) -> Tree:
    """Give Alertmanager what it needs to tell somebody outside."""
    found = {
        "env": [*overlay.variables(ADDRESS=address), *way.environment()],
        "volumeMounts": way.mounts,
        "volumes": way.volumes,
        "annotations": way.annotations,
    }
    return {key: value for key, value in found.items() if value}
