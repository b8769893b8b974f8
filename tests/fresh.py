"""Modules of this project, run as `python -m` does it: each in a process that has none of them yet.

What they import from others, and the settings' model, cost a second each time. So a server that has
these already makes the processes, by forking itself.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path

IMPORTED = (
    "botocore.session",
    "cryptography.x509",
    "google.protobuf.json_format",
    "jsonschema",
    "pulumi",
    "pulumi_kubernetes",
    "pulumi_vsphere",
    "pulumiverse_talos",
    "pyrage",
    "config.settings",
)
"""What nearly all need; `config` imports nothing of the project's own."""
SECONDS = 60.0
"""A module that is not at its end by then hangs."""
SERVER: ForkServerContext = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([*IMPORTED])


def run(
    module: str, *arguments: str, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a module with no input and in this environment; `folder` keeps what it says."""
    argv = [module, *arguments]
    process = SERVER.Process(target=_run, args=(argv, str(folder), dict(environment)))
    process.start()
    process.join(SECONDS)
    code = process.exitcode
    process.kill()
    assert code is not None, f"{argv}: not at its end after {SECONDS:.0f} s"
    said = [Path(folder, name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(argv, code, *said)


def _run(argv: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the new process."""
    for number, name in enumerate((os.devnull, "stdout", "stderr")):
        how = os.O_RDWR if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(Path(folder, name), how, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
