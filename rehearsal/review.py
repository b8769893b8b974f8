"""`python -m rehearsal.review BASE`: what this tree would do to the platform that BASE built.

In a world of the lab: BASE's program builds the platform, this tree's program previews, the review
says what that means. No credentials, no network. Leaves preview.json, review.md and review.json in
`.lab/out`; ends with 0 whatever the verdict is.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from rehearsal.world import PROJECT, World, WorldError
from render import packages
from review.markdown import markdown
from review.preview import Preview, PreviewError
from review.review import review

OUT = PROJECT / ".lab" / "out"
STATE = PROJECT / ".lab" / "worlds" / "review"
STACK_FILE = "Pulumi.prod.yaml"
SHARED = (".venv", ".lab")
"""What BASE's program runs with is this tree's: its Python packages and the lab."""


class ReviewError(Exception):
    """BASE cannot be built."""


def unpack(base: str, folder: Path) -> str:
    """Write BASE's files into a folder and give its commit. Raises `ReviewError`."""
    commit = _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    if not commit:
        raise ReviewError(f"BASE={base} is no commit here; `git fetch`, or name one that is")
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit],
        cwd=PROJECT, check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    file = folder.parent / "base.tar"
    file.write_bytes(archive)
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    file.unlink()
    for name in SHARED:
        (folder / name).symlink_to(PROJECT / name)
    return commit


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments],
        cwd=PROJECT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    return result.stdout.strip()


def charts_of(base: Path, folder: Path) -> Path:
    """Put every chart that both programs may ask for into a folder, for LAB_CHARTS.

    Real packages as they are; of BASE's stand-ins those whose version this tree no longer has.
    """
    folder.mkdir()
    if packages.CACHE.is_dir():
        for package in packages.CACHE.glob("*.tgz"):
            shutil.copy(package, folder)
    for about in sorted((base / "lab" / "charts").glob("*/Chart.yaml")):
        chart = yaml.safe_load(about.read_text(encoding="utf-8"))
        name, version = str(chart["name"]), str(chart["version"])
        if packages.find(name, version, cache=folder) is None:
            with tarfile.open(folder / f"{name}-{version}.tgz", "w:gz") as archive:
                archive.add(about.parent, name)
    return folder


@contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def preview_on(base: str, scratch: Path) -> str:
    """Build BASE, preview this tree, and give the preview as JSON. Raises `ReviewError`."""
    tree = scratch / "base"
    commit = unpack(base, tree)
    stack_file = scratch / STACK_FILE
    shutil.copy(tree / STACK_FILE, stack_file)
    charts = charts_of(tree, scratch / "charts")
    # The review renders from the same packages.
    packages.CACHE = charts
    print(f"building the platform of {base} ({commit[:12]}) in the lab", flush=True)
    with _environment({"LAB_CHARTS": str(charts)}):
        world = World(STATE, stack_file).start()
    try:
        world.run(
            "pulumi", "--cwd", str(tree), "up", "--yes", "--skip-preview", "--non-interactive"
        )
        shutil.copy(PROJECT / STACK_FILE, stack_file)
        print("previewing this tree", flush=True)
        return world.run(
            "pulumi", "preview", "--json", "--show-sames", "--non-interactive", code=None
        ).stdout
    except WorldError as error:
        raise ReviewError(f"{base} could not be built in the lab: {error}") from None
    finally:
        world.stop()


def main(base: str) -> int:
    """Review this tree on BASE; gives the exit status."""
    OUT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="review-") as scratch:
        try:
            text = preview_on(base, Path(scratch))
            (OUT / "preview.json").write_text(text, encoding="utf-8")
            found = review(Preview.of(text), dt.datetime.now(tz=dt.UTC).date())
        except (ReviewError, WorldError, PreviewError) as error:
            print(error, file=sys.stderr)
            return 1
    (OUT / "review.md").write_text(markdown(found), encoding="utf-8")
    (OUT / "review.json").write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    print(f"{found.verdict}: {found.sentence}\n\nthe comment: {OUT.name}/review.md")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: python -m rehearsal.review BASE")
    sys.exit(main(sys.argv[1]))
