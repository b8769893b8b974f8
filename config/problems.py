"""Configuration: a problem in the settings, and the error that carries all of them.

A problem names the key, the value and the mend, and never shows a secret: values under keys that
name a secret, values that look like one, and whole mappings or lists are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Where a value stands: `("machines", 1, "address")`."""

_SECRET_KEY = re.compile(
    r"(pass(word|wd|phrase)|token|secret|(private|secret|access|api|encryption)[-_]?key)s?$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"  # PEM
    r"|AGE-SECRET-KEY-1"  # age
    r"|\b(gh[opsur]_|github_pat_|glpat-)\w"  # GitHub, GitLab
    r"|\bAKIA[0-9A-Z]{16}\b"  # S3 access keys
    r"|://[^/@\s]+:[^/@\s]+@"  # user and password in a URL
)


def names_secret(key: str) -> bool:
    """Say whether a key's name says that its value is a secret."""
    return _SECRET_KEY.search(key) is not None


def looks_secret(value: object) -> bool:
    """Say whether a text looks like a private key, a token or a URL with a password in it."""
    return isinstance(value, str) and _SECRET_VALUE.search(value) is not None


def key_of(path: Path) -> str:
    """Write a path as a stack file's reader knows it: `platform:machines[1].address`."""
    first, *rest = path
    key = str(first) if ":" in str(first) else f"platform:{first}"
    return key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where, what was given, what is wrong with it, and what to do."""

    key: str
    fault: str
    mend: str
    value: str | None = None
    """The value as JSON, or `None` where there is none or where it must not be shown."""

    def __str__(self) -> str:
        """Write the problem as one line."""
        given = "" if self.value is None else f" = {self.value}"
        return f"{self.key}{given}: {self.fault}; {self.mend}"


def problem(path: Path, value: object, fault: str, mend: str) -> Problem:
    """Make a problem of the value at a path, leaving out what must not or need not be shown."""
    hidden = (
        value is None
        or isinstance(value, Mapping | list | tuple)
        or looks_secret(value)
        or any(isinstance(part, str) and names_secret(part) for part in path)
    )
    if hidden:
        return Problem(key_of(path), fault, mend)
    plain = value if isinstance(value, str | int | float) else str(value)
    return Problem(key_of(path), fault, mend, json.dumps(plain, ensure_ascii=False))


def secrets_in(value: object, path: Path) -> Iterator[Problem]:
    """Find every secret written in plain text below a path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets_in(item, (*path, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from secrets_in(item, (*path, index))
    elif value not in (None, ""):
        named = any(isinstance(part, str) and names_secret(part) for part in path[-1:])
        if named or looks_secret(value):
            yield Problem(
                key_of(path),
                "a secret in plain text (not shown), where no secret belongs",
                "remove it, change it at its issuer, and set it as one of the stack's own secrets: "
                "`python -m config check` lists them",
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
        return "\n".join([f"{head} in the settings:", *(f"  - {each}" for each in self.problems)])
