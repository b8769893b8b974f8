"""Configuration: until when each version line gets fixes, and who says so.

The one table that `python -m ops check`, the review and drift tell from. Kubernetes names days;
most others end a line with the release of a later one, whose day is known only when it has come.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from config import versions

WARN_DAYS = 60


@dataclass(frozen=True)
class Line:
    """A line of versions, and its end."""

    product: str
    ends: dt.date | None
    """The last day of its fixes, or the day on which it was seen to have ended; `None` as long as
    `until` has not happened."""
    until: str
    """What ends it, where that is no fixed day."""
    source: str


TALOS = "https://docs.siderolabs.com/talos, Support Matrix, End of Community Support"
KUBERNETES = "https://kubernetes.io/releases"
CILIUM = "https://docs.cilium.io, Release Cadence: the three newest minors"
CERT_MANAGER = "https://cert-manager.io/docs/releases"
ARGO_CD = "https://argo-cd.readthedocs.io, Release Process And Cadence: the three newest minors"
TRAEFIK = "https://github.com/traefik/traefik, SECURITY.md: until the next minor"


def _line(product: str, ends: str, until: str, source: str) -> Line:
    return Line(product, dt.date.fromisoformat(ends) if ends else None, until, source)


# What the settings pin (`talos`, `kubernetes`, or a service with its chart's version), and the
# longest beginning of the version that has a row. MetalLB and metrics-server publish no end.
LINES: dict[tuple[str, str], Line] = {
    ("talos", "1.12"): _line("Talos 1.12", "2026-04-27", "the release of 1.13", TALOS),
    # 1.14.1 was there on that day; when 1.14.0 came is not known here.
    ("talos", "1.13"): _line("Talos 1.13", "2026-11-28", "the release of 1.14", TALOS),
    ("talos", "1.14"): _line("Talos 1.14", "", "the release of 1.15", TALOS),
    **{
        ("kubernetes", minor): _line(f"Kubernetes {minor}", ends, "", KUBERNETES)
        for minor, ends in {
            "1.30": "2025-06-28",
            "1.31": "2025-10-28",
            "1.32": "2026-02-28",
            "1.33": "2026-06-28",
            "1.34": "2026-10-27",
            "1.35": "2027-02-28",
            "1.36": "2027-06-28",
            "1.37": "2027-10-28",
        }.items()
    },
    ("cilium", "1.18"): _line("Cilium 1.18", "", "the release of 1.21", CILIUM),
    ("cilium", "1.19"): _line("Cilium 1.19", "", "the release of 1.22", CILIUM),
    ("cilium", "1.20"): _line("Cilium 1.20", "", "the release of 1.23", CILIUM),
    ("certManager", "1.19"): _line(
        "cert-manager 1.19", "2026-07-08", "the release of 1.21", CERT_MANAGER
    ),
    ("certManager", "1.20"): _line("cert-manager 1.20", "", "the release of 1.22", CERT_MANAGER),
    ("certManager", "1.21"): _line("cert-manager 1.21", "", "the release of 1.23", CERT_MANAGER),
    # The day on which the chart installed 3.7 (traefik-helm-chart 41.1.1).
    ("traefik", "39"): _line("Traefik 3.6", "2026-08-03", "the release of 3.7", TRAEFIK),
    ("traefik", "41"): _line("Traefik 3.7", "", "the release of 3.8", TRAEFIK),
    ("argocd", "10.1"): _line("Argo CD 3.4", "", "the release of 3.7", ARGO_CD),
}

DEFAULTS = {
    "cilium": versions.CILIUM,
    "metallb": versions.METALLB,
    "certManager": versions.CERT_MANAGER,
    "traefik": versions.TRAEFIK,
    "metricsServer": versions.METRICS_SERVER,
    "argocd": versions.ARGO_CD,
}
PAGES = {
    "talos": "docs/procedures/upgrade-talos.md",
    "kubernetes": "docs/procedures/upgrade-kubernetes.md",
}
LAYER_PAGE = "docs/procedures/upgrade-layer.md"


def ending(sections: Mapping[str, Any], today: dt.date) -> Iterator[str]:
    """Tell of each pinned version whose fixes have ended, or end within 60 days.

    `sections` are the settings by section, as in the stack file: what is left out there has its
    default.
    """
    for pin, version in _pinned(sections):
        line = line_of(pin, version)
        if line is None or line.ends is None or (line.ends - today).days > WARN_DAYS:
            continue
        key = f"platform:{pin if pin in PAGES else f'services.{pin}'}.version = {version}"
        over = line.ends < today
        state = "no fixes since" if over else "no more fixes after"
        because = f" ({line.until})" if line.until else ""
        yield (
            f"{key}: {line.product} gets {state} {line.ends}{because}; plan the upgrade "
            f"({PAGES.get(pin, LAYER_PAGE)}; {line.source})"
        )


def line_of(pin: str, version: str) -> Line | None:
    """Find the line of a pinned version; `None` when the table has none."""
    parts = version.split(".")
    for count in (2, 1):
        if found := LINES.get((pin, ".".join(parts[:count]))):
            return found
    return None


def _pinned(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "talos", _version(sections.get("talos"), versions.TALOS)
    yield "kubernetes", _version(sections.get("kubernetes"), versions.KUBERNETES)
    services = sections.get("services") or {}
    for key, default in DEFAULTS.items():
        if services.get(key) is not None:
            yield key, _version(services[key], default)


def _version(section: object, default: str) -> str:
    given = section.get("version") if isinstance(section, Mapping) else None
    return str(given or default)
