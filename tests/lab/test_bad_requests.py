"""Bad requests get the real systems' errors, and bad settings never reach a system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rehearsal.world import PROJECT, World

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
        result = world.run("pulumi", "preview", "--non-interactive", code=255)
        assert message in result.stdout + result.stderr
    finally:
        world.stop()


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda path: path.stem)
def test_bad_settings_are_refused_and_the_engine_registers_nothing(world: World, bad: Path) -> None:
    before = world.stack_file.read_text()
    shutil.copy(bad, world.stack_file)
    try:
        result = world.up(code=255)
    finally:
        world.stack_file.write_text(before)
    # What the check says without an engine is what the engine shows.
    problems = world.run("python", "-m", "config", "check", str(bad), code=1).stderr.splitlines()
    said = result.stdout + result.stderr
    for problem in problems:
        assert problem.strip() in said
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    assert [r["type"] for r in state["deployment"].get("resources", [])] in (
        [],
        ["pulumi:pulumi:Stack"],
    )
