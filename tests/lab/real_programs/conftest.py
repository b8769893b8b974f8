"""The platform that all tests of this folder share, from the production stack file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.conftest import WORLDS
from tests.lab.real_programs.acme import SHORT_LIVED
from tests.lab.real_programs.argocd import NAMESPACE, Repository, is_well, replicas
from tests.lab.real_programs.cluster import APPLICATION, Object, apply, endpoints, read

ORDER = (
    "test_handover.py",  # looks at the platform before Argo CD has its root Application
    "test_commit_statuses.py",
    "test_network_policies.py",
    "test_certificates.py",
    "test_programs.py",
    "test_ingress.py",
    "test_wrong_token.py",  # the certificate is one of staging from there on
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files into their order; other folders' tests stay where they are."""
    here = [at for at, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ordered = sorted((items[at] for at in here), key=lambda item: ORDER.index(item.path.name))
    for at, item in zip(here, ordered, strict=True):
        items[at] = item


@pytest.fixture(scope="package")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Build all but the root Application; ask for a certificate that is soon to be renewed."""
    stack_file = tmp_path_factory.mktemp("real-programs") / "Pulumi.prod.yaml"
    shutil.copyfile(PROJECT / "Pulumi.prod.yaml", stack_file)
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
