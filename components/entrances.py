"""What an operator wants to know when `pulumi up` has ended: where the platform is, and what next.

Pure data of the settings, so that no preview changes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.gitops import logging, monitoring

if TYPE_CHECKING:
    from config.settings import Services

HUBBLE_PORT = 12000
"""Of this machine, for Hubble's web interface: it has no password, so it is not served outside."""


def addresses(services: Services) -> dict[str, str]:
    """Give where each part with an interface for people is, by its name."""
    found = {}
    if services.argocd is not None:
        found["argocd"] = f"https://{services.argocd.domain}"
        if services.monitoring is not None:
            found["dashboards"] = monitoring.pages(services.argocd.domain)
        if services.logging is not None:
            found["logs"] = logging.pages(services.argocd.domain)
    if services.traefik is not None:
        found["ingress"] = str(services.traefik.address)
        if services.traefik.dashboard_domain is not None:
            found["traefik"] = f"https://{services.traefik.dashboard_domain}"
    if services.cilium is not None:
        found["hubble"] = (
            f"http://localhost:{HUBBLE_PORT} while this runs: kubectl --namespace kube-system "
            f"port-forward service/hubble-ui {HUBBLE_PORT}:80"
        )
    return found


def next_step(services: Services, first: str) -> str:
    """Say what to do with a platform that has just been built; `first` gives the credentials."""
    steps = [
        first,
        "KUBECONFIG=$PWD/kubeconfig kubectl get nodes",
    ]
    traefik, argocd = services.traefik, services.argocd
    if traefik is not None:
        argocd_domain = None if argocd is None else argocd.domain
        names = [one for one in (argocd_domain, traefik.dashboard_domain) if one]
        if names:
            steps.append(f"let your name server give {traefik.address} for {' and '.join(names)}")
    steps.append(
        "keep the machine secrets and the passphrase safe: docs/procedures/first-install.md"
    )
    return "; ".join(steps)
