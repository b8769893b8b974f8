"""Configuration: every pinned version of the platform, and which of them fit together.

Versions of what the stack installs stand here (those of the machines in the stack file); Renovate moves each constant by the marker
above it. The tables say what was tested together upstream; the rules in `config.rules` hold the
settings against them.
"""

# ruff: noqa: E501 - a marker for Renovate is one line
from __future__ import annotations

from dataclasses import dataclass

# --- Operating system and Kubernetes -----------------------------------------------------------

# renovate: datasource=github-releases depName=siderolabs/talos extractVersion=^v(?<version>.+)$
TALOS = "1.13.9"
# renovate: datasource=github-releases depName=kubernetes/kubernetes extractVersion=^v(?<version>.+)$
KUBERNETES = "1.34.1"

# --- Who manages the cluster, where it is not the stack ----------------------------------------

# renovate: datasource=github-releases depName=siderolabs/omni extractVersion=^v(?<version>.+)$
OMNI = "1.9.3"

# --- Custom resource definitions ---------------------------------------------------------------

# renovate: datasource=github-releases depName=kubernetes-sigs/gateway-api extractVersion=^v(?<version>.+)$
GATEWAY_API = "1.4.1"
# Of the Traefik that the chart below installs (its appVersion).
# renovate: datasource=github-releases depName=traefik/traefik extractVersion=^v(?<version>.+)$
TRAEFIK_API = "3.6.15"

# --- Helm charts -------------------------------------------------------------------------------

# renovate: datasource=helm depName=cilium registryUrl=https://helm.cilium.io
CILIUM = "1.19.7"
# renovate: datasource=helm depName=metallb registryUrl=https://metallb.github.io/metallb
METALLB = "0.16.1"
# renovate: datasource=helm depName=cert-manager registryUrl=https://charts.jetstack.io
CERT_MANAGER = "1.21.2"
# renovate: datasource=helm depName=traefik registryUrl=https://traefik.github.io/charts
TRAEFIK = "39.0.9"
# renovate: datasource=helm depName=metrics-server registryUrl=https://kubernetes-sigs.github.io/metrics-server
METRICS_SERVER = "3.13.1"
# renovate: datasource=helm depName=argo-cd registryUrl=https://argoproj.github.io/argo-helm
ARGO_CD = "10.1.1"

# --- Images that no chart brings ---------------------------------------------------------------

# renovate: datasource=github-releases depName=alex1989hu/kubelet-serving-cert-approver extractVersion=^v(?<version>.+)$
SERVING_CERT_APPROVER = "0.11.0"
# renovate: datasource=github-releases depName=siderolabs/talos-backup extractVersion=^v(?<version>.+)$
TALOS_BACKUP = "0.1.0-beta.3"
# renovate: datasource=github-releases depName=kubernetes/kube-state-metrics extractVersion=^v(?<version>.+)$
KUBE_STATE_METRICS = "2.17.0"

# --- What fits together ------------------------------------------------------------------------

Span = tuple[str, str | None]
"""First and last version that fit, both included; a last one of `None` means no known end."""

# Talos minor -> Kubernetes minors; from Talos' support matrix. Talos 1.11 is left out: it does not
# know the LinkConfig, ResolverConfig and Layer2VIPConfig documents that the stack writes.
TALOS_KUBERNETES: dict[str, Span] = {
    "1.12": ("1.30", "1.35"),
    "1.13": ("1.31", "1.36"),
    "1.14": ("1.32", "1.37"),
}

# Contracts whose generated configuration the stack's documents fit. From 1.14 on the generator writes
# Kubernetes' settings as documents of their own, which clash with the v1alpha1 keys of patches.
TALOS_CONTRACTS = ("1.12", "1.13")

# Omni minor -> Talos minors that it installs and upgrades to; from Omni's support matrix. Talos before 1.12
# is left out for the reason above.
OMNI_TALOS: dict[str, Span] = {"1.9": ("1.12", "1.13")}

# Service (its key in the settings), version line -> Kubernetes minors; from each project's
# documentation. A version line without a row has no documented limit.
SERVICE_KUBERNETES: dict[tuple[str, str], Span] = {
    ("cilium", "1.19"): ("1.32", "1.35"),
    ("metricsServer", "3.13"): ("1.31", None),
    ("argocd", "10"): ("1.32", "1.35"),
}


@dataclass(frozen=True)
class GatewayApiFit:
    """What a Cilium minor needs beside it: Gateway API's definitions and Traefik's chart."""

    gateway_api: Span
    traefik_chart: Span


# Cilium and Traefik read the same Gateway API definitions, of which a cluster has one version.
GATEWAY_API_FITS: dict[str, GatewayApiFit] = {
    "1.19": GatewayApiFit(gateway_api=("1.4.1", "1.4"), traefik_chart=("37.3", "39")),
    "1.20": GatewayApiFit(gateway_api=("1.6.1", None), traefik_chart=("40", "41")),
}


def parse(version: str) -> tuple[int, ...]:
    """Turn `1.34.1` into `(1, 34, 1)`."""
    return tuple(int(part) for part in version.split("."))


def minor(version: str) -> str:
    """Turn `1.34.1` into `1.34`."""
    return ".".join(version.split(".")[:2])


def fits(version: str, span: Span) -> bool:
    """Say whether a version lies in a span; `1.4.3` lies in `("1.4.1", "1.4")`."""
    first, last = span
    if parse(version) < parse(first):
        return False
    return last is None or parse(version)[: len(parse(last))] <= parse(last)


def describe(span: Span) -> str:
    """Write a span for people: `1.31 to 1.36`, `1.31 or newer`, `1.4.1 to 1.4.x`."""
    first, last = span
    if last is None:
        return f"{first} or newer"
    return f"{first} to {last}{'.x' if last.count('.') < first.count('.') else ''}"
