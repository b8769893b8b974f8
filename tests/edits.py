"""Edits of files, as fixtures have them: of the stack file, of a good one, of the program."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from config import plain_yaml

STACK_FILES = Path(__file__).parent / "fixtures" / "config"


class Edit(BaseModel):
    """A text for another, lines taken out, or lines added beside one, indented as it is."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    old: str | None = Field(default=None, alias="from")
    new: str = Field(default="", alias="to")
    everywhere: bool = Field(default=False, alias="all")
    line: str | None = None
    until: str | None = None
    after: str | None = None
    before: str | None = None
    add: str = ""

    def apply(self, text: str) -> str:
        """Give the edited text; what the edit looks for must be there."""
        lines = text.splitlines(keepends=True)
        if self.old is not None:
            assert self.old in text, self.old
            return text.replace(self.old, self.new, -1 if self.everywhere else 1)
        if self.line is not None:
            begin = _find(self.line, lines)
            end = _find(self.until, lines, begin + 1) if self.until else begin + 1
            return "".join(lines[:begin] + lines[end:])
        beside = self.after or self.before
        assert beside is not None
        found = _find(beside, lines)
        indent = lines[found][: -len(lines[found].lstrip())]
        added = [f"{indent}{one}\n" for one in self.add.splitlines()]
        at = found + 1 if self.after else found
        return "".join(lines[:at] + added + lines[at:])


class Refused(BaseModel):
    """A stack file that is refused, as edits of a good one."""

    model_config = ConfigDict(extra="forbid")

    what: str
    base: str = "three"
    edits: list[Edit]


def refused(path: Path) -> str:
    """Give the text of a stack file below bad/: of one that is written whole, or of edits."""
    text = path.read_text(encoding="utf-8")
    if not text.startswith("what: "):
        return text
    case = Refused.model_validate(plain_yaml.read(text))
    edited = (STACK_FILES / "good" / f"{case.base}.yaml").read_text(encoding="utf-8")
    for edit in case.edits:
        edited = edit.apply(edited)
    return edited


def _find(text: str, lines: list[str], begin: int = 0) -> int:
    return next(n for n, one in enumerate(lines) if n >= begin and text in one)
