"""Layer Policies: what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ops.engine.values import Resource
from ops.policies.known import Known


class Level(Enum):
    """What a violation does: `MANDATORY` stops the preview or the update, `ADVISORY` is shown."""

    MANDATORY = "mandatory"
    ADVISORY = "advisory"


Check = Callable[[Resource, Known], Iterator[str]]
"""Gives what is wrong with a resource, each with its fix."""
StackCheck = Callable[[Sequence[Resource], Known], Iterator[tuple[Resource, str]]]
"""The same for the stack as a whole, with the resource to show it at."""


@dataclass(frozen=True)
class Rule:
    """A rule: exactly one of `check` (of each resource) and `check_stack` (of all of them)."""

    name: str
    level: Level
    description: str
    check: Check | None = None
    check_stack: StackCheck | None = None

    def __post_init__(self) -> None:
        if (self.check is None) == (self.check_stack is None):
            message = f"rule {self.name}: give either `check` or `check_stack`"
            raise ValueError(message)
