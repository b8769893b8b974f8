"""What a preview starts without, so that nobody waits for it: looked at in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.edits import STACK_FILES
from tests.unit.recorder import ROOT

PREVIEW = """
import sys
from pathlib import Path
sys.modules['pyVmomi'] = None
from config import plain_yaml
from tests.unit.recorder import run
config = plain_yaml.read(Path(sys.argv[1]).read_text())['config']
settings = {key.removeprefix('platform:'): value for key, value in config.items()}
assert run(settings, preview=True).names('vsphere:index/virtualMachine:VirtualMachine')
"""

IMPORTS = """
import gc, runpy
import pulumi  # which the engine's language host has imported before
runs = []
gc.callbacks.append(lambda phase, _: runs.append(phase))
runpy.run_path('__main__.py', run_name='imported')
print(runs.count('start'))
"""


@pytest.mark.parametrize("file", [ROOT / "Pulumi.prod.yaml", STACK_FILES / "good" / "omni.yaml"])
def test_a_preview_does_without_what_asks_vcenter_in_an_update(file: Path) -> None:
    # An import of pyVmomi fails there.
    done = subprocess.run(
        [sys.executable, "-c", PREVIEW, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_pythons_collector_hardly_runs_while_the_program_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # 5 times, and more than 100 where Python's own thresholds hold.
    assert int(done.stdout) < 50
