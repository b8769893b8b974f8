"""The campaign of kills: its arithmetic, and what it says. The lab runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rehearsal.killing import kill_tree, tree
from rehearsal.kills import KINDS, Kill, Round, line, shares


@pytest.mark.parametrize("kills", [1, 5, 40, 43])
def test_kills_are_shared_among_the_kinds_and_none_is_lost(kills: int) -> None:
    found = shares(list(KINDS), kills)
    assert sum(found.values()) == kills
    assert max(found.values()) - min(found.values()) <= 1


def test_a_round_says_what_was_killed_when_and_how_it_ended() -> None:
    kills = [Kill(1, "up", "engine", 3.21, 14), Kill(2, "destroy", "everything", 0.5, 2, hung=True)]
    good = Round(kills, "destroy", seconds=11.6, repaired=True, converged=True)
    assert line(good) == (
        "[up: engine after 3.2 s, destroy: everything after 0.5 s (hung)] then destroy: converged, "
        "after `make repair`, 12 s"
    )
    bad = Round(kills[:1], "up", problems=["etcd's members: none"])
    assert "NOT CONVERGED: etcd's members: none" in line(bad)


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
