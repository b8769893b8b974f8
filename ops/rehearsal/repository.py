"""A copy of the repository, for procedures that edit it: the operator's own is never touched."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import yaml

from ops.rehearsal.world import PROJECT

INDEX = "index.json"
"""What is in the folder of packages (lab/internal/charts)."""
IDENTITY = ("-c", "user.name=rehearsal", "-c", "user.email=rehearsal@example.com")


class RevisionError(Exception):
    """A revision is not there."""


def copy(target: Path) -> Path:
    """Copy the working tree, without what Git ignores, and make a repository of its own of it.

    It shares the virtual environment and the built programs. The lab and the engine look for all
    else beside themselves: those two are files of the copy, so that they find what is there.
    """
    shutil.rmtree(target, ignore_errors=True)
    listed = _git(PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    _share_programs(target)
    _git(target, "init", "--quiet")
    keep(target, "as it is")
    return target


def unpack(revision: str, target: Path) -> str:
    """Write a revision's files into a folder that shares this tree's programs; gives its commit.

    Raises `RevisionError`.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        commit = _git(PROJECT, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        raise RevisionError(
            f"BASE={revision} is not a commit here; `git fetch`, or name one that `git log` shows"
        ) from None
    archive = subprocess.run(
        ["git", "-C", PROJECT, "archive", "--format=tar", commit],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    _share_programs(target)
    return commit


def own_charts(repository: Path) -> Path:
    """Give a copy packages of its own beside the lab's, and give their folder."""
    charts = repository / ".lab" / "bin" / "charts"
    if charts.is_symlink():
        packages = charts.resolve()
        charts.unlink()
        charts.mkdir()
        for one in packages.iterdir():
            if one.name == INDEX:
                shutil.copy(one, charts / one.name)
            else:
                (charts / one.name).symlink_to(one)
    return charts


def serve_chart(repository: Path, chart: Path, version: str | None = None) -> str:
    """Let a copy's worlds serve a chart from its folder, as a stand-in; gives its version.

    `version` is another one than the folder's own.
    """
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    about |= {"version": version} if version else {}
    name, number = str(about["name"]), str(about["version"])
    charts = own_charts(repository)
    text = yaml.safe_dump(about).encode()

    def rewritten(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if member.name == f"{name}/Chart.yaml" else member

    with tarfile.open(charts / f"{name}-{number}.tgz", "w:gz") as archive:
        head = tarfile.TarInfo(f"{name}/Chart.yaml")
        head.size = len(text)
        archive.addfile(head, io.BytesIO(text))
        archive.add(chart, name, filter=rewritten)
    index = json.loads((charts / INDEX).read_text())
    index.append({"name": name, "version": number, "source": "stand-in"})
    (charts / INDEX).write_text(json.dumps(index))
    return number


def has_chart(repository: Path, name: str, version: str) -> bool:
    """Say whether a copy's worlds serve a chart in a version."""
    index = json.loads((repository / ".lab" / "bin" / "charts" / INDEX).read_text())
    return any((one["name"], one["version"]) == (name, version) for one in index)


def _share_programs(target: Path) -> None:
    (target / ".venv").symlink_to(PROJECT / ".venv")
    programs, own = PROJECT / ".lab" / "bin", target / ".lab" / "bin"
    own.mkdir(parents=True)
    for one in programs.iterdir():
        if one.name in {"lab", "pulumi"}:
            os.link(one, own / one.name)
        elif one.is_symlink():
            (own / one.name).symlink_to(one.readlink())
        else:
            (own / one.name).symlink_to(one)


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
