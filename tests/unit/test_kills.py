"""The campaign of kills: its arithmetic, and what it says. The lab runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config import load_file
from ops.rehearsal.killing import kill_tree, tree
from ops.rehearsal.kills import KINDS, Kill, Report, Round, line, shares, shares_of, stack_file
from ops.rehearsal.world import PROJECT


@pytest.mark.parametrize("kills", [1, 5, 40, 43])
def test_kills_are_shared_among_the_kinds_and_none_is_lost(kills: int) -> None:
    found = shares(list(KINDS), kills)
    assert sum(found.values()) == kills
    assert max(found.values()) - min(found.values()) <= 1


@pytest.mark.parametrize("worlds", [1, 2, 3])
def test_worlds_at_a_time_make_all_kills_together(worlds: int) -> None:
    wanted = shares(list(KINDS), 43)
    parts = [shares_of(wanted, worlds, at) for at in range(worlds)]
    assert {kind: sum(part[kind] for part in parts) for kind in KINDS} == wanted


def test_the_report_counts_what_was_killed_and_says_what_did_not_converge(tmp_path: Path) -> None:
    report = Report(tmp_path / "out" / "kills.json", 7, {"up": 2, "destroy": 2})
    report.record(Round([Kill(1, "up", "engine", 3.21, 14)], "up", repaired=True, converged=True))
    assert ": 1 kills (1 of 2 of up, 0 of 2 of destroy) in 0 min: all converged" in report.total()
    report.record(Round([Kill(2, "destroy", "engine", 1.0, 1)], "up", problems=["up fails"]))
    assert report.total().endswith("1 did not converge, 1 rounds after `make repair`")
    kept = json.loads((tmp_path / "out" / "kills.json").read_text())
    assert kept["kills"] == {"up": 1, "destroy": 1}
    assert kept["converged"] is False


def test_a_round_says_what_was_killed_when_and_how_it_ended() -> None:
    kills = [
        Kill(1, "up", "engine", 3.21, 14),
        Kill(2, "destroy", "everything", 0.5, 2, hung=True),
    ]
    good = Round(kills, "destroy", seconds=11.6, repaired=True, converged=True)
    assert line(good) == (
        "[up: engine after 3.2 s, destroy: everything after 0.5 s (hung)] then destroy: converged, "
        "after `make repair`, 12 s"
    )
    bad = Round(kills[:1], "up", problems=["etcd's members: none"])
    assert "NOT CONVERGED: etcd's members: none" in line(bad)


@pytest.mark.parametrize(
    ("name", "left"), [("Pulumi.prod.yaml", None), ("Pulumi.omni.yaml", ["cilium"])]
)
def test_the_campaign_runs_without_services_but_for_the_cni_that_omni_needs(
    tmp_path: Path, name: str, left: list[str] | None
) -> None:
    file = stack_file(PROJECT / name, tmp_path, 0, services=False)
    services = load_file(file).services
    assert file.name == name
    found = [one for one in ("cilium", "metallb", "traefik") if getattr(services, one) is not None]
    assert (found or None) == left


def test_a_killed_tree_leaves_no_descendant() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as root:
        assert root.stdout is not None
        child = int(root.stdout.readline())
        assert set(tree(root.pid)) >= {root.pid, child}
        kill_tree(root.pid)
        assert root.wait(10) == -9
    assert child not in set(tree(root.pid))
