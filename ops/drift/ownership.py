"""Layer Drift: who owns an object, as docs/ownership.md says. Its rows are read from above."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ops.drift.finding import DriftError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ownership.md"


class Thing(NamedTuple):
    """An object, by what tells it from all others; the namespace is `-` where there is none."""

    group: str
    kind: str
    namespace: str
    name: str


class Row(NamedTuple):
    """A row of the table."""

    kind: str
    namespace: str
    name: str
    owner: str

    def matches(self, one: Thing) -> bool:
        """Say whether the row is about this object."""
        return all(
            fnmatchcase(value, pattern)
            for value, pattern in (
                (one.kind, self.kind),
                (one.namespace, self.namespace),
                (one.name, self.name),
            )
        )


@cache
def table() -> tuple[Row, ...]:
    """Read the table."""
    rows = re.findall(
        r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \| (\w[\w ]*) \|",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return tuple(Row(*row) for row in rows)


def where(one: Thing) -> str:
    """Write an object as kubectl's arguments: `-n traefik deployment.apps/traefik`."""
    kind = f"{one.kind.lower()}.{one.group}" if one.group else one.kind.lower()
    return f"{kind}/{one.name}" if one.namespace == "-" else f"-n {one.namespace} {kind}/{one.name}"


def owner_of(one: Thing) -> str:
    """Give the owner: of the first row that matches. Raises `DriftError` when none does."""
    for row in table():
        if row.matches(one):
            return row.owner
    raise DriftError(f"{one.kind} {one.namespace}/{one.name}: {PAGE.name} has no row for it")
