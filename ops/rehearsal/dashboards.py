"""The platform's dashboards with the numbers of a rehearsal, where real programs watch it.

The dashboards are those that people see (platform/monitoring/dashboards, in the form of
VictoriaMetrics' own pages, "vmui: custom dashboards"); the numbers are as Prometheus' API gives
them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.rehearsal.tools import PROJECT

FOLDER = PROJECT / "platform" / "monitoring" / "dashboards"


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
