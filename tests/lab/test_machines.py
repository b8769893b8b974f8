"""What the simulated machines and the lab's Kubernetes plugin do: their own Go tests.

Those that need the real programs, each in namespaces of its own. They wait for the clocks of Talos
and etcd most of the time, so they run here, beside the worlds.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ops.rehearsal.world import LAB, PROJECT

BIN = LAB.parent
FLAGS = ("-tags=lab", "-vet=off", "-gcflags=all=-dwarf=false", "-ldflags=-s -w")
"""`make go-test` vets; nobody debugs the programs that are linked here."""
ARGUMENTS = {
    "machine": ("-args", "-bin", str(BIN), "-stages", str(BIN / "kwok-stages" / "pod" / "fast")),
    "plugins/kubernetesplugin": (),
}
PROGRAMS = ("coredns", "podinfo")
"""What the runtime of pods needs beside: built with `make build`."""


@pytest.mark.parametrize("package", ARGUMENTS)
def test_the_go_tests_that_need_the_real_programs_pass(package: str) -> None:
    go_test(package, ARGUMENTS[package])


@pytest.mark.campaign
def test_a_real_api_server_accepts_what_the_runtime_of_pods_does() -> None:
    missing = [name for name in PROGRAMS if not (BIN / name).exists()]
    assert not missing, f"{missing} are not built: run `make build`"
    go_test("machine/pods", ("-args", "-bin", str(BIN)))


def go_test(package: str, arguments: tuple[str, ...]) -> None:
    """Run a package's Go tests with the tag of those that need the real programs."""
    go = Path(PROJECT, ".lab", "go-path").read_text().split()[-1]
    result = subprocess.run(
        [go, "test", *FLAGS, f"./internal/{package}", *arguments],
        cwd=PROJECT / "lab",
        env=os.environ | {"CGO_ENABLED": "0", "LAB_BIN": str(BIN)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert f"ok  \tplatform.lab/lab/internal/{package}\t" in result.stdout, result.stdout
