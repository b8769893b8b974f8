"""`pulumi up` killed under Omni: while machines join, while one leaves, while Omni is told of both.

Each kill takes the engine, the plugins, the program and its omnictl together. That it fell into its
moment is proven by the run's own words (a gate that began), by the state (the gate did not open),
by the command line of the omnictl that was killed with it, and by what the simulated Omni had
noted. Then the same is run again, and vCenter, Omni, Kubernetes and the state must agree on what
was asked for.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.commands import documents
from components.omni.machine_ids import forms
from components.omni.template import with_ids
from ops.rehearsal.killing import kill_tree, tree
from ops.rehearsal.world import World, wait_until
from tests.lab.omni_worlds import ALL, NEW, WORKER, ready, with_a_network_only

pytestmark = pytest.mark.campaign

YES = ("--yes", "--skip-preview", "--non-interactive")
REPLACE = ("--replace", "**VirtualMachine::node02")
PATIENCE_SECONDS, POLL_SECONDS = 600.0, 0.05


@dataclass(frozen=True)
class Seen:
    """A run at a moment."""

    output: str
    commands: tuple[str, ...]
    """The command lines of all its processes."""
    omni: str
    """What the simulated Omni has noted since the step began."""

    def begun(self, gate: str) -> bool:
        """Whether a gate's hook has been called."""
        return any(f"Gate {gate} {how}" in self.output for how in ("creating", "updating"))

    def asks(self, words: str) -> bool:
        """Whether omnictl runs with these words."""
        return any(f"omnictl {words}" in one for one in self.commands)


@dataclass(frozen=True)
class Moment:
    """When a run is killed: at a gate that has begun, and is not open."""

    name: str
    gate: str
    also: Callable[[Seen], bool] = lambda _: True

    def reached(self, seen: Seen) -> bool:
        """Whether it is now; that the gate is not open the state tells later."""
        return seen.begun(self.gate) and self.also(seen)


@dataclass(frozen=True)
class Step:
    """A change of a cluster that is whole, and the moment at which its `up` is killed."""

    moment: Moment
    machines: frozenset[str]
    """Which there are to be in the end."""
    options: tuple[str, ...] = ()
    lost: str = ""
    """A machine that dies before."""


def syncs(seen: Seen) -> bool:
    return seen.asks("cluster template sync")


def takes_out(seen: Seen) -> bool:
    return seen.asks("cluster machine delete")


CREATION = [
    Moment("while the first machine joins", "node01-joined"),
    Moment("while the last machine joins", "node04-joined"),
    Moment("while Omni is told of a new cluster", "omni-cluster", syncs),
    Moment(
        "while Omni makes the cluster",
        "omni-cluster",
        lambda seen: "cluster bootstrapped" in seen.omni,
    ),
    Moment("while the kubeconfig is made", "omni-kubeconfig", lambda seen: seen.asks("kubeconfig")),
    Moment("while Omni's judgement is waited for", "omni-healthy"),
]

FIVE = frozenset(ALL | {"node05"})
FOUR = frozenset(ALL)
STEPS = [
    Step(Moment("while a new worker joins", "node05-joined"), FIVE),
    Step(
        Moment(
            "while Omni resets a worker that leaves",
            "omni-cluster",
            lambda seen: syncs(seen) and "machine reset" in seen.omni,
        ),
        FOUR,
    ),
    Step(Moment("while Omni is told of a new worker", "omni-cluster", syncs), FIVE),
    Step(
        Moment(
            "while Omni's judgement of the smaller cluster is waited for",
            "omni-healthy",
            lambda seen: "machine left its cluster" in seen.omni,
        ),
        FOUR,
    ),
    Step(
        Moment(
            "while the new one of a control plane joins",
            "node02-joined",
            lambda seen: "VirtualMachine node02 deleted" in seen.output,
        ),
        FOUR,
        options=REPLACE,
    ),
    Step(
        Moment("while Omni takes the old one of a control plane out", "omni-cluster", takes_out),
        FOUR,
        options=REPLACE,
    ),
    Step(
        Moment("while Omni takes a lost worker out", "omni-cluster", takes_out),
        FOUR - {"node04"},
        options=("--refresh",),
        lost="node04",
    ),
]


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the example of Omni with a CNI only."""
    return with_a_network_only(tmp_path_factory.mktemp("omni") / "Pulumi.omni.yaml")


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Give a world in which nothing has been made; vCenter takes its time."""
    return make_world("--clone-delay", "2s")


def test_a_creation_that_is_killed_again_and_again_ends_as_if_it_never_was(
    world: World, tmp_path: Path
) -> None:
    noted = Noted(world, all_of_it=True)
    for moment in CREATION:
        killed(world, moment, noted, tmp_path / "up.log")
        assert recorded(world, moment.gate) is None, f"{moment.name}: it was over"
    world.up(timeout=1200)
    agrees(world, frozenset(ALL))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.moment.name)
