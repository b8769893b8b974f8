"""Layer Talos: etcd's data as it was before an upgrade, for the day that one goes wrong.

A snapshot holds all Secrets of the cluster in plain text. So it lies outside of the tree, in
`$PULUMI_HOME/platform-snapshots` (`~/.pulumi` unless set), and only its owner can read it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clients.talosctl import TalosctlError

if TYPE_CHECKING:
    from clients.talosctl import Talosctl

KEPT = 2
"""Snapshots; older ones are removed."""


def folder() -> Path:
    """Give the folder of the snapshots."""
    home = os.environ.get("PULUMI_HOME")
    return (Path(home) if home else Path.home() / ".pulumi") / "platform-snapshots"


class Snapshots:
    """The snapshots of a run: one before the first control plane that it upgrades."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self._taken: Path | None = None

    def take(self, talos: Talosctl, addresses: Sequence[str], name: str) -> Path | None:
        """Fetch one from the first of these control planes that gives it, once a run.

        None when this run has one already. Raises `TalosctlError`, `OSError`.
        """
        if self._taken is not None:
            return None
        self._where.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._where / f"{name}.snapshot"
        problem = TalosctlError("there is no control plane")
        for address in addresses:
            try:
                talos.etcd_snapshot(address, file)
            except TalosctlError as error:
                problem = error
            else:
                file.chmod(0o600)
                self._taken = file
                self._remove_old()
                return file
        raise problem

    def _remove_old(self) -> None:
        found = sorted(self._where.glob("*.snapshot"), key=lambda one: one.stat().st_mtime)
        for old in found[:-KEPT]:
            old.unlink(missing_ok=True)
