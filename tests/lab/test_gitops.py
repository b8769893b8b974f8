"""The repository as Argo CD reads it: what Kustomize makes of it, and a clone of it in a world."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from config import versions
from ops.rehearsal.world import PROJECT, World
from ops.render.exceptions import EXCEPTIONS
from ops.render.policies import judge
from tests.lab.kustomize import KustomizeError, build, identity
from tests.unit.test_pins import CLUSTERS, OVERLAYS, chart_references, not_pinned

WITH_SERVICES = True
URL = "https://github.com/example/platform"
FOLDERS = ("apps", "bootstrap", "clusters", "platform")

# --- Kustomize, without a world ----------------------------------------------------------------


def test_the_settings_are_put_in_everywhere_and_stay_out_themselves() -> None:
    objects = build(PROJECT / "clusters/prod/gitops")
    assert sorted(identity(one)[1:] for one in objects) == [
        ("AppProject", "argocd", "apps"),
        ("AppProject", "argocd", "default"),
        ("AppProject", "argocd", "platform"),
        ("AppProject", "argocd", "services"),
        ("Application", "argocd", "argo-cd"),
        ("ApplicationSet", "argocd", "apps"),
        ("ApplicationSet", "argocd", "services"),
    ]
    assert "from-settings" not in yaml.safe_dump_all(objects)


def test_the_example_s_host_lies_in_the_platform_s_domain() -> None:
    objects = build(PROJECT / "apps/overlays/prod/podinfo")
    (ingress,) = (one for one in objects if one["kind"] == "Ingress")
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["podinfo.platform.example.com"]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{kind: Secret, name: a, fieldPath: data.a}", "nothing selected by Secret"),
        ("{kind: ConfigMap, fieldPath: data.b}", "fieldPath `data.b` is missing"),
    ],
)
def test_a_setting_that_is_not_there_is_an_error_and_nothing_is_synced(
    tmp_path: Path, source: str, fault: str
) -> None:
    (tmp_path / "one.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: b}}\n"
    )
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [one.yaml]\nreplacements: [{{source: {source}, targets: "
        "[{select: {kind: ConfigMap}, fieldPaths: [data.a]}]}]\n"
    )
    with pytest.raises(KustomizeError, match=re.escape(fault)):
        build(tmp_path)


@pytest.mark.parametrize("folder", CLUSTERS, ids=lambda path: path.parent.name)
def test_what_argo_cd_gets_has_the_stacks_versions(folder: Path) -> None:
    found = list(chart_references(build(folder)))
    assert ("argo-cd", versions.ARGO_CD) in found
    assert [wrong for one in found if (wrong := not_pinned(*one))] == []


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: "/".join(path.parts[-2:]))
def test_applications_in_git_keep_to_the_policies_too(folder: Path) -> None:
    assert judge(build(folder), EXCEPTIONS.get(folder.name, ())) == []


# --- A clone in a world ------------------------------------------------------------------------


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
