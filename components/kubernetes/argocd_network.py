"""Layer Argo CD: who of its parts may talk to whom.

Chart argo-cd 10.1.1 brings policies of its own, which open the server to every pod and leave
redis-ha without any; they are off (bootstrap/argo-cd/values.yaml). These are Pulumi's and not Argo
CD's, so that no commit opens them. Ports are the pods' own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from components.kubernetes.isolated_namespace import (
    HTTPS_PORT,
    Rule,
    anybody,
    in_namespace,
    metrics,
    ports,
)
from config import git
from config.settings import API_PORT

if TYPE_CHECKING:
    from config.settings import ArgoCD

NAME = "app.kubernetes.io/name"
SSH_PORT = 22


class Part(NamedTuple):
    """A part of Argo CD: its pods' labels, what it serves to others, and where it tells metrics."""

    labels: Mapping[str, str]
    serves: tuple[int, ...]
    metrics: int


PARTS: Mapping[str, Part] = {
    "server": Part({NAME: "argocd-server"}, (8080,), 8083),
    "controller": Part({NAME: "argocd-application-controller"}, (), 8082),
    "repo-server": Part({NAME: "argocd-repo-server"}, (8081,), 8084),
    "applicationset": Part({NAME: "argocd-applicationset-controller"}, (), 8080),
    "notifications": Part({NAME: "argocd-notifications-controller"}, (), 9001),
    "dex": Part({NAME: "argocd-dex-server"}, (5556, 5557), 5558),
    "redis-proxy": Part({"app": "redis-ha-haproxy"}, (6379,), 9101),
    "redis": Part({"app": "redis-ha"}, (6379, 26379), 9121),
}

CALLS: Mapping[str, tuple[str, ...]] = {
    "server": ("repo-server", "dex", "redis-proxy"),
    "controller": ("repo-server", "redis-proxy"),
    "repo-server": ("redis-proxy",),
    "applicationset": ("repo-server",),
    "notifications": ("repo-server",),
    "redis-proxy": ("redis",),
    "redis": ("redis",),
}
"""Which part opens connections to which others."""

OUTSIDE: Mapping[str, tuple[int, ...]] = {
    "server": (API_PORT,),
    "controller": (API_PORT,),
    "repo-server": (HTTPS_PORT, SSH_PORT),  # Git and chart repositories
    "applicationset": (API_PORT,),
    "notifications": (API_PORT, HTTPS_PORT),  # whom it tells
    "dex": (API_PORT, HTTPS_PORT),  # where people log in
}
"""Where each part goes out of the namespace; Redis never does."""

INGRESS = "traefik"
"""The namespace that people and webhooks come through."""


class Policy(NamedTuple):
    """What one part's pods let in, and where they may go."""

    name: str
    pods: Mapping[str, str]
    ingress: list[Rule]
    egress: list[Rule]


def login_ports(argocd: ArgoCD) -> tuple[int, ...]:
    """Give the ports on which the single sign-on's own server is asked."""
    servers = (where for _, where, _ in git.login_servers(argocd) if where is not None)
    return tuple(urlsplit(where).port or HTTPS_PORT for where in servers)


def policies(
    git_port: int = HTTPS_PORT, login_ports: Collection[int] = (HTTPS_PORT,)
) -> Iterator[Policy]:
    """Give a policy for every part, with the ports of the repository's and the login's hosts."""
    further = {"repo-server": [git_port], "dex": login_ports}
    for name, part in PARTS.items():
        callers = [PARTS[one].labels for one, called in CALLS.items() if name in called]
        ingress = [metrics(part.metrics)]
        if callers:
            ingress.append({"from": [_pods(one) for one in callers], "ports": ports(*part.serves)})
        if name == "server":
            through = {"namespaceSelector": in_namespace(INGRESS)}
            ingress.append({"from": [through], "ports": ports(*part.serves)})
        egress = [
            {"to": [_pods(PARTS[called].labels)], "ports": ports(*PARTS[called].serves)}
            for called in CALLS.get(name, ())
        ]
        outside = {*OUTSIDE.get(name, ()), *further.get(name, ())}
        if outside:
            egress.append(anybody(*sorted(outside)))
        yield Policy(name, part.labels, ingress, egress)


def _pods(labels: Mapping[str, str]) -> Rule:
    return {"podSelector": {"matchLabels": dict(labels)}}
