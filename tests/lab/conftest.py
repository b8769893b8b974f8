"""What the lab's tests share: the programs must be built, and worlds end with their tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from ops.rehearsal.world import LAB, PROJECT, World
from tests.lab.workers import Workers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background ignores Ctrl-C, and all that it starts would.
    signal.signal(signal.SIGINT, signal.default_int_handler)

WORLDS = PROJECT / ".lab" / "worlds"
ONE_WORLD = {
    "tests/lab/real_programs": (
        "test_handover.py",  # looks at the platform before Argo CD has its root Application
        "test_commit_statuses.py",
        "test_network_policies.py",
        "test_certificates.py",
        "test_programs.py",
        "test_ingress.py",
        "test_wrong_token.py",  # the certificate is one of staging from there on
    ),
    "tests/lab/simulated_programs": (
        "test_drift.py",
        "test_shell.py",
        "test_layers.py",  # ends with the platform's removal
    ),
    "tests/lab/machines": (
        "test_platform.py",
        "test_plan.py",
        "test_talosctl.py",  # takes the cluster apart
    ),
}
"""Folders whose files share a world, so that one worker runs all of them; in which order."""

LONGEST_FIRST = (
    *ONE_WORLD,
    "test_review.py",
    "test_first_creation.py",
    "test_procedures.py",
    "test_interruption.py",
    "test_bad_requests.py",
    "test_layer_interruption.py",
    "test_worlds.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, so that no worker is left alone with one at the end."""
    rank = {name: at for at, name in enumerate(LONGEST_FIRST)}

    def place(item: pytest.Item) -> tuple[int, int]:
        folder, file = place_of(item.nodeid)
        if folder in ONE_WORLD:
            return rank[folder], ONE_WORLD[folder].index(file)
        return rank.get(file, len(rank)), 0

    items.sort(key=place)


def place_of(test: str) -> tuple[str, str]:
    """Give the folder and the file of a test."""
    folder, _, file = test.partition("::")[0].rpartition("/")
    return folder, file


class ByWorld(LoadFileScheduling):  # type: ignore[misc] # untyped
    """A file of tests for a worker, but those that share a world together."""

    def _split_scope(self, nodeid: str) -> str:
        """Name what goes to one worker."""
        file: str = super()._split_scope(nodeid)
        folder, _ = place_of(nodeid)
        return folder if folder in ONE_WORLD else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWorld:
    """Let pytest-xdist hand the tests out so."""
    return ByWorld(config, log)


WORKERS = Workers()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note when a worker did what."""
    node = getattr(report, "node", None)  # of pytest-xdist; without it there is one process
    WORKERS.add(node.gateway.id if node else "alone", report.nodeid, report.start, report.stop)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell where the time went: which file to begin with, and whether a worker was idle."""
    for line in WORKERS.lines():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    assert LAB.exists(), "the lab is not built: run `make build`"


@pytest.fixture(scope="module")
def stack_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the production stack file, for the module's tests to edit.

    Without what runs on the cluster, unless the module says WITH_SERVICES: tests of machines need
    no layers, and are faster without.
    """
    name = request.module.__name__.rsplit(".", 1)[-1]
    services = getattr(request.module, "WITH_SERVICES", False)
    return copy_stack_file(tmp_path_factory.mktemp(name), services=services)


def copy_stack_file(folder: Path, *, services: bool) -> Path:
    """Copy the production stack file into a folder, with what runs on the cluster or without."""
    target = folder / "Pulumi.prod.yaml"
    text = (PROJECT / "Pulumi.prod.yaml").read_text()
    if not services:
        text, rest, _ = text.partition("  # What runs on the cluster;")
        assert rest
    target.write_text(text)
    return target


@pytest.fixture(scope="module")
def make_world(request: pytest.FixtureRequest, stack_file: Path) -> Iterator[Callable[..., World]]:
    """Start worlds on the module's stack file; they end with the module."""
    name = request.module.__name__.rsplit(".", 1)[-1]
    worlds: list[World] = []

    def make(*options: str) -> World:
        world = World(WORLDS / f"{name}-{len(worlds)}", stack_file, *options)
        worlds.append(world)
        return world.start()

    yield make
    for world in worlds:
        world.stop()


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Build the module's stack file once; a module that begins otherwise overrides this."""
    world = make_world()
    world.up()
    world.write_credentials()
    return world


@contextmanager
def shared_world(name: str, folder: Path, *, services: bool) -> Iterator[World]:
    """Build production's stack file for all tests of a folder (`ONE_WORLD`)."""
    world = World(WORLDS / name, copy_stack_file(folder, services=services)).start()
    try:
        world.up()
        world.write_credentials()
        yield world
    finally:
        world.stop()


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write production's stack file with changes of its sections."""
    stack = yaml.safe_load((PROJECT / "Pulumi.prod.yaml").read_text())
    change({key.removeprefix("platform:"): one for key, one in stack["config"].items()})
    path.write_text(yaml.safe_dump(stack, sort_keys=False))
    return path


def write_generated(stack_file: Path) -> None:
    """Write what Argo CD reads from a stack file's settings, in the tree that the file is in."""
    command = [sys.executable, "-m", "ops", "gitops", "write", stack_file.name]
    subprocess.run(command, cwd=stack_file.parent, check=True)


@contextmanager
def editing(world: World) -> Iterator[Callable[[str, str], None]]:
    """Give what replaces a text of the operator's stack file by another; the end restores it."""
    before = world.stack_file.read_text()

    def replace(old: str, new: str) -> None:
        text = world.stack_file.read_text()
        assert old in text
        world.stack_file.write_text(text.replace(old, new, 1))

    try:
        yield replace
    finally:
        world.stack_file.write_text(before)


@pytest.fixture
def edit(world: World) -> Iterator[Callable[[str, str], None]]:
    """Edit the operator's stack file; the test's end restores the file."""
    with editing(world) as replace:
        yield replace
