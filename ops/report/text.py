"""Layer Report: texts that GitHub takes, cut honestly where they are too long for it."""

from __future__ import annotations

from pathlib import Path

LIMIT = 65536
"""GitHub's limit of a comment's and an issue's body, in characters."""
FENCE = "```"
DETAILS = ("<details>", "</details>")


class ReportError(Exception):
    """The report cannot be made or posted."""


def read(path: Path, marker: str) -> str:
    """Read a report, which must start with its marker: by it, it is found again."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ReportError(
            f"{path}: there is no such report; the step that writes it failed"
        ) from None
    if text.splitlines()[:1] != [marker]:
        raise ReportError(f"{path}: its first line is not {marker}: this is another kind of report")
    return text


def fit(text: str, full: str, limit: int = LIMIT) -> str:
    """Give the text, or as many of its lines as the limit allows and how many are left out.

    `full` says where the whole text is. What was open at the cut is closed, so that the rest of the
    page looks as it should.
    """
    if len(text) <= limit:
        return text
    lines = text.splitlines()
    kept: list[str] = []
    # Room for the note and for what is to be closed.
    room = limit - len(full) - 400
    for line in lines:
        if len(line) + 1 > room:
            break
        room -= len(line) + 1
        kept.append(line)
    missing = len(lines) - len(kept)
    kept += _closing(kept)
    note = f"> **Cut here**: {missing} of {len(lines)} lines are left out, GitHub takes {limit}"
    return "\n".join([*kept, "", f"{note} characters. The whole text: {full}"])


def _closing(lines: list[str]) -> list[str]:
    """Give the lines that close an open code block and open details."""
    fenced, deep = False, 0
    for line in lines:
        if line.startswith(FENCE):
            fenced = not fenced
        elif not fenced:
            deep += line.count(DETAILS[0]) - line.count(DETAILS[1])
    room = min(deep, 8)
    return ([FENCE] if fenced else []) + [DETAILS[1]] * room
