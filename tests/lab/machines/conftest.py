"""The platform that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.rehearsal.world import World
from tests.lab.conftest import shared_world


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Build the machines of production's stack file, without services."""
    folder = tmp_path_factory.mktemp("machines")
    with shared_world("machines", folder, services=False) as world:
        yield world
