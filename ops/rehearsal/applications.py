"""What Argo CD makes of the Applications, where the lab runs the real one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from clients.waiting import Clock
from ops.rehearsal import platform
from ops.rehearsal.tools import ToolError, run, world

PATIENCE_SECONDS, POLL_SECONDS = 300.0, 2.0


@dataclass(frozen=True)
class Application:
    """One of Argo CD's, and what it says of it: `Synced`, `Healthy`; "" before it said anything."""

    name: str
    sync: str
    health: str

    @property
    def well(self) -> bool:
        """Whether the cluster has what Git has, and it works."""
        return (self.sync, self.health) == ("Synced", "Healthy")


def followed() -> bool:
    """Say whether the real Argo CD runs in this world, and somebody has Applications for it."""
    return any(
        one["name"] == "argocd" and one["kind"] == "real" for one in platform.parts_in_lab(world())
    ) and "applications.argoproj.io" in run("kubectl", "get", "crd", "--output", "name")


def read() -> list[Application]:
    """Read all Applications."""
    found = json.loads(run("kubectl", "get", "applications", "--all-namespaces", "-o", "json"))
    return [
        Application(
            one["metadata"]["name"],
            one.get("status", {}).get("sync", {}).get("status", ""),
            one.get("status", {}).get("health", {}).get("status", ""),
        )
        for one in found["items"]
    ]


def lacking(found: Sequence[Application]) -> str:
    """Name those that are not well; "" when all are."""
    if not found:
        return "there is no Application"
    return ", ".join(
        f"{one.name} is {one.sync or 'not compared yet'}, {one.health or 'of unknown health'}"
        for one in found
        if not one.well
    )


def wait(clock: Clock | None = None) -> str:
    """Wait until Argo CD has taken all over; gives a line for each. Raises `ToolError`."""
    clock = clock or Clock(tell=lambda line: print(line, flush=True))
    lacks = clock.wait(
        "Argo CD's Applications",
        lambda: lacking(read()),
        seconds=PATIENCE_SECONDS,
        poll=POLL_SECONDS,
    )
    if lacks:
        message = f"Argo CD has not taken over within {PATIENCE_SECONDS:.0f} s: {lacks}"
        raise ToolError(message)
    return "\n".join(f"{one.name}: {one.sync}, {one.health}" for one in read())
