"""Bad requests get the real systems' errors, and bad settings never reach a system."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rehearsal.world import PROJECT, World, wait_until

BAD_FILES = sorted((PROJECT / "tests" / "fixtures" / "config" / "bad").glob("*.yaml"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("vcenter-password", "Cannot complete login due to an incorrect user name or password"),
        ("vcenter-certificate-expired", "certificate has expired"),
        ("datastore-missing", "datastore 'datastore01' not found"),
    ],
)
def test_a_broken_site_is_reported_with_the_real_error(
    make_world: Callable[..., World], fault: str, message: str
) -> None:
    world = make_world("--fault", fault)
    try:
        result = world.run("pulumi", "preview", "--non-interactive", code=1)
        assert message in result.stdout + result.stderr
    finally:
        world.stop()


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


# These the engine itself refuses before the program runs: its message is another one.
ENGINE_FIRST = {
    "alias-bomb",
    "alias-in-itself",
    "empty",
    "no-config",
    "not-yaml",
    "repeated-key",
    "secret-in-plain-text",
    "tags-and-keys",
} | {path.stem for path in BAD_FILES if path.stem.startswith("wrong-type-")}

# The lab's copy leaves out what is encrypted, so the program misses the section instead.
LOST_IN_THE_COPY = {"encrypted-section"}


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda path: path.stem)
def test_bad_settings_are_refused_and_the_engine_registers_nothing(world: World, bad: Path) -> None:
    before = world.stack_file.read_text()
    shutil.copy(bad, world.stack_file)
    try:
        result = world.up(code=None)
    finally:
        world.stack_file.write_text(before)
    assert result.returncode != 0
    if bad.stem not in ENGINE_FIRST | LOST_IN_THE_COPY:
        for problem in bad.with_suffix(".txt").read_text().splitlines():
            # What is wrong with the whole file begins with its name, here the world's copy's.
            assert problem.strip(" -").removeprefix(f"{bad.name}: ") in result.stdout
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    registered = [one["type"] for one in state["deployment"].get("resources", [])]
    assert registered in ([], ["pulumi:pulumi:Stack"])


def test_a_machine_that_does_not_answer_is_waited_for_and_picked_up(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--fault", "machine-silent=node01")
    try:
        deployment = world.start_command(
            "pulumi", "up", "--yes", "--skip-preview", "--non-interactive"
        )
        wait_until("node01 is powered on", lambda: bool(world.machines()), 60)
        time.sleep(8)
        assert deployment.poll() is None, "up went on, or gave up, without the machine"
        assert [machine["name"] for machine in world.machines()] == ["node01"]
        (world.state / "machines" / "unreachable" / "node01").unlink()
        said, _ = deployment.communicate(timeout=300)
        assert deployment.returncode == 0, said
        world.expect_no_changes()
    finally:
        world.stop()
