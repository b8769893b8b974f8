"""The repository in a world: Git serves what the project's folders hold, Kustomize reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ops.gitops.kustomize import build, identity
from ops.rehearsal.world import PROJECT, World

WITH_SERVICES = True
URL = "https://github.com/example/platform"
FOLDERS = ("apps", "bootstrap", "clusters", "platform")


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(scope="module")
def clone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clone the repository inside, under its real name, with the world's own trust."""
    target = tmp_path_factory.mktemp("repository") / "clone"
    world.run("git", "clone", "--quiet", "--branch", "main", URL, str(target))
    return target


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


def test_a_clone_holds_the_folders_as_they_lie_there(clone: Path) -> None:
    found = contents(clone)
    assert found == contents(PROJECT)
    assert {path.name for path in clone.iterdir()} == {*FOLDERS, ".git"}


def test_nobody_can_push(world: World, clone: Path) -> None:
    refused = world.run("git", "-C", str(clone), "push", "origin", "HEAD:refs/heads/x", code=None)
    assert refused.returncode != 0
    assert "403" in refused.stderr


@pytest.mark.parametrize("folder", ["clusters/prod/gitops", "apps/overlays/prod/podinfo"])
def test_kustomize_makes_of_a_clone_what_the_checks_read(
    world: World, clone: Path, folder: str
) -> None:
    made = world.run("kubectl", "kustomize", str(clone / folder)).stdout
    assert sorted(yaml.safe_load_all(made), key=identity) == sorted(
        build(PROJECT / folder), key=identity
    )
