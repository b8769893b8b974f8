"""Layer Updates: what changed between two commits of this repository."""

from __future__ import annotations

import subprocess
from pathlib import Path


class HistoryError(Exception):
    """Git has no such commit here, or is not there."""


class History:
    """A clone with its whole history."""

    def __init__(self, root: Path) -> None:
        """Take the folder of the clone."""
        self._root = root

    def changed(self, old: str, new: str) -> dict[str, tuple[str | None, str | None]]:
        """Give each file that differs, its text before and after; `None` where there is none.

        One that becomes executable, or a link, has none either: its text does not say that.
        """
        found: dict[str, tuple[str | None, str | None]] = {}
        words = iter(self._git("diff", "--raw", "--no-renames", "-z", old, new).split("\0"))
        for about, name in zip(words, words, strict=False):  # the last word is empty
            before, after, *_ = about.removeprefix(":").split(" ")
            texts = (self._text(old, name), self._text(new, name))
            found[name] = texts if before == after else (None, None)
        return found

    def base(self, one: str, other: str) -> str:
        """Give the commit that two have in common."""
        return self._git("merge-base", one, other).strip()

    def text(self, commit: str, path: str) -> str:
        """Give a file as it was in a commit."""
        return self._git("show", f"{commit}:{path}")

    def merges(self, old: str, new: str) -> list[str]:
        """Give the commits of the main line after `old`, up to `new`."""
        return self._git("rev-list", "--first-parent", f"{old}..{new}").split()

    def commit(self, name: str) -> str:
        """Give the commit that a name stands for."""
        return self._git("rev-parse", "--verify", f"{name}^{{commit}}").strip()

    def _text(self, commit: str, path: str) -> str | None:
        try:
            return self.text(commit, path)
        except (HistoryError, UnicodeDecodeError):
            return None

    def _git(self, *arguments: str) -> str:
        try:
            ran = subprocess.run(
                ["git", *arguments],  # noqa: S607
                cwd=self._root,
                capture_output=True,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()
            raise HistoryError(
                f"git {arguments[0]}: {said}; the checkout needs the whole history "
                "(`fetch-depth: 0`)"
            ) from None
        return ran.stdout.decode()
