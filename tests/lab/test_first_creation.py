"""The first creation makes all machines at once and lets them join one by one; all later runs touch
one machine at a time. As the lab itself saw it.

The tests run in this order, on one world; the killed one has a world of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from ops.rehearsal.world import World
from tests.lab.test_interruption import Moment, kill_at, put_in_order, stage
from tests.lab.touched import APPLIED, ON, RUNNING, VOTES, Record

NODES = ("node01", "node02", "node03")
CPUS = "role: controlplane, cpus: 4"
NODE02 = f"name: node02, address: 172.16.20.52, {CPUS}"
WORKER = (
    "    - { name: worker01, address: 172.16.20.61, role: worker, cpus: 4, memoryMiB: 16384, "
    "diskGiB: 100 }\n"
)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Build it as a plan says that was saved before."""
    world = make_world("--clone-delay", "2s")
    plan = world.state / "plan.json"
    world.run("pulumi", "preview", "--non-interactive", "--save-plan", str(plan))
    record = Record(world)
    world.up("--plan", str(plan))
    world.write_credentials()
    assert_joined_in_turn(record, *NODES)
    assert_made_before_the_first_joins(record, *NODES)
    return world


def assert_made_before_the_first_joins(record: Record, *names: str) -> None:
    first = min(record.place(name, APPLIED) for name in names)
    assert all(record.place(name, ON) < first for name in names), record.touches()


def assert_joined_in_turn(record: Record, *names: str) -> None:
    """See each machine run, and vote, before the next is configured."""
    seen = record.touches()
    for earlier, later in pairwise(names):
        assert record.place(earlier, RUNNING) < record.place(later, APPLIED), seen
        if earlier != names[0]:  # the first one begins etcd, with a vote
            assert record.place(earlier, VOTES) < record.place(later, APPLIED), seen


def test_what_was_made_at_once_has_no_change_left(world: World) -> None:
    world.expect_no_changes()


@pytest.mark.campaign
def test_all_machines_are_resized_one_after_the_other(world: World) -> None:
    text = world.stack_file.read_text()
    assert text.count(CPUS) == len(NODES)
    world.stack_file.write_text(text.replace(CPUS, "role: controlplane, cpus: 6"))
    record = Record(world)
    world.up()
    world.stack_file.write_text(text)
    assert record.turns() == list(NODES), record.touches()
    assert sum(one.what == RUNNING for one in record.touches()) == len(NODES), "all have booted"


@pytest.mark.campaign  # after the one before it: it takes back what that one did
def test_a_plan_that_shrinks_all_machines_does_it_one_after_the_other(world: World) -> None:
    made = ("make", "preview", "apply-plan", f"OUT={world.state / 'out'}")
    record = Record(world)
    world.run(*made)
    assert record.turns() == list(NODES), record.touches()
    world.expect_no_changes()


def test_a_new_machine_is_made_after_the_change_of_one_that_is_there(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(NODE02, NODE02.replace("cpus: 4", "cpus: 6"))
    lines = world.stack_file.read_text().splitlines(keepends=True)
    last = next(line for line in lines if "name: node03" in line)
    edit(last, last + WORKER)
    record = Record(world)
    world.up()
    assert record.turns() == ["node02", "worker01"], record.touches()
    world.expect_no_changes()


def test_a_first_creation_that_was_killed_goes_on_with_one_machine_at_a_time(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world("--clone-delay", "2s")
    try:
        kill_at(world, Moment("the machines are made", stage("maintenance")), tmp_path / "up.log")
        put_in_order(world)
        record = Record(world)
        world.up()
        world.expect_no_changes()
        assert_joined_in_turn(record, *NODES)
        # The chain is in the state again.
        kept = json.loads(world.run("pulumi", "stack", "export").stdout)["deployment"]["resources"]
        needs = {one["urn"].rsplit("::", 1)[1]: one.get("dependencies", []) for one in kept
                 if one["type"].endswith("VirtualMachine")}  # fmt: skip
        for earlier, later in pairwise(NODES):
            assert any(urn.endswith(f"ConfigurationApply::{earlier}") for urn in needs[later])
    finally:
        world.stop()
