"""Rehearsal: processes of a command that runs in a world, found and killed without a warning."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

GROUP = "everything"
ENGINE = "engine"
HOST = "language host"
PROGRAM = "program"
PLUGIN = "pulumi-resource-"


def kill_tree(root: int) -> None:
    """SIGKILL a process and all its descendants: engine, language host, program and plugins."""
    for pid in list(tree(root)):
        kill(pid)


def kill(pid: int) -> None:
    """SIGKILL a process; one that has ended is as good."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def tree(root: int) -> Iterator[int]:
    """Give a process and all its descendants, itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    pending = [root]
    while pending:
        pid = pending.pop()
        yield pid
        pending += children.get(pid, [])


def roles(root: int) -> dict[str, int]:
    """Give the processes of the engine's command by their role; plugins by their names."""
    found = {}
    for pid in tree(root):
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        name = Path(argv[0]).name
        if name == "pulumi":
            found[ENGINE] = pid
        elif name == "pulumi-language-python":
            found[HOST] = pid
        elif name.startswith(PLUGIN):
            found[name] = pid
        elif any("pulumi-language-python-exec" in one for one in argv):
            found[PROGRAM] = pid
    return found
