"""Layers monitoring and logging: their accounts, which have few rights, and the way in to both.

People see both below Argo CD's own name, where the browser shows Argo CD's session: Traefik asks
Argo CD whether that session may look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi

from components.kubernetes.argocd import NAMESPACE as ARGOCD
from components.kubernetes.argocd import SERVER
from components.kubernetes.guardrails import ROUTE_PRIORITY
from components.kubernetes.isolated_namespace import IsolatedNamespace, Rule
from components.kubernetes.objects import KubernetesObject
from components.kubernetes.traefik import ROUTE_API

RBAC = "rbac.authorization.k8s.io/v1"
SESSION = f"http://{SERVER}.{ARGOCD}.svc.cluster.local/api/v1/projects/platform"
"""Argo CD gives this project to who may see it, and to nobody without a session (its RBAC)."""


def account(namespace: IsolatedNamespace, name: str, rules: list[Rule]) -> None:
    """Make a workload's account, and what it may do in the whole cluster; else it has no token."""
    KubernetesObject(
        "v1",
        "ServiceAccount",
        f"{namespace.name}/{name}-account",
        metadata={"name": name, "namespace": namespace.name},
        automountServiceAccountToken=bool(rules),
        opts=namespace.options(),
    )
    if not rules:
        return
    full = f"{namespace.name}-{name}"
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
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace.name}],
        opts=namespace.options(role),
    )


def quota(namespace: IsolatedNamespace, **hard: str) -> None:
    """Bound what all pods of the namespace may ask for."""
    KubernetesObject(
        "v1",
        "ResourceQuota",
        f"{namespace.name}/quota",
        metadata={"name": "quota", "namespace": namespace.name},
        spec={"hard": {name.replace("_", "."): value for name, value in hard.items()}},
        opts=namespace.options(),
    )


def route(  # noqa: PLR0913 where, what, and when
    namespace: IsolatedNamespace,
    domain: str,
    prefixes: Sequence[str],
    port: int,
    service: str,
    *,
    after: pulumi.Resource,
) -> None:
    """Serve these paths of Argo CD's name, to whom it lets see its project `platform`."""
    options = namespace.options(after)
    paths = " || ".join(f"PathPrefix(`{one}`)" for one in prefixes)
    _traefik(
        namespace, "Middleware", "argocd-session", {"forwardAuth": {"address": SESSION}}, options
    )
    # What it serves has no use for the session, with which one could act as its user.
    nothing = dict.fromkeys(("Authorization", "Cookie"), "")
    _traefik(
        namespace,
        "Middleware",
        "without-session",
        {"headers": {"customRequestHeaders": nothing}},
        options,
    )
    _traefik(
        namespace,
        "IngressRoute",
        "dashboards",
        {
            "entryPoints": ["websecure"],
            "routes": [
                {
                    "kind": "Rule",
                    # Questions that are long are asked by POST.
                    "match": f"Host(`{domain}`) && (Method(`GET`) || Method(`POST`)) && ({paths})",
                    "priority": ROUTE_PRIORITY + 2,
                    "middlewares": [{"name": "argocd-session"}, {"name": "without-session"}],
                    "services": [{"name": service, "port": port}],
                },
            ],
            "tls": {},
        },
        options,
    )


def _traefik(
    namespace: IsolatedNamespace,
    kind: str,
    name: str,
    spec: dict[str, Any],
    opts: pulumi.ResourceOptions,
) -> None:
    KubernetesObject(
        ROUTE_API,
        kind,
        f"{namespace.name}/{name}",
        metadata={"name": name, "namespace": namespace.name},
        spec=spec,
        opts=opts,
    )
