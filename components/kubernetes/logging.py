"""Layer logging: the boundary in which Argo CD runs what keeps the platform's logs.

As the layer monitoring. Talos' own logs come to a Service with an address that never changes
(config/log_places.py), as the machines' configuration names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi

from components.gitops.logging import NAMESPACE, PATH, pages
from components.kubernetes import watching
from components.kubernetes.isolated_namespace import (
    IsolatedNamespace,
    anybody,
    in_namespace,
    metrics,
    ports,
)
from components.kubernetes.traefik import NAMESPACE as TRAEFIK
from config.log_places import KERNEL_PORT, SERVICES_PORT
from config.settings import API_PORT

if TYPE_CHECKING:
    from config.settings import Settings

NAME = "app.kubernetes.io/name"
VICTORIA_LOGS, VLAGENT = 9428, 9429
SEEN = (f"{PATH}/select/",)
"""What the page asks for. All else takes lines in, or deletes them."""
RIGHTS = {
    "victoria-logs": [],
    "vlagent": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    ],
}
"""What each workload's account may do in the whole cluster."""


class Logging(pulumi.ComponentResource):
    """The namespace of what keeps logs."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        domain: str,
        entrance: pulumi.Resource,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make it; people come through `entrance`, to Argo CD's `domain`."""
        super().__init__("platform:kubernetes:Logging", name, None, opts)
        # Privileged, since the agents read files of their machines.
        namespace = IsolatedNamespace(NAMESPACE, "privileged", self)
        agents = {"podSelector": {"matchLabels": {NAME: "vlagent"}}}
        store = {"podSelector": {"matchLabels": {NAME: "victoria-logs"}}}
        namespace.allow(
            "victoria-logs",
            {NAME: "victoria-logs"},
            ingress=[
                {
                    "from": [{"namespaceSelector": in_namespace(TRAEFIK)}, agents],
                    "ports": ports(VICTORIA_LOGS),
                },
                metrics(VICTORIA_LOGS),
                # Machines, which no selector matches.
                anybody(SERVICES_PORT, KERNEL_PORT),
            ],
        )
        namespace.allow(
            "vlagent",
            {NAME: "vlagent"},
            ingress=[metrics(VLAGENT)],
            egress=[{"to": [store], "ports": ports(VICTORIA_LOGS)}, anybody(API_PORT)],
        )
        for account, rules in RIGHTS.items():
            watching.account(namespace, account, rules)
        machines = len(settings.machines)
        watching.quota(namespace, pods=str(2 * machines + 4), limits_memory=f"{4 + machines}Gi")
        watching.route(namespace, domain, SEEN, VICTORIA_LOGS, "victoria-logs", after=entrance)
        self.register_outputs({"namespace": NAMESPACE, "address": pages(domain)})
