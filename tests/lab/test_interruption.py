"""`pulumi up` killed in the middle, engine and plugins together, converges when run again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rehearsal.world import World, wait_until


@dataclass(frozen=True)
class Moment:
    """When to kill: as soon as `reached` holds for the world, and `later` seconds after."""

    name: str
    reached: Callable[[World, str], bool]
    later: float = 0.0


def virtual_machines(world: World, _: str) -> bool:
    return "node01" in world.run("govc", "find", "/", "-type", "m", code=None).stdout


def stage(*stages: str) -> Callable[[World, str], bool]:
    return lambda world, _: any(machine["stage"] in stages for machine in world.machines())


def etcd(world: World, _: str) -> bool:
    return any(machine["etcd"] == "Running" for machine in world.machines())


def said(text: str) -> Callable[[World, str], bool]:
    return lambda _, output: text in output


MOMENTS = [
    Moment("while the first VM is cloned", virtual_machines, 0.2),
    Moment("while the first configuration is applied", stage("maintenance")),
    Moment("while etcd is bootstrapped", stage("running"), 0.3),
    Moment("while the gate waits for the API", said("Gate kubernetes-api creating")),
    Moment("while the Kubernetes provider starts", said("pulumi:providers:kubernetes")),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_a_killed_up_converges_when_run_again(
    make_world: Callable[..., World], tmp_path: Path, moment: Moment
) -> None:
    world = make_world("--clone-delay", "2s")
    try:
        output = tmp_path / "up.log"
        kill_at(world, moment, output)
        world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
        world.up()
        world.expect_no_changes()
    finally:
        world.stop()


def test_an_image_that_a_killed_up_left_behind_is_made_again(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    try:
        name = world.preview()["talos"]["newState"]["inputs"]["name"]
        # The library is there; of what was not asked for, some values are missed in the end.
        targets = ["**:Machines::machines", "**::machines-vcenter", "**::images"]
        targets += ["**:Identity::prod", "**Secrets::prod"]
        made = world.up(*(option for one in targets for option in ("--target", one)), code=None)
        assert "ContentLibrary images created" in made.stdout, made.stdout
        library = world.run("govc", "library.ls").stdout.strip()
        half = tmp_path / "half.iso"
        half.write_text("half of an upload")
        world.run("govc", "library.import", "-n", name, library, str(half))
        world.up()
        world.expect_no_changes()
        files = world.run("govc", "library.ls", f"{library}/{name}/*").stdout
        assert ".ovf" in files
        assert "half.iso" not in files
    finally:
        world.stop()


def kill_at(world: World, moment: Moment, log: Path) -> None:
    """Run `pulumi up` and kill its whole process group at the moment."""
    command = world.command("pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait_until(
            moment.name,
            lambda: process.poll() is not None or moment.reached(world, log.read_text()),
            120,
            poll=0.02,
        )
        assert process.poll() is None, f"up ended before the moment:\n{log.read_text()}"
        time.sleep(moment.later)
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
        process.wait()


def kill_tree(root: int) -> None:
    """SIGKILL a process and all its descendants: engine, language host, program and plugins."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    pending, found = [root], list[int]()
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
