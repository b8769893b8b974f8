"""A pull request that moves Talos or Kubernetes by a patch release passes the quick tests as it is.

`platform:updates` lets such a request go in without a person (docs/updates.md). A test or a page
that named the pinned version would hold it back, and nobody would see why before it is needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from config.versions import KUBERNETES, TALOS
from ops.rehearsal import repository
from ops.rehearsal.procedures import next_patch

pytestmark = pytest.mark.campaign

PLACES = {"Pulumi.prod.yaml": "version: {}\n", "config/versions.py": ' = "{}"\n'}
"""Where Renovate finds both, and how they are written there."""


@pytest.mark.parametrize("version", [TALOS, KUBERNETES], ids=["talos", "kubernetes"])
def test_a_patch_release_needs_no_hand_in_the_quick_tests(version: str, tmp_path: Path) -> None:
    tree = repository.copy(tmp_path / "tree")
    for place, written in PLACES.items():
        text = (tree / place).read_text(encoding="utf-8")
        pin = written.format(version)
        assert text.count(pin) == 1
        moved = text.replace(pin, written.format(next_patch(version)))
        (tree / place).write_text(moved, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/unit", "--numprocesses", "auto"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:]
