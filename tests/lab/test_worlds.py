"""A world itself: it has no way out, it can be entered, it ends with nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rehearsal.world import LAB, PROJECT, World, processes_of, wait_until


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_ended_world_leaves_no_process_and_no_mount(
    make_world: Callable[..., World], sign: signal.Signals
) -> None:
    before = mounts()
    world = make_world()
    # Ctrl-C reaches the terminal's whole process group, and so the init as well.
    if sign is signal.SIGINT:
        os.kill(world.init_pid(), sign)
        assert world.wait() == 0
    else:
        assert world.stop(sign) == 0
    assert processes_of(world.state) == []
    assert mounts() == before


def test_a_world_whose_owner_is_killed_is_ended_by_the_kernel(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.run("pulumi", "preview", "--non-interactive")
    world.stop(signal.SIGKILL)
    wait_until("no process is left", lambda: processes_of(world.state) == [], 10)


def test_a_world_has_no_way_out(world: World) -> None:
    routes = world.run("cat", "/proc/net/route").stdout.splitlines()[1:]
    assert all(route.split()[1] != "00000000" for route in routes), "there is a default route"
    lookup = world.run(
        "python", "-c", "import socket; socket.gethostbyname('example.com')", code=None
    )
    assert lookup.returncode != 0
    assert "Temporary failure in name resolution" in lookup.stderr or "gaierror" in lookup.stderr


def test_production_names_lead_to_the_labs_servers_and_their_certificates_are_trusted(
    world: World,
) -> None:
    script = (
        "import urllib.request as r; print(r.urlopen('https://factory.talos.dev/versions').status);"
        "print(r.urlopen('https://vcenter.example.internal/about').status)"
    )
    assert world.run("python", "-c", script).stdout.split() == ["200", "200"]


def test_a_command_gives_its_exit_code_and_its_world_ends_with_it(stack_file: Path) -> None:
    state = PROJECT / ".lab" / "worlds" / "one-command"
    result = subprocess.run(
        [LAB, "run", "--state", state, "--stack-file", stack_file, "--", "sh", "-c", "exit 7"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 7, result.stderr
    wait_until("no process is left", lambda: processes_of(state) == [], 10)


def test_a_crashed_part_is_named_with_the_end_of_its_log(make_world: Callable[..., World]) -> None:
    world = make_world()
    servers = [
        p for p in world.run("ps", "-eo", "pid,args").stdout.splitlines() if "serve-world" in p
    ]
    world.run("kill", "-SEGV", servers[0].split()[0])  # as a crash in the servers would
    assert world.wait() == 1
    said = "".join(world.output)
    assert "the lab's servers ended" in said
    assert "world.log" in said
    assert "SIGSEGV" in said


def test_a_second_world_in_the_same_folder_is_refused(world: World) -> None:
    result = subprocess.run(
        [LAB, "up", "--state", world.state, "--stack-file", world.stack_file],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "already running" in result.stderr


def test_a_missing_tool_is_named(tmp_path: Path, stack_file: Path) -> None:
    alone = tmp_path / "lab"
    shutil.copy(LAB, alone)
    result = subprocess.run(
        [alone, "run", "--state", tmp_path / "world", "--stack-file", stack_file, "--", "true"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "missing tool: pulumi is not in" in result.stderr
