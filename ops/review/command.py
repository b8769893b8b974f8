"""Layer Review: `python -m ops review PREVIEW.json`, which needs neither network nor engine."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path

from ops.engine.preview import Preview, PreviewError
from ops.review.markdown import markdown
from ops.review.review import review
from ops.review.verdict import Verdict

UNREADABLE = 1


def main(arguments: list[str] | None = None) -> int:
    """Review a preview; gives the exit code of its verdict, or 1 when it cannot be read."""
    options = parser().parse_args(arguments)
    try:
        found = review(Preview.read(options.preview), options.today)
    except PreviewError as error:
        print(error, file=sys.stderr)
        return UNREADABLE
    text = markdown(found)
    if options.json:
        options.json.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
        print(f"{found.verdict}: {found.sentence}")
    else:
        print(text)
    return found.exit_code


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    codes = ", ".join(f"{one.exit_code} {one.words}" for one in Verdict)
    made = argparse.ArgumentParser(
        prog="python -m ops review",
        description="What a preview means.",
        epilog=f"exit codes: {codes}, 1 the file cannot be read",
    )
    made.add_argument(
        "preview", type=Path, metavar="PREVIEW.json",
        help="what `pulumi preview --json --show-sames` wrote",
    )  # fmt: skip
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the comment there")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON")
    made.add_argument(
        "--today", type=dt.date.fromisoformat, metavar="YYYY-MM-DD",
        help="warn as if it were that day",
        default=dt.datetime.now(tz=dt.UTC).date(),
    )  # fmt: skip
    return made
