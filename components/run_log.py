"""A file of what a run of the program told while it waited: one a run, outside of the tree.

It lies in `$PULUMI_HOME/platform-logs` (`~/.pulumi` unless set), where the engine keeps what is the
machine's own, and holds nothing but what was shown.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

KEPT = 50
"""Logs; older ones are removed."""


def folder() -> Path:
    """Give the folder of the logs."""
    home = os.environ.get("PULUMI_HOME")
    return (Path(home) if home else Path.home() / ".pulumi") / "platform-logs"


class RunLog:
    """The log of one run; its file is made with the first line."""

    def __init__(self, where: Path, stack: str) -> None:
        """Take the folder, and the stack that names the file."""
        began = datetime.now(UTC)
        self.path = where / f"{stack}-{began:%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
        self._lock = threading.Lock()

    def write(self, text: str) -> bool:
        """Append a line with the time; tell whether it could: a log must not end a deployment."""
        line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n"
        with self._lock:
            try:
                if not self.path.exists():
                    self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _remove_old(self.path.parent)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError:
                return False
        return True


def _remove_old(where: Path) -> None:
    for old in sorted(where.glob("*.log"), key=lambda one: one.stat().st_mtime)[: -KEPT + 1]:
        old.unlink(missing_ok=True)
