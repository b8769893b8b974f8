"""Layer Updates: `python -m ops update`, which workflows call by make.

The page is docs/updates.md. `merge` merges what the policy of `platform:updates`
lets through, `due` says whether what is merged is to be deployed now, `open` whether the window is
open as it begins, `note` says what came of it.
None of them changes the platform.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from clients.pulumi_cli import ROOT
from config import SettingsError, load_file
from ops.report.api import GitHub
from ops.report.command import run_url
from ops.report.text import ReportError
from ops.updates import window
from ops.updates.circle import Circle, Due, Outcome
from ops.updates.history import History, HistoryError

NOT_DUE = 3
CLOSED = 4
TAIL = 60
"""Lines of the deployment's log that the issue shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code: 0, 1 for an error, 3 or 4 for not now."""
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except (ReportError, HistoryError, SettingsError, OSError, ValidationError) as error:
        print(error, file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """Run one command; raises what `main` tells."""
    history = History(options.repository)
    updates = load_file(options.repository / options.file).updates
    if options.command == "open":
        return _open(window.closed(updates.window, options.now))
    circle = Circle(GitHub.from_environment(), history, updates, options.now)
    match options.command:
        case "merge":
            outcomes = circle.merge()
            print("\n".join(told(outcomes)) or "no pull request of Renovate's is open")
            return 0
        case "due":
            due = circle.due(options.review)
            options.out.write_text(due.model_dump_json(indent=2) + "\n", encoding="utf-8")
            print(_told_due(due))
            _give("due", "true" if due.now else "false")
            return 0 if due.now else NOT_DUE
        case _:
            due = Due.model_validate_json(options.due.read_text(encoding="utf-8"))
            print("\n".join(_note(circle, due, options)))
            return 0


def _open(closed: Sequence[str]) -> int:
    """Say whether a deployment may still begin: it may have waited for a runner, or for others."""
    for one in closed:
        print(f"not deployed now, and nothing was changed: {one}")
    _give("closed", "true" if closed else "false")
    return CLOSED if closed else 0


def told(outcomes: Iterable[Outcome]) -> list[str]:
    """Write outcomes, a line or more each."""
    lines = []
    for one in outcomes:
        state = "merged" if one.merged else "a person decides" if one.against else "waits"
        lines.append(f"#{one.number} {one.title}: {state}")
        lines += [f"    {why}" for why in (*one.against, *one.waiting)]
    return lines


def _told_due(due: Due) -> str:
    if due.now:
        return f"due now: {', '.join(due.moved)}"
    if not due.moved and not due.against:
        return "nothing is merged that is not deployed"
    return "\n".join(["not now:", *(f"    {one}" for one in due.against)])


def _note(circle: Circle, due: Due, options: argparse.Namespace) -> list[str]:
    drift = _text(options.drift)
    if options.result == "success":
        text = f"Deployed without a person: {', '.join(due.moved)}. Run: {run_url()}\n\n{drift}"
        return circle.note(due, text.rstrip())
    tail = "\n".join(_text(options.log).splitlines()[-TAIL:])
    text = f"The end of its log:\n\n```text\n{tail or 'it left no log'}\n```\n\n{drift}"
    return [circle.stop(due, text.rstrip(), run_url())]


def _text(path: Path | None) -> str:
    return path.read_text(encoding="utf-8") if path is not None and path.exists() else ""


def _give(name: str, value: str) -> None:
    """Give a job's later steps a value (GitHub Actions, GITHUB_OUTPUT)."""
    if file := os.environ.get("GITHUB_OUTPUT"):
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(f"{name}={value}\n")


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops update", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    merge = commands.add_parser("merge", help="merge what platform:updates allows")
    due = commands.add_parser(
        "due", help=f"say what is to be deployed now; exit code {NOT_DUE}: nothing"
    )
    due.add_argument("--review", type=Path, metavar="JSON", help="the review of its plan")
    due.add_argument("--out", type=Path, default=Path(".lab/out/due.json"), metavar="FILE")
    still = commands.add_parser(
        "open", help=f"look at the window once more; exit code {CLOSED}: it is closed"
    )
    note = commands.add_parser("note", help="write on GitHub how the deployment ended")
    note.add_argument("--due", type=Path, required=True, metavar="FILE", help="what `due` wrote")
    note.add_argument("--result", choices=("success", "failure", "cancelled"), required=True)
    note.add_argument("--log", type=Path, metavar="FILE", help="what the deployment said")
    note.add_argument("--drift", type=Path, metavar="FILE", help="the drift report after it")
    for one in (merge, due, still, note):
        one.add_argument("--file", default="Pulumi.prod.yaml", help="the stack file")
        one.add_argument("--repository", type=Path, default=ROOT, help="the clone")
        one.add_argument(
            "--now", type=dt.datetime.fromisoformat, default=dt.datetime.now(dt.UTC),
            metavar="TIME", help="decide as if it were then",
        )  # fmt: skip
    return made
