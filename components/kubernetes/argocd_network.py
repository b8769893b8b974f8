"""Layer Argo CD: who of its parts may talk to whom.

Chart argo-cd 10.1.1 brings policies of its own, which open the server to every pod and leave
redis-ha without any; they are off (bootstrap/argo-cd/values.yaml). These are Pulumi's and not Argo
CD's, so that no commit opens them. Ports are the pods' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from components.kubernetes import outside
from components.kubernetes.isolated_namespace import Rule, in_namespace, metrics, ports
from config import git
from config.settings import API_PORT
from config.values import split_git_url, split_url
from config.way_out import ANYWHERE, HTTPS_PORT

if TYPE_CHECKING:
    from config.settings import ArgoCD
    from config.way_out import WayOut

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
"""Where each part goes out of the namespace; Redis never does. HTTPS goes by the proxy, if any."""

INGRESS = "traefik"
"""The namespace that people and webhooks come through."""


class Policy(NamedTuple):
    """What one part's pods let in, and where they may go."""

    name: str
    pods: Mapping[str, str]
    ingress: list[Rule]
    egress: list[Rule]


Place = tuple[str, int]
"""A host that is asked by HTTPS, and its port."""


def login_places(argocd: ArgoCD) -> Iterator[Place]:
    """Give where the single sign-on's own server is asked."""
    for _, where, _ in git.login_servers(argocd):
        if where is not None:
            url = urlsplit(where if "://" in where else f"https://{where}")
            yield str(url.hostname), url.port or HTTPS_PORT


def policies(argocd: ArgoCD, way: WayOut) -> Iterator[Policy]:
    """Give a policy for every part; repository and login may have ports of their own."""
    repository = split_git_url(argocd.repository_url)
    port = git.port(argocd.repository_url)
    by_ssh = repository is not None and repository.scheme == "ssh"
    further: dict[str, list[Place]] = {"dex": [*login_places(argocd)]}
    # Argo CD keeps its own release: its chart's repository may be a mirror of the site.
    charts = None if argocd.repository is None else split_url(argocd.repository)
    if (api := git.status_api(argocd)) is not None:
        place = urlsplit(api)
        further["notifications"] = [(str(place.hostname), place.port or HTTPS_PORT)]
    further["repo-server"] = [
        (one.host, one.port or HTTPS_PORT)
        for one in (None if by_ssh else repository, charts)
        if one is not None
    ]
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
        own = {one for one in OUTSIDE.get(name, ()) if one != HTTPS_PORT}
        if name == "repo-server" and by_ssh:
            own.add(port)
        places = list(further.get(name, ()))
        if HTTPS_PORT in OUTSIDE.get(name, ()):
            places.append((ANYWHERE, HTTPS_PORT))
        egress += outside.egress(way, places, *own)
        yield Policy(name, part.labels, ingress, egress)


def _pods(labels: Mapping[str, str]) -> Rule:
    return {"podSelector": {"matchLabels": dict(labels)}}
