"""What a rehearsal says of alerts: of what the simulated receivers and vmalert tell."""

import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clients.waiting import Clock
from ops.rehearsal import alerts
from ops.rehearsal.tools import ToolError
from ops.rehearsal.victoria_metrics import VictoriaMetrics

BEGIN = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)


def at(second: int) -> dt.datetime:
    return BEGIN + dt.timedelta(seconds=second)


def alert(name: str, state: str) -> dict[str, Any]:
    return {"name": name, "state": state, "annotations": {"summary": f"{name} is so."}}


def groups(**seconds: int) -> list[dict[str, Any]]:
    """Give groups of rules with the second of their last evaluation."""
    return [
        {"name": name, "lastEvaluation": at(second).isoformat().replace("+00:00", ".123456789Z")}
        for name, second in seconds.items()
    ]


@dataclass(frozen=True)
class Metrics(VictoriaMetrics):
    """Answers with what a test says."""

    said: list[dict[str, Any]] = field(default_factory=list)
    evaluated: list[dict[str, Any]] = field(default_factory=list)

    def alerts(self) -> list[dict[str, Any]]:
        return self.said

    def groups(self) -> list[dict[str, Any]]:
        return self.evaluated


def test_what_fires_is_named_with_its_words() -> None:
    said = [
        alert("Soon", "pending"),
        alert("Old", "firing"),
        alert("Heartbeat", "firing"),
        alert("Bad", "firing"),
    ]
    assert alerts.summary(said).splitlines() == [
        "alerts that fire:",
        "  Bad: Bad is so.",
        "  Old: Old is so.",
    ]


def test_a_target_that_does_not_come_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "PATIENCE_SECONDS", 0.0)
    metrics = Metrics("nowhere", [alert("TargetAway", "pending")], groups(etcd=10**9))
    assert alerts.fires(metrics, Clock()).splitlines() == [
        "no alert fires",
        "not all is known yet: TargetAway is so.",
    ]


def test_without_an_alert_but_the_heartbeat_that_is_said() -> None:
    assert alerts.summary([]) == "no alert fires"
    assert alerts.summary([alert("Heartbeat", "firing")]) == "no alert fires"


def test_all_rules_are_evaluated_again_after_the_last_target_was_read() -> None:
    metrics, now = Metrics("nowhere"), [at(0)]
    settling = alerts.Settling(metrics, lambda: now[0])
    metrics.evaluated[:] = groups(etcd=1, support=-5)
    assert settling.lacks() == "the rules of support are not evaluated yet"
    now[0] = at(20)
    metrics.said[:] = [alert("TargetMissing", "pending"), alert("Old", "firing")]
    metrics.evaluated[:] = groups(etcd=16, support=10)
    assert settling.lacks() == "TargetMissing is so."
    now[0] = at(30)
    metrics.said[:] = [alert("Old", "firing"), alert("RuleFails", "pending")]
    metrics.evaluated[:] = groups(etcd=31, support=19)
    assert settling.lacks() == "the rules of support are not evaluated yet"
    metrics.evaluated[:] = groups(etcd=31, support=25)
    assert settling.lacks() == ""
    metrics.evaluated[:] = groups(etcd=10**9)
    assert alerts.fires(metrics, Clock()) == "alerts that fire:\n  Old: Old is so."


@pytest.mark.parametrize(
    ("kinds", "is_watched"),
    [
        ({"vmalert": "real", "alert-receivers": "simulated"}, True),
        ({"vmalert": "simulated", "alert-receivers": "simulated"}, False),
        ({"vmalert": "real"}, False),
        ({}, False),
    ],
)
def test_a_world_is_watched_by_real_programs_that_tell_somebody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str], *, is_watched: bool
) -> None:
    parts = [{"name": name, "kind": kind, "says": ""} for name, kind in kinds.items()]
    monkeypatch.setattr("ops.rehearsal.platform.parts_in_lab", lambda _: parts)
    assert alerts.watched(tmp_path) is is_watched


def test_what_tells_nobody_fails_the_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "world", lambda: tmp_path)
    monkeypatch.setattr(alerts, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(ToolError, match="what watches tells nobody within 0 s"):
        alerts.wait_heard(Clock())
    monkeypatch.setattr(alerts, "PATIENCE_SECONDS", 60.0)
    told = json.dumps({"service": "heartbeat", "message": None})
    (tmp_path / alerts.FILE).write_text(f"{told}\n")
    alerts.wait_heard(Clock())


def test_a_message_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    line = json.dumps({"service": "webhook", "message": {"status": "firing"}})
    file = tmp_path / alerts.FILE
    file.write_text(f"{line}\n{line[:20]}")
    assert list(alerts.told(tmp_path, "webhook")) == [{"status": "firing"}]
    file.write_text(f"{line}\n{line}\n")
    assert len(list(alerts.told(tmp_path, "webhook"))) == 2
    assert list(alerts.told(tmp_path, "heartbeat")) == []
