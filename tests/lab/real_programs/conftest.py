"""The platform that all tests of this folder share, from the production stack file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.rehearsal.world import World, wait_until
from tests.lab.conftest import WORLDS, copy_stack_file
from tests.lab.real_programs.acme import SHORT_LIVED
from tests.lab.real_programs.argocd import NAMESPACE, Repository, is_well, replicas
from tests.lab.real_programs.cluster import APPLICATION, Object, apply, endpoints, read


@pytest.fixture(scope="package")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Build all but the root Application; ask for a certificate that is soon to be renewed."""
    stack_file = copy_stack_file(tmp_path_factory.mktemp("real-programs"), services=True)
    world = World(WORLDS / "real-programs", stack_file, "--programs", "real").start()
    try:
        world.up("--exclude", "**root-application", timeout=1200)
        world.write_credentials()
        apply(world, SHORT_LIVED)
        wait_until("the autoscalers' first look", lambda: replicas(world, "server") == 2)
        wait_until("the pods of Argo CD to be ready", lambda: not unready(world))
        yield world
    finally:
        world.stop()


@pytest.fixture(scope="package")
def world(installed: World) -> World:
    """Give Argo CD the root Application, and wait for what it brings."""
    installed.up()
    wait_until("Argo CD to have taken over", lambda: is_well(installed, "argo-cd"))
    return installed


@pytest.fixture(scope="package")
def podinfo(world: World) -> World:
    """Wait for the application that Argo CD brings: its autoscaler makes its pods two."""
    wait_until("the application's pods", lambda: len(endpoints(world, APPLICATION, "podinfo")) == 2)
    return world


@pytest.fixture(scope="package")
def repository(world: World, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Give a clone of the world's repository."""
    return Repository(world, tmp_path_factory.mktemp("repository") / "clone")


def unready(world: World) -> list[Object]:
    """Give the Deployments of Argo CD that have fewer ready pods than they shall."""
    return [
        one
        for one in read(world, "deployments", "--namespace", NAMESPACE)["items"]
        if one["status"].get("readyReplicas") != one["spec"]["replicas"]
    ]
