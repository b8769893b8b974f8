"""Who manages the cluster's machines: the stack itself, or Sidero Omni.

The one place where the program picks. What both have in common is written once and below them:
virtual machines, the documents of a machine's configuration, the Kubernetes API, all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components.omni import lifecycle as omni
from components.talos import standalone

if TYPE_CHECKING:
    import pulumiverse_talos as talos

    from components.talos.managed import Managed
    from components.vsphere.machines import Machines
    from config.settings import Settings


class Lifecycle(Protocol):
    """What each way offers."""

    @property
    def check(self) -> Callable[[Settings, Path], None]:
        """Find what is wrong with files; raises `PatchError`."""

    @property
    def check_programs(self) -> Callable[[Settings], None]:
        """Find what an update lacks on this computer; raises `TalosctlError` or `OmnictlError`."""

    def build(
        self, settings: Settings, *, machines: Machines, provider: talos.Provider, root: Path
    ) -> Managed:
        """Register the machines, and the cluster that they form."""


WAYS: dict[str, Lifecycle] = {"standalone": standalone, "omni": omni}


def of(settings: Settings) -> Lifecycle:
    """Pick the way that the settings ask for."""
    return WAYS[settings.cluster.lifecycle]
