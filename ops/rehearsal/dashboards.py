"""The platform's dashboards with the numbers of a rehearsal, where real programs watch it.

The dashboards are those that people see (platform/monitoring/dashboards, in the form of
VictoriaMetrics' own pages, "vmui: custom dashboards"); the numbers are read as Prometheus' API
gives them. Nobody is logged in at Argo CD in a rehearsal, so they come by a forwarded port.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from ops.rehearsal.tools import PROJECT, ToolError

FOLDER = PROJECT / "platform" / "monitoring" / "dashboards"
WHERE = ("--namespace", "monitoring", "deployment/victoria-metrics", ":8428")
PATH = "monitoring/prometheus/api/v1/query_range"
STEP_SECONDS = 15
"""How often targets are read (platform/monitoring/scrape)."""
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Series:
    """A line of a panel: its name, and its numbers by time in Unix seconds, the oldest first."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """A picture: its title, the unit of its numbers, and its lines."""

    title: str
    unit: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Dashboard:
    """Panels below the titles of their rows."""

    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


Ask = Callable[[str], list[dict[str, Any]]]
"""Evaluates an expression over the time of the rehearsal; gives the series of Prometheus' API."""


def read(ask: Ask, folder: Path = FOLDER) -> list[Dashboard]:
    """Read all dashboards of a folder, in the order of their files, with their numbers."""
    trees = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [
        Dashboard(
            tree["title"],
            tuple(
                (row["title"], tuple(_panel(one, ask) for one in row["panels"]))
                for row in tree["rows"]
            ),
        )
        for tree in trees
    ]


def _panel(panel: dict[str, Any], ask: Ask) -> Panel:
    series = [
        Series(
            _name(alias, one["metric"]),
            tuple((float(at), float(text)) for at, text in one["values"]),
        )
        for expression, alias in zip(panel["expr"], panel["alias"], strict=True)
        for one in ask(expression)
    ]
    return Panel(panel["title"], panel.get("unit", ""), tuple(series))


def _name(alias: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), alias)


@contextmanager
def asking(begin: float, end: float) -> Iterator[Ask]:
    """Forward a port to VictoriaMetrics, and ask it of a time in Unix seconds.

    Raises `ToolError` when it does not answer.
    """
    with _forwarded() as address:

        def ask(expression: str) -> list[dict[str, Any]]:
            when = {"start": begin, "end": end, "step": STEP_SECONDS, "nocache": 1}
            url = f"http://{address}/{PATH}?{urlencode({'query': expression, **when})}"
            try:
                with urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                    found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            except OSError as error:
                message = f"VictoriaMetrics does not answer {expression}: {error}"
                raise ToolError(message) from error
            return found

        yield ask


@contextmanager
def _forwarded() -> Iterator[str]:
    """Give where the port can be reached here, as long as it is forwarded."""
    argv = ["kubectl", "port-forward", *WHERE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            place = re.search(r"127\.0\.0\.1:\d+", line)
            if place is None:
                message = f"{' '.join(argv)} forwards no port: {line.strip()}"
                raise ToolError(message)
            yield place[0]
        finally:
            process.terminate()
