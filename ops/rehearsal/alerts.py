"""What the platform says of itself in a rehearsal, where the lab runs what watches it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clients.waiting import Clock
from ops.rehearsal import platform
from ops.rehearsal.tools import ToolError, world
from ops.rehearsal.victoria_metrics import VictoriaMetrics

FILE = "alerts.jsonl"
"""In the world's folder: what its simulated receivers were told (lab/internal/alertreceiver)."""
PATIENCE_SECONDS, POLL_SECONDS = 300.0, 2.0
ALWAYS = "Heartbeat"
NOT_READ = {"TargetMissing", "TargetAway"}
"""What is pending while a new platform's targets are found. Others may be for minutes: rules that
were evaluated before there was anything to ask."""
Alert = dict[str, Any]
Now = Callable[[], dt.datetime]


def watched(folder: Path) -> bool:
    """Say whether real programs watch this world's platform, and tell somebody."""
    kinds = {one["name"]: one["kind"] for one in platform.parts_in_lab(folder)}
    return "alert-receivers" in kinds and kinds.get("vmalert") == "real"


def wait_heard(clock: Clock) -> None:
    """Wait for the first heartbeat: it has come all the way. Raises `ToolError`."""
    folder = world()
    lacks = clock.wait(
        "the platform's first heartbeat",
        lambda: "" if [*told(folder, "heartbeat")] else "nobody outside has heard of it",
        seconds=PATIENCE_SECONDS,
        poll=POLL_SECONDS,
    )
    if lacks:
        message = f"what watches tells nobody within {PATIENCE_SECONDS:.0f} s: {lacks}"
        raise ToolError(message)


def fires(metrics: VictoriaMetrics, clock: Clock) -> str:
    """Say which alerts fire, once all rules have seen all targets."""
    lacks = clock.wait(
        "all targets to be read",
        Settling(metrics).lacks,
        seconds=PATIENCE_SECONDS,
        poll=POLL_SECONDS,
    )
    told = summary(metrics.alerts())
    return f"{told}\nnot all is known yet: {lacks}" if lacks else told


class Settling:
    """Looks at the rules until all have been evaluated after the last target was read."""

    def __init__(
        self, metrics: VictoriaMetrics, now: Now = lambda: dt.datetime.now(dt.UTC)
    ) -> None:
        self._metrics = metrics
        self._now = now
        self._since = now()

    def lacks(self) -> str:
        """Say what is not settled yet; nothing when all is."""
        for alert in self._metrics.alerts():
            if alert["state"] == "pending" and alert["name"] in NOT_READ:
                self._since = self._now()
                return str(alert["annotations"]["summary"])
        for group in self._metrics.groups():
            if dt.datetime.fromisoformat(group["lastEvaluation"]) <= self._since:
                return f"the rules of {group['name']} are not evaluated yet"
        return ""


def summary(alerts: list[Alert]) -> str:
    """Name the alerts that fire."""
    lines = [
        f"  {one['name']}: {one['annotations'].get('summary', '')}"
        for one in alerts
        if one["state"] == "firing" and one["name"] != ALWAYS
    ]
    return "\n".join(["alerts that fire:", *sorted(lines)]) if lines else "no alert fires"


def told(folder: Path, service: str) -> Iterator[Any]:
    """Read what one of a world's simulated receivers was told, the oldest first."""
    file = folder / FILE
    # Behind the last end of a line is one that is being written.
    whole, _, _ = (file.read_text(encoding="utf-8") if file.is_file() else "").rpartition("\n")
    for line in whole.splitlines():
        message = json.loads(line)
        if message["service"] == service:
            yield message["message"]
