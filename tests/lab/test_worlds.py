"""A world itself: it has no way out, it can be entered, it ends with nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.rehearsal.world import LAB, PROJECT, World, processes_of, wait_until


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
    wait_until("no process is left", lambda: processes_of(world.state) == [])


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
    wait_until("no process is left", lambda: processes_of(state) == [])


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


def lab(*argv: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAB, *argv], cwd=PROJECT, env=os.environ | environment, capture_output=True, text=True,
        check=False, timeout=180,
    )  # fmt: skip


@pytest.mark.parametrize("command", [("up",), ("run", "--", "true"), ("shell",)])
def test_a_second_world_in_the_same_folder_is_refused_with_what_the_first_is_for(
    world: World, command: tuple[str, ...]
) -> None:
    result = lab(command[0], "--state", world.state, *command[1:])
    assert result.returncode == 1
    assert f"world {world.state} is taken: it runs since " in result.stderr
    assert str(world.stack_file) in result.stderr
    assert "--join" in result.stderr


def test_a_command_joins_a_world_when_it_asks_for_that_and_is_told_which(world: World) -> None:
    result = lab("run", "--join", "--state", world.state, "--", "printenv", "LAB_WORLD")
    assert (result.returncode, result.stdout.strip()) == (0, str(world.state))
    assert f"entering the world in {world.state}: it runs since " in result.stderr
    assert str(world.stack_file) in result.stderr


def test_a_joined_command_that_needs_a_while_after_a_ctrl_c_is_waited_for(world: World) -> None:
    ending = "trap 'sleep 1; echo ended well; exit 7' INT; echo begun; while :; do sleep 0.1; done"
    process = world.start_command("sh", "-c", ending)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    rest, _ = process.communicate(timeout=120)
    assert rest == "ended well\n"
    assert process.returncode == 7


@pytest.mark.parametrize(
    "option", ["--fault=vcenter-password", "--boot-delay=1m", "--stack-file=Pulumi.prod.yaml"]
)
def test_joining_refuses_what_a_world_that_runs_cannot_take_over(world: World, option: str) -> None:
    result = lab("run", "--join", option, "--state", world.state, "--", "true")
    assert result.returncode == 1
    assert f"--join: {option.partition('=')[0]} cannot be set in a world that runs" in result.stderr


def test_there_is_no_world_in_a_world(world: World) -> None:
    result = world.run("lab", "run", "--", "true", code=1)
    assert "this is a world already" in result.stderr


def test_two_worlds_at_once_are_two_with_reports_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = 'echo "$LAB_WORLD $LAB_OUT"; sleep 5; echo "$LAB_WORLD" > "$LAB_OUT/whose"'
    running = [
        subprocess.Popen(
            [LAB, "run", "--out", out, "--", "sh", "-c", script],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=180) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    places = dict(output.split() for output, _ in said)
    assert len(places) == 2
    assert set(places.values()) == {str(out), f"{out}-2"}
    for world, folder in places.items():
        assert Path(folder, "whose").read_text().strip() == world


@pytest.mark.parametrize("chapter", ["pulumi up", "pulumi destroy"])
def test_a_rehearsal_that_is_interrupted_ends_at_once_and_without_a_traceback(
    stack_file: Path, tmp_path: Path, chapter: str
) -> None:
    state = tmp_path / "world"
    text = stack_file.read_text()
    only = tmp_path / "Pulumi.prod.yaml"
    others = ("name: node02", "name: node03")
    kept = (
        one for one in text.splitlines(keepends=True) if not any(other in one for other in others)
    )
    only.write_text("".join(kept))
    process = subprocess.Popen(
        [
            LAB, "run", "--state", state, "--stack-file", only, "--",
            "python", "-m", "ops", "rehearse",
        ],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if f"=== {chapter}" in line:
            break
    time.sleep(2)
    # As the terminal does: the whole group of processes gets it.
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=180)
    assert process.returncode == 130, "".join(said) + rest
    assert "Traceback" not in rest
    assert "interrupted" in rest
    wait_until("no process is left", lambda: processes_of(state) == [])


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
