"""`pulumi up` or `destroy` killed in the middle, engine and plugins together, run again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.rehearsal.killing import kill_tree
from ops.rehearsal.world import World, wait_until

YES = ("--yes", "--skip-preview", "--non-interactive")


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


# A kill in the first clone is the test of the engine's advice.
MOMENTS = [
    Moment("while etcd is bootstrapped", stage("running"), 0.3),
]
MORE_MOMENTS = [
    Moment("while the first configuration is applied", stage("maintenance")),
    Moment("while the gate waits for the API", said("Gate kubernetes-api creating")),
    Moment("while the Kubernetes provider starts", said("pulumi:providers:kubernetes")),
]


@pytest.mark.parametrize(
    "moment",
    MOMENTS + [pytest.param(one, marks=pytest.mark.campaign) for one in MORE_MOMENTS],
    ids=lambda moment: moment.name,
)
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


@pytest.mark.campaign
def test_an_image_that_a_killed_up_left_behind_is_made_again(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    try:
        name = world.preview()["ContentLibraryItem talos"]["newState"]["inputs"]["name"]
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


@pytest.mark.campaign
def test_a_killed_destroy_ends_as_asked_for_by_up_and_by_destroy(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    destroy = ("pulumi", "destroy", "--exclude-protected")
    try:
        world.up()
        node03 = Moment("while a machine goes", said("VirtualMachine node03 deleting"), 0.1)
        kill_at(world, node03, tmp_path / "destroy.log", *destroy)
        put_in_order(world)
        world.up()
        world.expect_no_changes()
        node02 = Moment("while the next one goes", said("VirtualMachine node02 deleting"))
        kill_at(world, node02, tmp_path / "destroy.log", *destroy)
        put_in_order(world)
        world.destroy()
        assert world.run("govc", "find", "/", "-type", "m").stdout == ""
        state = json.loads(world.run("pulumi", "stack", "export").stdout)["deployment"]
        assert not any(one["type"].startswith("vsphere:") for one in state["resources"])
        assert not state.get("pending_operations")
    finally:
        world.stop()


@pytest.mark.campaign
def test_a_machine_that_vcenter_lost_is_told_at_once_and_repair_lets_up_make_it_again(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    try:
        world.up()
        # As the kill that falls between vCenter's removal and the engine's note of it.
        node03 = Moment("before the machine goes", said("ConfigurationApply node03 deleted"))
        kill_at(world, node03, tmp_path / "destroy.log", "pulumi", "destroy", "--exclude-protected")
        world.run("pulumi", "cancel", "--yes", "--non-interactive")
        world.run("govc", "vm.destroy", "node03", code=None)
        refused = world.up(code=None)
        words = refused.stdout + refused.stderr
        assert "the stack's state has this machine, and" in words
        assert "waiting for node03" not in words  # its address is dead: that would take ten minutes
        assert "not in vCenter: VirtualMachine node03" in put_in_order(world)
        world.up()
        world.expect_no_changes()
    finally:
        world.stop()


@pytest.mark.campaign
def test_the_engines_advice_after_a_kill_in_a_clone_is_contradicted_and_goes_away(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world("--clone-delay", "2s")  # the kill is to fall into the clone
    try:
        kill_at(world, Moment("first machine", virtual_machines, 0.2), tmp_path / "up.log")
        world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
        again = world.up().stdout
        assert "pending operations from previous deployment" in again
        assert "Do not run `pulumi refresh`, whatever the engine advises" in again
        assert "interrupted: VirtualMachine node01, while creating" in put_in_order(world)
        world.expect_no_changes()
        assert "pending operations" not in world.up().stdout
    finally:
        world.stop()


def put_in_order(world: World) -> str:
    """Do what the page of a failed run says after a kill; gives what it says."""
    world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
    return world.run("make", "repair", "YES=1").stdout


def kill_at(world: World, moment: Moment, log: Path, *words: str) -> None:
    """Run `pulumi up`, or another command, and kill its whole process group at the moment."""
    command = world.command(*(words or ("pulumi", "up")), *YES)
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait_until(
            moment.name,
            lambda: process.poll() is not None or moment.reached(world, log.read_text()),
            poll=0.02,
        )
        assert process.poll() is None, f"it ended before the moment:\n{log.read_text()}"
        time.sleep(moment.later)
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
        process.wait()
