"""Who manages the cluster's machines: the stack itself, or Sidero Omni.

The one place where that is picked. What both have in common is written once and below them:
virtual machines, the documents of a machine's configuration, the Kubernetes API, all layers. What
builds the cluster is imported only to build it: `ops check` does without the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from clients.omnictl import check_omnictl
from clients.talosctl import check_talosctl
from components.omni import patch_rules, template_validation
from components.talos import patch_validation
from components.talos.patch_files import PatchError, Rule, check_patch_files, no_more
from config import omni

if TYPE_CHECKING:
    import pulumiverse_talos as talos

    from components.talos.managed import Managed
    from components.vsphere.machines import Machines
    from config.settings import Settings

Validation = Callable[["Settings", Path], tuple[list[str], str]]
"""Lets a vendor's program check what is made of the files: gives what it finds, and, where the
program is not there, a note that says so."""


@dataclass(frozen=True)
class Lifecycle:
    """A way to manage a cluster."""

    module: str
    """Has `build`, as below."""
    check_programs: Callable[[Settings], None]
    """Finds what an update lacks on this computer; raises `TalosctlError` or `OmnictlError`."""
    patch_rule: Rule = no_more
    validations: tuple[Validation, ...] = (patch_validation.with_talosctl,)

    def check(self, settings: Settings, root: Path) -> None:
        """Find what is wrong with the operator's files; raises `PatchError`."""
        check_patch_files(settings, root, self.patch_rule)

    def validate(self, settings: Settings, root: Path) -> list[str]:
        """Let the vendors' programs check the files, offline; gives notes, raises `PatchError`."""
        notes, faults = [], list[str]()
        for validation in self.validations:
            found, note = validation(settings, root)
            faults += found
            notes += [note] if note else []
        if faults:
            raise PatchError.of(settings, faults)
        return notes

    def build(
        self, settings: Settings, *, machines: Machines, provider: talos.Provider, root: Path
    ) -> Managed:
        """Register the machines, and the cluster that they form; `root` is the repository."""
        module = import_module(self.module)
        built: Managed = module.build(settings, machines=machines, provider=provider, root=root)
        return built


WAYS: Mapping[str, Lifecycle] = {
    "standalone": Lifecycle(
        module="components.talos.standalone",
        check_programs=lambda settings: check_talosctl(settings.talos.tag),
    ),
    "omni": Lifecycle(
        module="components.omni.by_omni",
        check_programs=lambda settings: check_omnictl(omni.of(settings).tag),
        patch_rule=patch_rules.faults,
        validations=(patch_validation.with_talosctl, template_validation.with_omnictl),
    ),
}


def of(settings: Settings) -> Lifecycle:
    """Pick the way that the settings ask for."""
    return WAYS[settings.cluster.lifecycle]
