"""Which machines were touched, and when, as the lab itself has written it down (its world's log).

vCenter's part tells when it switched a machine on or off, changed or removed it; the machine's when
a configuration was applied to it, and each stage that it goes through.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import NamedTuple

from ops.rehearsal.world import World

LINE = re.compile(r'^time=\S+ level=INFO msg=(?:"(?P<words>[^"]*)"|(?P<word>\S+))(?P<rest>.*)$')
MACHINE = re.compile(r"\b(?:vm|machine)=(\S+)")
APPLIED, ON, CHANGED, RUNNING, VOTES = (
    "configuration applied",
    "VM powered on",
    "VM reconfigured while powered on",
    "stage running",
    "etcd member is a voter",
)
TOUCHES = (APPLIED, ON, CHANGED, "VM powered off", "VM removed", "stage ", "power o")


class Touch(NamedTuple):
    """What happened to a machine."""

    machine: str
    what: str


class Record:
    """What the lab writes from now on."""

    def __init__(self, world: World) -> None:
        self._log = world.state / "world.log"
        self._begin = self._log.stat().st_size

    def touches(self) -> list[Touch]:
        """Give all that happened to machines since, in order."""
        with self._log.open() as log:
            log.seek(self._begin)
            lines = [LINE.match(line) for line in log]
        found = []
        for line in filter(None, lines):
            what = line["words"] or line["word"]
            if what.startswith((*TOUCHES, VOTES)) and (of := MACHINE.search(line["rest"])):
                found.append(Touch(of[1], what))
        return found

    def turns(self) -> list[str]:
        """Name the machines in the order in which they were touched; twice if not in one go."""
        touched = [one.machine for one in self.touches() if one.what != VOTES]
        return [name for name, _ in groupby(touched)]

    def place(self, machine: str, what: str) -> int:
        """Give where something first happened to a machine among all touches."""
        return self.touches().index(Touch(machine, what))
