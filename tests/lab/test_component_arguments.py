"""The table of arguments against what the real programs tell of themselves. No world is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from clients.pulumi_cli import ROOT
from components.talos import component_arguments
from config import versions

BIN = ROOT / ".lab" / "bin"
KUBERNETES = [one for one in component_arguments.PROGRAMS.values() if one.startswith("kube-")]


def says(program: str, *arguments: str) -> str:
    """Give what a program says of arguments, and then its help."""
    command = [str(BIN / program), *arguments, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return result.stdout + result.stderr


def told(program: str) -> set[str]:
    """Read the names of a program's arguments in its help."""
    lines = says(program).splitlines()
    found = (re.match(r" +(?:-\w, )?--([a-zA-Z0-9-]+)", line) for line in lines)
    return {one[1] for one in found if one} - {"help"}


def in_table(program: str) -> set[str]:
    (component,) = (one for one, name in component_arguments.PROGRAMS.items() if name == program)
    return set(component_arguments.known(component))


@pytest.mark.parametrize("program", [*KUBERNETES, "etcd"])
def test_the_table_has_every_argument_that_a_program_tells_of(program: str) -> None:
    assert len(told(program)) > 50
    assert in_table(program) == told(program)


def test_the_table_is_of_the_version_of_kubernetes_that_the_lab_runs() -> None:
    assert component_arguments.of_kubernetes() == versions.minor(versions.KUBERNETES)
    version = (BIN / "kube-apiserver.version").read_text().strip()
    assert version == f"v{versions.KUBERNETES}"


def test_the_table_has_every_argument_that_the_kubelets_source_declares() -> None:
    go = (ROOT / ".lab" / "go-path").read_text().splitlines()[-1]
    where = ["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]
    module = subprocess.run(
        [go, *where],
        cwd=ROOT / "lab" / "tools" / "kubernetes",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    source = Path(module, "cmd", "kubelet", "app", "options", "options.go").read_text()
    declared = set(re.findall(r'fs\.\w+\([^"]*"([a-z0-9-]+)"', source))
    assert len(declared) > 50
    assert in_table("kubelet") == declared


@pytest.mark.parametrize("program", KUBERNETES)
def test_a_program_refuses_a_misspelled_argument_and_takes_one_with_underscores(
    program: str,
) -> None:
    name = max(in_table(program), key=len)
    assert f"unknown flag: --{name}x" in says(program, f"--{name}x=1s")
    assert "unknown flag" not in says(program, f"--{name.replace('-', '_')}=1s")


def test_the_old_argument_that_no_help_tells_of_is_taken() -> None:
    assert component_arguments.OLD not in told("kube-apiserver")
    assert "unknown flag" not in says("kube-apiserver", f"--{component_arguments.OLD}=1s")
