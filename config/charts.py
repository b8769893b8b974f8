"""Layer Kubernetes: what the program knows of a Helm chart before it installs it.

A plan is pure data of the settings: `python -m ops render` shows what it makes, tests hold its keys
against the chart's own, and `components.kubernetes.release` installs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from config.layers import LAYERS

CRITICAL = "platform-critical"
"""The priority class of what the platform's applications stand on (kubernetes/foundation.py)."""
CLUSTER_CRITICAL, NODE_CRITICAL = "system-cluster-critical", "system-node-critical"
"""Kubernetes' own classes: of what a cluster, and of what each node cannot be without."""

Values = dict[str, Any]

SECCOMP: Values = {"seccompProfile": {"type": "RuntimeDefault"}}
"""For security contexts: no system calls but those that the container runtime allows by default."""


@dataclass(frozen=True)
class ChartPlan:
    """A chart, its exact version, where it goes, and the values that it gets."""

    chart: str
    repository: str
    version: str
    namespace: str
    values: Mapping[str, Any]

    @property
    def release(self) -> str:
        """The release's name: the chart's, since a cluster has one of each."""
        return self.chart

    @property
    def service(self) -> str:
        """The service's key in `platform:services`."""
        return LAYERS[self.chart].service


def resources(cpu: str, memory: str, limit: str) -> Values:
    """Give requests, and a limit of memory.

    CPU has no limit but in name only: throttled controllers miss their leases, and requests already
    divide the CPU fairly. What has a limit of memory cannot starve a machine.
    """
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}


def spread(labels: Mapping[str, str]) -> list[Values]:
    """Spread pods over the machines; a lost machine must not keep them from being scheduled."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels)},
        }
    ]
