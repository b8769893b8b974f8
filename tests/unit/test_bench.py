"""What is measured is told against what is to be reached."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
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
    "make_lab_simulated_seconds",
    "peak_memory_real_mib",
    "programs_build_processor_seconds",
    "make_unit_processor_seconds",
    "make_test_seconds",
}


def test_only_what_was_measured_is_in_the_table() -> None:
    assert {one.key for one in bench.GOALS} == KEYS
    (row,) = bench.table({"make_lab_seconds": 80.0, "peak_memory_mib": 3000})
    assert row["measure"] == "second `make lab`, real programs"
    assert (row["found"], row["to_reach"], row["unit"]) == (80.0, 180, "s")
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
    assert "- `up` of production / its critical path: From the first layer on" in text
    assert f"The load was {result['machine']['load_of_others']:.1f} before" in text


def test_the_page_says_what_a_figure_is_made_of_only_where_it_is_not_reached() -> None:
    machine = {"date": "", "cpus": 2, "kernel": "", "load_of_others": 0.0, "load_at_the_end": 0.0}
    machine |= {"rounds": 5, "lives": 3}
    reached = {"machine": machine, "table": bench.table({"up_critical_path_seconds": 60.0})}
    assert "made of" not in bench.page(reached)
    missed = {"machine": machine, "table": bench.table({"up_critical_path_seconds": 61.0})}
    assert "made of:\n\n- critical path of `up` in the lab: Two control planes" in bench.page(
        missed
    )


def test_the_growth_of_first_previews_is_one_when_they_are_linear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def linear(machines: int, _: int) -> bench.Cost:
        return bench.Cost(wall=machines / 10, processor=1.0)

    monkeypatch.setattr(bench, "preview_at", linear)
    found = bench.first_previews((20, 200), rounds=1)
    assert found["first_preview_growth_ratio"] == pytest.approx(1.0)
    assert "first_preview_growth_ratio" not in bench.first_previews((3,), rounds=1)


def test_a_worlds_memory_is_that_of_all_that_descends_from_its_first_process() -> None:
    # A shell whose child is another program, which waits for its input.
    with subprocess.Popen(
        ["/bin/sh", "-c", "(cat; :); :"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"started\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"started\n"
        found = bench.descendants(shell.pid)
        names = {Path(f"/proc/{one}/comm").read_text().strip() for one in found}
        assert names >= {"sh", "cat"}
        assert os.getpid() not in found
        assert found < bench.descendants(os.getpid())
        shell.stdin.close()
