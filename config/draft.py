"""Configuration: the sections of the settings as they are held against each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import (
        Cluster,
        Kubernetes,
        Machine,
        NetworkSettings,
        Omni,
        Services,
        Site,
        Talos,
        Updates,
    )


@dataclass
class Draft:
    """The sections that could be read; `None` for one that could not."""

    cluster: Cluster | None = None
    site: Site | None = None
    machines: dict[int, Machine] = field(default_factory=dict)
    """By position in the stack file; without those that could not be read."""
    all_machines: bool = False
    """Whether every machine could be read: only then they can be counted."""
    network: NetworkSettings | None = None
    talos: Talos | None = None
    kubernetes: Kubernetes | None = None
    omni: Omni | None = None
    services: Services | None = None
    updates: Updates | None = None
    missing: set[str] = field(default_factory=set)
    """Sections that nobody has written and that need not be there."""
