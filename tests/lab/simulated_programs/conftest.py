"""The platform that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.rehearsal.world import World
from tests.lab.conftest import shared_world


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Build production's stack file, with simulated pods."""
    folder = tmp_path_factory.mktemp("simulated-programs")
    with shared_world("simulated-programs", folder, services=True) as world:
        yield world
