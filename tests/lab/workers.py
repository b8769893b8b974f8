"""Where the time of the lab's tests goes: what each worker did when, and the slowest tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

SLOWEST = 20
"""So many tests are told."""


@dataclass
class File:
    """What one worker did of a file; seconds since the epoch."""

    begin: float
    end: float


@dataclass
class Workers:
    """Collects the reports of a run's tests."""

    files: dict[str, dict[str, File]] = field(default_factory=dict)
    """By worker, in the order in which each came to them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By test, with what its fixtures needed before and after it."""

    def add(self, worker: str, test: str, begin: float, end: float) -> None:
        """Take a part of a test: before it, itself, or after it."""
        file = self.files.setdefault(worker, {}).setdefault(
            test.partition("::")[0].rpartition("/")[2], File(begin, end)
        )
        file.begin, file.end = min(file.begin, begin), max(file.end, end)
        self.seconds[test] = self.seconds.get(test, 0.0) + end - begin

    def lines(self) -> Iterator[str]:
        """Tell it, in lines."""
        every = [file for files in self.files.values() for file in files.values()]
        if not every:
            return
        begin, end = min(one.begin for one in every), max(one.end for one in every)
        for worker, files in sorted(self.files.items()):
            for name, file in files.items():
                yield (
                    f"{worker:8} {file.begin - begin:6.0f} s to {file.end - begin:6.0f} s "
                    f"{file.end - file.begin:6.0f} s  {name}"
                )
            idle = end - max(file.end for file in files.values())
            yield f"{worker:8} {idle:6.0f} s idle at the end"
        for test, seconds in sorted(self.seconds.items(), key=lambda one: -one[1])[:SLOWEST]:
            yield f"{seconds:8.1f} s  {test.removeprefix('tests/lab/')}"
