"""Layer Review: the classes of a change's effect, and what a rule says of one resource."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How bad a change is: its words, its rank, and the exit code of `python -m ops review`."""

    SAFE = ("safe", 0, 0)
    RESTARTS = ("restarts workloads", 1, 10)
    REBOOTS = ("reboots machines", 2, 20)
    REPLACES = ("replaces machines", 3, 30)
    UNKNOWN = ("unknown effect", 4, 50)
    """Nobody wrote a rule for it. It may be harmless; whoever merges it must find out first."""
    LOSES = ("loses data", 5, 40)
    REFUSED = ("refused", 6, 60)
    """The engine or the program refuses: nothing can be deployed."""

    def __init__(self, words: str, rank: int, exit_code: int) -> None:
        self.words = words
        self.rank = rank
        self.exit_code = exit_code

    def __lt__(self, other: Verdict) -> bool:
        return self.rank < other.rank


@dataclass(frozen=True)
class Effect:
    """What a rule says of one change."""

    verdict: Verdict
    why: str
    """What happens, in a few words that follow the resource's name."""
    away: str = ""
    """What goes away, and for how long; empty when nothing does."""
    source: str = ""
    """Where the rule comes from."""


def worst(effects: list[Effect]) -> Effect:
    """Give the worst of several; there must be one."""
    return max(effects, key=lambda one: one.verdict.rank)
