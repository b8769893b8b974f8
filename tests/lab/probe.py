"""Watches a platform while it is changed: the API through the VIP, the machines, etcd's quorum."""

from __future__ import annotations

import time

from ops.rehearsal.world import World
from tests.background import Background


class Probe(Background):
    """Polls until it is left; keeps what it saw with times in seconds since it began."""

    def __init__(self, world: World) -> None:
        super().__init__(self._watch_api, self._watch_machines)
        self._world = world
        self._begin = time.monotonic()
        self.answers = 0
        self.failures: list[tuple[float, str]] = []
        self.gone: list[tuple[float, str]] = []
        self.members: list[int] = []

    def _watch_api(self) -> None:
        while not self._stop.is_set():
            result = self._world.run(
                "kubectl", "--request-timeout=1s", "get", "--raw", "/readyz", code=None
            )
            if result.returncode == 0:
                self.answers += 1
            else:
                self.failures.append((time.monotonic() - self._begin, result.stderr.strip()[-200:]))
            self._stop.wait(0.2)

    def _watch_machines(self) -> None:
        away: set[str] = set()
        while not self._stop.is_set():
            machines = self._world.machines()
            self.members.append(sum(machine["etcd"] == "Running" for machine in machines))
            for machine in machines:
                if machine["stage"] == "running":
                    away.discard(machine["name"])
                elif machine["name"] not in away:
                    away.add(machine["name"])
                    self.gone.append((time.monotonic() - self._begin, machine["name"]))
            self._stop.wait(0.1)

    def order_of_reboots(self) -> list[str]:
        return [name for _, name in self.gone]

    def fewest_members(self) -> int:
        return min(self.members)

    def summary(self) -> str:
        total = self.answers + len(self.failures)
        return (
            f"API through the VIP: {len(self.failures)} of {total} probes failed; "
            f"machines went in the order {self.gone}; "
            f"never fewer than {self.fewest_members()} etcd members running"
        )
