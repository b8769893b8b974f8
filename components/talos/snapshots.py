"""Layer Talos: etcd's data as it was before an upgrade, for the day that one goes wrong.

A snapshot holds all Secrets of the cluster in plain text. So it lies outside of the tree, in
`$PULUMI_HOME/platform-snapshots` (`~/.pulumi` unless set), and only its owner can read it. All
stacks of an operator share the folder: each file begins with its stack and its time, so that none
takes another one's place, nor that of the run before, whose snapshot is from before the first
change.
"""

from __future__ import annotations

import datetime as dt
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clients.talosctl import TalosctlError

if TYPE_CHECKING:
    from clients.talosctl import Talosctl

KEPT = 2
"""Snapshots of a stack; older ones are removed."""
TIME = "%Y%m%dT%H%M%SZ"
ANY_TIME = f"{'[0-9]' * 8}T{'[0-9]' * 6}Z"
"""What such a time matches, as a pattern of file names."""
PART = ".part"
"""What talosctl calls a file that it has not written to its end."""


def folder() -> Path:
    """Give the folder of the snapshots."""
    home = os.environ.get("PULUMI_HOME")
    return (Path(home) if home else Path.home() / ".pulumi") / "platform-snapshots"


class Snapshots:
    """The snapshots of a run: one before the first control plane that it upgrades."""

    def __init__(self, where: Path, stack: str) -> None:
        self._where = where
        self._stack = stack
        self._taken: Path | None = None

    def take(self, talos: Talosctl, addresses: Sequence[str], name: str) -> Path | None:
        """Fetch one from the first of these control planes that gives it, once a run.

        None when this run has one already. Raises `TalosctlError`, `OSError`.
        """
        if self._taken is not None:
            return None
        self._where.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._where.chmod(0o700)
        now = dt.datetime.now(dt.UTC)
        file = self._where / f"{self._stack}-{now:{TIME}}-{name}.snapshot"
        problem = TalosctlError("there is no control plane")
        try:
            for address in addresses:
                try:
                    talos.etcd_snapshot(address, file)
                except TalosctlError as error:
                    problem = error
                else:
                    file.chmod(0o600)
                    self._taken = file
                    return file
        finally:
            self._remove_old()
        raise problem

    def _remove_old(self) -> None:
        """Keep the newest of this stack, and nothing of those that were cut off."""
        own = f"{glob.escape(self._stack)}-{ANY_TIME}-*.snapshot"
        for cut_off in self._where.glob(f"{own}{PART}"):
            cut_off.unlink(missing_ok=True)
        for old in sorted(self._where.glob(own))[:-KEPT]:
            old.unlink(missing_ok=True)
