"""What the platform told of itself in a rehearsal, where the lab runs what watches it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clients.waiting import Clock
from ops.rehearsal import platform
from ops.rehearsal.tools import ToolError, world

FILE = "alerts.jsonl"
"""In the world's folder: what its simulated receivers were told (lab/internal/alertreceiver)."""
PATIENCE_SECONDS, POLL_SECONDS = 300.0, 2.0
Alert = dict[str, Any]


def watched(folder: Path) -> bool:
    """Say whether real programs watch this world's platform, and tell somebody."""
    kinds = {one["name"]: one["kind"] for one in platform.parts_in_lab(folder)}
    return "alert-receivers" in kinds and kinds.get("vmalert") == "real"


def wait(clock: Clock | None = None) -> str:
    """Wait for the first heartbeat, then say which alerts fire. Raises `ToolError`.

    A heartbeat has come all the way: read, kept, evaluated, told.
    """
    clock = clock or Clock(tell=lambda line: print(line, flush=True))
    folder = world()
    lacks = clock.wait(
        "the platform's first heartbeat",
        lambda: "" if [*_told(folder, "heartbeat")] else "nobody outside has heard of it",
        seconds=PATIENCE_SECONDS,
        poll=POLL_SECONDS,
    )
    if lacks:
        message = f"what watches tells nobody within {PATIENCE_SECONDS:.0f} s: {lacks}"
        raise ToolError(message)
    return summary(folder)


def summary(folder: Path) -> str:
    """Name the alerts that the webhook was told of and that are not resolved."""
    state: dict[str, Alert] = {}
    for message in _told(folder, "webhook"):
        for alert in message["alerts"]:
            state[alert["fingerprint"]] = alert
    lines = [
        f"  {one['labels']['alertname']}: {one['annotations'].get('summary', '')}"
        for one in state.values()
        if one["status"] == "firing"
    ]
    return "\n".join(["alerts that fire:", *sorted(lines)]) if lines else "no alert fires"


def _told(folder: Path, service: str) -> Iterator[Any]:
    """Read what one of the simulated receivers was told, the oldest first."""
    file = folder / FILE
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        told = json.loads(line)
        if told["service"] == service:
            yield told["message"]
