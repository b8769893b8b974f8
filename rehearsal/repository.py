"""A copy of the repository, for procedures that edit it: the operator's own is never touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from rehearsal.world import PROJECT

IDENTITY = ("-c", "user.name=rehearsal", "-c", "user.email=rehearsal@example.com")


def copy(target: Path) -> Path:
    """Copy the working tree, without what Git ignores, and make a repository of its own of it.

    It shares the virtual environment and the built programs. The lab's own is a file of the copy:
    it looks for all else beside itself, so that a chart packaged there is not packaged here.
    """
    shutil.rmtree(target, ignore_errors=True)
    listed = _git(PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    (target / ".venv").symlink_to(PROJECT / ".venv")
    programs, own = PROJECT / ".lab" / "bin", target / ".lab" / "bin"
    own.mkdir(parents=True)
    for one in programs.iterdir():
        if one.name != "lab":
            (own / one.name).symlink_to(one)
    os.link(programs / "lab", own / "lab")
    _git(target, "init", "--quiet")
    keep(target, "as it is")
    return target


def keep(repository: Path, message: str) -> None:
    """Commit everything in a copy: what is changed later is a change from there."""
    _git(repository, "add", "--all", ".")
    _git(repository, *IDENTITY, "commit", "--quiet", "--no-verify", "--message", message)


def changes(repository: Path) -> str:
    """Give what is not as it was kept, as a diff; empty when nothing is."""
    _git(repository, "add", "--all", ".")
    return _git(repository, "diff", "--cached", "HEAD")


def _git(folder: Path, *argv: str) -> str:
    return subprocess.run(
        ["git", "-C", folder, *argv],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
