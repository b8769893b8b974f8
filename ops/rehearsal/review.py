"""`python -m ops rehearse review BASE`: what this tree would do to the platform that BASE built.

In a world of the lab: BASE's program builds the platform (with this tree's Python packages and
programs), this tree's program previews, the review says what that means. No credentials, no
network. Leaves preview.json, review.md and review.json in `.lab/out`; ends with 0 whatever the
verdict is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from clients.progress import told
from ops.rehearsal import repository
from ops.rehearsal.world import PROJECT, World, WorldError
from ops.render import rendering
from ops.review import command

OUT = PROJECT / ".lab" / "out"
STATE = PROJECT / ".lab" / "worlds" / "review"
STACK_FILE = "Pulumi.prod.yaml"


class ReviewError(Exception):
    """BASE cannot be built."""


def serve_charts_of(base: Path) -> None:
    """Let BASE's worlds serve those of its stand-ins whose version this tree no longer has."""
    for about in sorted((base / "lab" / "charts").glob("*/Chart.yaml")):
        chart = yaml.safe_load(about.read_text(encoding="utf-8"))
        if not repository.has_chart(base, str(chart["name"]), str(chart["version"])):
            repository.serve_chart(base, about.parent)


def preview_on(base: str, scratch: Path) -> str:
    """Build BASE, preview this tree, and give the preview as JSON. Raises `ReviewError`."""
    tree = scratch / "base"
    try:
        commit = repository.unpack(base, tree)
    except repository.RevisionError as error:
        raise ReviewError(str(error)) from None
    serve_charts_of(tree)
    # The review renders both sides from the same packages.
    rendering.use(tree / ".lab" / "bin")
    stack_file = scratch / STACK_FILE
    shutil.copy(tree / STACK_FILE, stack_file)
    print(f"building the platform of {base} ({commit[:12]}) in the lab", flush=True)
    world = World(STATE, stack_file, project=tree).start()
    try:
        with told("up"):
            world.up()
        shutil.copy(PROJECT / STACK_FILE, stack_file)
        print("previewing this tree", flush=True)
        with told("preview"):
            return world.run(
                "pulumi", "--cwd", str(PROJECT), "preview", "--json", "--show-sames",
                "--non-interactive", code=None,
            ).stdout  # fmt: skip
    except WorldError as error:
        raise ReviewError(f"{base} could not be built in the lab: {error}") from None
    finally:
        world.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Review this tree on BASE; gives the exit status."""
    base = parser().parse_args(arguments).base
    OUT.mkdir(parents=True, exist_ok=True)
    preview, comment = OUT / "preview.json", OUT / "review.md"
    with TemporaryDirectory(prefix="review-") as scratch:
        try:
            preview.write_text(preview_on(base, Path(scratch)), encoding="utf-8")
        except (ReviewError, WorldError) as error:
            print(error, file=sys.stderr)
            return 1
        code = command.main(
            [str(preview), "--markdown", str(comment), "--json", str(OUT / "review.json")]
        )
    print(f"\nthe comment: {comment.relative_to(PROJECT)}")
    return 1 if code == command.UNREADABLE else 0


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops rehearse review", description=__doc__)
    made.add_argument("base", metavar="BASE", help="the revision that built the platform")
    return made
