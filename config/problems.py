"""Configuration: a problem in the settings, and the error that carries all of them.

A problem names the key, the value and the fix, and never shows a secret: values under keys that
name a secret, values that may be one (`config.shown`), and whole mappings or lists are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from config.shown import key_text, line_text, looks_secret, names_secret, value_text

MOST_TOLD = 100
"""Problems that are printed."""

Path = tuple[str | int, ...]
"""Where a value stands: `("machines", 1, "address")`."""


def key_of(path: Path) -> str:
    """Write a path as a stack file's reader knows it: `platform:machines[1].address`."""
    if not path:
        return "the file"
    first, *rest = path
    key = key_text(str(first) if ":" in str(first) else f"platform:{first}")
    return key + "".join(
        f"[{part}]" if isinstance(part, int) else f".{key_text(part)}" for part in rest
    )


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where, what was given, what is wrong with it, and what to do."""

    key: str
    fault: str
    fix: str
    value: str | None = None
    """The value as JSON, or `None` where there is none or where it must not be shown."""

    def __str__(self) -> str:
        """Write the problem as one line."""
        given = "" if self.value is None else f" = {self.value}"
        return line_text(f"{self.key}{given}: {self.fault}; {self.fix}")


def problem(path: Path, value: object, fault: str, fix: str) -> Problem:
    """Make a problem of the value at a path, leaving out what must not or need not be shown."""
    hidden = value is None or isinstance(value, Mapping | list | tuple) or is_named_secret(path)
    return Problem(key_of(path), fault, fix, None if hidden else value_text(value))


def secrets_in(value: object, path: Path) -> Iterator[Problem]:
    """Find every secret written in plain text below a path, also one that is a key."""
    yield from _secrets_in(value, path, named=is_named_secret(path))


def _secrets_in(value: object, path: Path, *, named: bool) -> Iterator[Problem]:
    """Find them; `named` says whether the path already says that a secret is below it."""
    if isinstance(value, str):
        if value and (named or looks_secret(value)):
            yield _plain_secret(path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            name = str(key)
            if looks_secret(key):
                yield _plain_secret((*path, name))
            yield from _secrets_in(item, (*path, name), named=named or names_secret(name))
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            yield from _secrets_in(item, (*path, index), named=named)
    elif value is not None and named:
        yield _plain_secret(path)


def is_named_secret(path: Path) -> bool:
    """Say whether a key of a path says that what is below it is a secret."""
    return any(isinstance(part, str) and names_secret(part) for part in path)


def _plain_secret(path: Path) -> Problem:
    return Problem(
        key_of(path),
        "a secret in plain text (not shown), where no secret belongs",
        "remove it, change it at its issuer, and set it as one of the stack's own secrets: "
        "`python -m ops check` lists them",
    )


class SettingsError(Exception):
    """All problems of a stack's settings, in the order in which the settings are documented."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Write all problems, one a line."""
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        lines = [f"  - {each}" for each in self.problems[:MOST_TOLD]]
        if count > MOST_TOLD:
            lines.append(f"  - and {count - MOST_TOLD} more: fix these first")
        return "\n".join([f"{head} in the settings:", *lines])


def with_page(text: str, page: str) -> str:
    """Give a message with the page of `docs/` that helps, unless it names one itself."""
    return text if "docs/" in text else f"{text}\nmore: {page}"


def listed(problems: list[Problem]) -> str:
    """Write problems as one message, the same one only once."""
    texts = list(dict.fromkeys(str(one) for one in problems))
    if len(texts) == 1:
        return texts[0]
    return "\n".join([f"{len(texts)} problems:", *(f"  - {one}" for one in texts)])
