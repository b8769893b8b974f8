"""What a rehearsal makes of Argo CD's Applications."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.waiting import Clock
from ops.rehearsal import applications
from ops.rehearsal.applications import Application
from ops.rehearsal.tools import ToolError

WELL = Application("root", "Synced", "Healthy")


def test_each_application_that_is_not_well_is_named() -> None:
    found = [WELL, Application("podinfo", "OutOfSync", "Degraded"), Application("argo-cd", "", "")]
    assert applications.lacking(found) == (
        "podinfo is OutOfSync, Degraded, argo-cd is not compared yet, of unknown health"
    )
    assert applications.lacking([WELL]) == ""


def test_no_application_is_not_well() -> None:
    assert applications.lacking([]) == "there is no Application"


def answers(monkeypatch: pytest.MonkeyPatch, *health: str) -> None:
    """Let the cluster have one Application, whose health is another one each time."""
    said: Iterator[str] = itertools.chain(health, itertools.repeat(health[-1]))

    def run(*_: str, **__: Any) -> str:
        status = {"sync": {"status": "Synced"}, "health": {"status": next(said)}}
        return json.dumps({"items": [{"metadata": {"name": "root"}, "status": status}]})

    monkeypatch.setattr(applications, "run", run)


def still() -> Clock:
    """Give a clock that goes on by a look, without waiting."""
    times = itertools.count(0.0, 10.0)
    return Clock(now=lambda: next(times), sleep=lambda _: None)


def test_the_rehearsal_waits_until_argo_cd_has_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "Progressing", "Healthy")
    assert applications.wait(still()) == "root: Synced, Healthy"


def test_an_application_that_never_is_well_fails_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, "Degraded")
    with pytest.raises(ToolError, match="within 300 s: root is Synced, Degraded"):
        applications.wait(still())


@pytest.mark.parametrize("kind", ["real", "simulated"])
def test_only_a_real_argo_cd_is_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workloads.json").write_text(json.dumps([{"name": "argocd", "kind": kind}]))
    monkeypatch.setattr(applications, "world", lambda: tmp_path)
    monkeypatch.setattr(applications, "run", lambda *_: "crd/applications.argoproj.io\n")
    assert applications.followed() is (kind == "real")
