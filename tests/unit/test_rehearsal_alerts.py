"""What a rehearsal says of alerts: of what the simulated receivers have written down."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.waiting import Clock
from ops.rehearsal import alerts
from ops.rehearsal.tools import ToolError


def written(folder: Path, *messages: tuple[str, Any]) -> Path:
    lines = [json.dumps({"service": service, "message": told}) for service, told in messages]
    (folder / alerts.FILE).write_text("\n".join(lines) + "\n")
    return folder


def alert(name: str, status: str, fingerprint: str = "") -> dict[str, Any]:
    return {
        "fingerprint": fingerprint or name,
        "status": status,
        "labels": {"alertname": name},
        "annotations": {"summary": f"{name} is so."},
    }


def test_what_fires_still_is_named_with_its_words(tmp_path: Path) -> None:
    told = (
        ("webhook", {"alerts": [alert("Old", "firing"), alert("Still", "firing")]}),
        ("heartbeat", {"alerts": [alert("Heartbeat", "firing")]}),
        ("webhook", {"alerts": [alert("Old", "resolved")]}),
    )
    said = alerts.summary(written(tmp_path, *told))
    assert said == "alerts that fire:\n  Still: Still is so."


def test_without_an_alert_that_is_said(tmp_path: Path) -> None:
    assert alerts.summary(tmp_path) == "no alert fires"
    assert alerts.summary(written(tmp_path, ("heartbeat", None))) == "no alert fires"


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
        alerts.wait(Clock())
    monkeypatch.setattr(alerts, "PATIENCE_SECONDS", 60.0)
    written(tmp_path, ("heartbeat", None))
    assert alerts.wait(Clock()) == "no alert fires"
