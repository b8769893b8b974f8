"""VictoriaMetrics in a rehearsal, by a forwarded port: nobody is logged in at Argo CD in one.

It answers as Prometheus' API does, and for vmalert, which it stands before.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from ops.rehearsal.tools import ToolError

WHERE = ("--namespace", "monitoring", "deployment/victoria-metrics", ":8428")
STEP_SECONDS = 15
"""How often targets are read, and rules evaluated (platform/monitoring)."""
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class VictoriaMetrics:
    """Where it answers here: an address and a port."""

    address: str

    def between(self, begin: float, end: float, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression for each step between two times in Unix seconds; gives series."""
        when = {"start": begin, "end": end, "step": STEP_SECONDS, "nocache": 1}
        found: list[dict[str, Any]] = self._ask("api/v1/query_range", query=expression, **when)[
            "result"
        ]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Give vmalert's alerts, those that are pending too."""
        found: list[dict[str, Any]] = self._ask("vmalert/api/v1/alerts")["alerts"]
        return found

    def groups(self) -> list[dict[str, Any]]:
        """Give vmalert's groups of rules, with the time of each one's last evaluation."""
        found: list[dict[str, Any]] = self._ask("vmalert/api/v1/rules")["groups"]
        return found

    def _ask(self, path: str, **query: object) -> Any:  # noqa: ANN401 what a path answers
        url = f"http://{self.address}/monitoring/prometheus/{path}?{urlencode(query)}"
        try:
            with urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)["data"]
        except OSError as error:
            message = f"VictoriaMetrics does not answer {path}: {error}"
            raise ToolError(message) from error


@contextmanager
def forwarded() -> Iterator[VictoriaMetrics]:
    """Forward a port to it, as long as it is needed. Raises `ToolError`."""
    argv = ["kubectl", "port-forward", *WHERE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            place = re.search(r"127\.0\.0\.1:\d+", line)
            if place is None:
                message = f"{' '.join(argv)} forwards no port: {line.strip()}"
                raise ToolError(message)
            yield VictoriaMetrics(place[0])
        finally:
            process.terminate()