def test_a_killed_change_converges_when_run_again(world: World, tmp_path: Path, step: Step) -> None:
    noted = Noted(world)
    edit(world, step)
    before = recorded(world, step.moment.gate)
    killed(world, step.moment, noted, tmp_path / "up.log", *step.options)
    assert recorded(world, step.moment.gate) == before, "it was over when the kill came"
    # As the page of a failed run says: what vCenter has deleted meanwhile leaves the state.
    world.run("python", "-m", "ops", "repair", "--yes")
    world.up(timeout=1200)
    agrees(world, step.machines)


def edit(world: World, step: Step) -> None:
    """Write the step's machines into the settings; one that is lost dies now."""
    text = world.stack_file.read_text().replace(NEW, "")
    if "node05" in step.machines:
        text = text.replace(WORKER, WORKER + NEW)
    if step.lost:
        world.run("govc", "vm.destroy", step.lost)
        text = text.replace(WORKER, "").replace(
            "    tunnel:", f"    lost: [{step.lost}]\n    tunnel:"
        )
    world.stack_file.write_text(text)


def recorded(world: World, gate: str) -> dict[str, Any] | None:
    """Give what a gate saw when it last opened; None for one that never did."""
    state = json.loads(world.run("pulumi", "stack", "export").stdout)["deployment"]
    for one in state.get("resources") or ():
        if one["urn"].endswith(f"Gate::{gate}"):
            return dict(one["inputs"])
    return None


def killed(world: World, moment: Moment, noted: Noted, log: Path, *options: str) -> None:
    """Run `pulumi up`, kill all of its processes at the moment, and take its lock away."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            world.command("pulumi", "up", *options, *YES),
            cwd=world.project,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            commands, omni = tuple(command_lines(process.pid)), str(noted)
            if moment.reached(Seen(log.read_text(), commands, omni)):
                kill_tree(process.pid)
                process.wait()
                world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
                return
            time.sleep(POLL_SECONDS)
        message = f"{moment.name}: `up` ended, or took too long, before that:\n{log.read_text()}"
        raise AssertionError(message)
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
            process.wait()


def command_lines(root: int) -> Iterator[str]:
    """Give the command lines of a process and its descendants."""
    for pid in tree(root):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        yield " ".join([Path(words[0].decode()).name, *(one.decode() for one in words[1:])])


class Noted:
    """What the simulated Omni has noted since a moment."""

    def __init__(self, world: World, *, all_of_it: bool = False) -> None:
        self._log = world.state / "world.log"
        self._at = 0 if all_of_it else self._log.stat().st_size
        self._text = ""

    def __str__(self) -> str:
        """Read what was added, too."""
        with self._log.open("rb") as log:
            log.seek(self._at)
            added = log.read()
        added = added[: added.rfind(b"\n") + 1]  # whole lines
        self._at += len(added)
        lines = added.decode(errors="replace").splitlines(keepends=True)
        self._text += "".join(one for one in lines if "simulated Omni" in one)
        return self._text


def agrees(world: World, machines: frozenset[str]) -> None:
    """See that the state, vCenter, Omni and Kubernetes have what was asked for, and no more."""
    world.run("python", "-m", "ops", "repair", "--yes")
    world.expect_no_changes()
    state = json.loads(world.run("pulumi", "stack", "export").stdout)["deployment"]
    assert not state.get("pending_operations")
    found = world.run("govc", "find", "/", "-type", "m").stdout.split()
    assert {one.rpartition("/")[2] for one in found} == machines
    world.write_credentials()
    wait_until("all nodes to be ready", lambda: ready(world) == machines)
    told = next(one for one in state["resources"] if one["urn"].endswith("::omni-cluster"))[
        "inputs"
    ]
    ids = {name: omni_id(world, uuid) for name, uuid in told["machines"].items()}
    members = listed(world, "clustermachinestatus")
    assert {one["metadata"]["id"] for one in members} == set(ids.values())
    assert all(one["spec"].get("ready") for one in members), members
    file = world.state / "asked-for.yaml"
    file.write_text(with_ids(told["template"], ids))
    assert omnictl(world, "cluster", "template", "diff", "--file", str(file)).strip() == ""
    etcd = {one["name"] for one in world.machines() if one["etcd"] == "Running"}
    assert etcd == {"node01", "node02", "node03"}


def omnictl(world: World, *words: str) -> str:
    """Ask Omni as the person who runs it."""
    return world.run("omnictl", *words).stdout


def listed(world: World, kind: str) -> list[dict[str, Any]]:
    """List what Omni has of a kind in the cluster."""
    selector = ("--selector", "omni.sidero.dev/cluster=prod")
    return documents(omnictl(world, "get", kind, *selector, "--output", "json"))


def omni_id(world: World, uuid: str) -> str:
    """Give what Omni calls a machine of vCenter's."""
    known = {one["metadata"]["id"] for one in listed(world, "machinestatus")}
    (found,) = known & set(forms(uuid))
    return str(found)
