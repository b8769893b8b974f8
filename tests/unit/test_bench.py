"""What is measured is told against what is to be reached."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from ops.rehearsal import bench

KEYS = {
    "noop_to_empty_ratio",
    "first_preview_growth_ratio",
    "up_to_critical_path_ratio",
    "up_critical_path_seconds",
    "up_with_real_delays_seconds",
    "make_lab_seconds",
    "make_unit_processor_seconds",
    "make_test_seconds",
}


def test_only_what_was_measured_is_in_the_table() -> None:
    assert {one.key for one in bench.GOALS} == KEYS
    rows = bench.table({"make_lab_seconds": 80.0, "peak_memory_mib": 3000})
    assert rows == [
        {"measure": "second `make lab`", "found": 80.0, "to_reach": 75, "unit": "s"},
    ]
    assert len(bench.table(dict.fromkeys(KEYS, 1.0))) == len(KEYS)


def test_the_parts_that_were_named_are_measured_and_written_with_the_machines_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def life(given: argparse.Namespace) -> dict[str, Any]:
        return {"up_to_critical_path_ratio": 1.0 + given.lives}

    monkeypatch.setattr(bench, "PARTS", {"life": life, "unit": None})
    out, page = tmp_path / "bench.json", tmp_path / "speed.md"
    options = ["--only", "life", "--lives", "2", "--page", str(page)]
    assert bench.main([str(out), *options]) == 0
    result = json.loads(out.read_text())
    assert result["up_to_critical_path_ratio"] == 3.0
    assert json.loads(capsys.readouterr().out) == result
    text = page.read_text()
    assert "| `up` of production / its critical path | 3.00 | 1.05 |" in text
    assert f"The load was {result['machine']['load_of_others']:.1f} before" in text


def test_the_growth_of_first_previews_is_one_when_they_are_linear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def linear(machines: int, _: int) -> bench.Cost:
        return bench.Cost(wall=machines / 10, processor=1.0)

    monkeypatch.setattr(bench, "preview_at", linear)
    found = bench.first_previews((20, 200), rounds=1)
    assert found["first_preview_growth_ratio"] == pytest.approx(1.0)
    assert "first_preview_growth_ratio" not in bench.first_previews((3,), rounds=1)
