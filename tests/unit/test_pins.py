"""Nothing floats: charts in Git have the stack's versions, all versions and images are exact."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import config
from components.kubernetes import backup, metrics_server
from components.layers import plans
from config import plain_yaml, versions
from ops.render.policies import is_exact

ROOT = Path(__file__).parents[2]
IN_GIT = ("bootstrap", "platform", "apps", "clusters")
STACK_FILES = sorted(ROOT.glob("Pulumi.*.yaml"))
CLUSTERS = sorted(path.parent for path in ROOT.glob("clusters/*/gitops/kustomization.yaml"))
OVERLAYS = sorted(
    path.parent
    for pattern in ("apps/overlays/*/*", "clusters/*/gitops/services/*")
    for path in ROOT.glob(f"{pattern}/kustomization.yaml")
)
EXACT = re.compile(r"\d+\.\d+\.\d+(-(alpha|beta|rc)\.\d+)?")
FROM_SETTINGS = "from-settings"
CHARTS = {
    "cilium": versions.CILIUM,
    "metallb": versions.METALLB,
    "cert-manager": versions.CERT_MANAGER,
    "traefik": versions.TRAEFIK,
    "metrics-server": versions.METRICS_SERVER,
    "argo-cd": versions.ARGO_CD,
}


def nodes(value: object) -> Iterator[Mapping[str, Any]]:
    """Give every mapping in a YAML document."""
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from nodes(one)
    elif isinstance(value, list):
        for one in value:
            yield from nodes(one)


def chart_references(document: object) -> Iterator[tuple[str, str]]:
    """Give charts with their versions: of Argo CD's sources and of kustomize's helmCharts."""
    for node in nodes(document):
        if "chart" in node and "targetRevision" in node:
            yield node["chart"], str(node["targetRevision"])
        for one in node.get("helmCharts") or ():
            yield one["name"], str(one.get("version"))


def images(document: object) -> Iterator[str]:
    """Give the images that pods and kustomizations name."""
    for node in nodes(document):
        if isinstance(node.get("image"), str):
            yield node["image"]
        if "newTag" in node or "newName" in node:
            yield f"{node.get('newName') or node.get('name')}:{node.get('newTag')}"


@cache
def in_git() -> dict[Path, list[Any]]:
    return {
        path: list(plain_yaml.read_all(path.read_text(encoding="utf-8")))
        for folder in IN_GIT
        for path in sorted((ROOT / folder).rglob("*.yaml"))
    }


def not_pinned(name: str, version: str) -> str | None:
    """Say what is wrong with a chart's version in Git."""
    wanted = CHARTS.get(name)
    if wanted is None:
        return f"{name} {version}: not exact" if not EXACT.fullmatch(version) else None
    return None if version == wanted else f"{name} {version}: the stack installs {wanted}"


def test_there_is_something_to_look_at() -> None:
    assert STACK_FILES
    assert CLUSTERS
    assert OVERLAYS


def test_charts_in_git_have_the_stacks_versions() -> None:
    found = {
        (str(path.relative_to(ROOT)), name, version)
        for path, documents in in_git().items()
        for name, version in chart_references(documents)
    }
    assert ("platform/argo-cd.yaml", "argo-cd", FROM_SETTINGS) in found
    named = [
        (path, not_pinned(name, version))
        for path, name, version in found
        if version != FROM_SETTINGS
    ]
    assert [one for one in named if one[1]] == []


@pytest.mark.parametrize(
    ("name", "version", "good"),
    [
        ("argo-cd", versions.ARGO_CD, True),
        ("argo-cd", "10.1.2", False),
        ("argo-cd", f"v{versions.ARGO_CD}", False),
        ("velero", "11.1.0", True),
        ("velero", "11.*", False),
        ("velero", "HEAD", False),
    ],
)
def test_another_version_in_git_is_found(name: str, version: str, good: bool) -> None:  # noqa: FBT001 pytest
    source = {"spec": {"sources": [{"chart": name, "targetRevision": version}]}}
    (found,) = chart_references([source])
    assert (not_pinned(*found) is None) is good


@pytest.mark.parametrize("path", STACK_FILES, ids=lambda path: path.stem)
def test_the_stack_installs_exact_versions(path: Path) -> None:
    settings = config.load_file(path)
    planned = plans(settings)
    assert [one.chart for one in planned if not EXACT.fullmatch(one.version)] == []
    assert EXACT.fullmatch(settings.talos.version)
    assert EXACT.fullmatch(settings.kubernetes.version)
    assert all(one.repository.startswith("https://") for one in planned)


def test_production_installs_the_pinned_charts_and_all_of_them() -> None:
    settings = config.load_file(ROOT / "Pulumi.prod.yaml")
    assert {one.chart: one.version for one in plans(settings)} == CHARTS


def test_the_program_and_its_tools_import_what_requirements_txt_installs() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))
    distributions = packages_distributions()
    missing = {
        name
        for folder in ("config", "clients", "components", "ops")
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(ast.parse(path.read_text("utf-8")))
        if not (ROOT / name).is_dir()
        and name not in sys.stdlib_module_names
        and not {one.lower().replace("_", "-") for one in distributions[name]} & locked
    }
    assert missing == set()


def imported(module: ast.Module) -> Iterator[str]:
    """Give the top-level packages that a module imports."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_the_cli_is_not_older_than_the_sdk() -> None:
    project = plain_yaml.read((ROOT / "Pulumi.yaml").read_text(encoding="utf-8"))
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (sdk,) = re.findall(r'"pulumi==([\d.]+)"', text)
    assert project["requiredPulumiVersion"] == f">={sdk}"


def test_every_version_of_the_program_is_exact_and_renovate_finds_it() -> None:
    text = (ROOT / "config" / "versions.py").read_text(encoding="utf-8")
    pins = re.findall(r'^([A-Z_]+) = "(.*)"$', text, re.MULTILINE)
    marked = re.findall(
        r'^# renovate: datasource=\S+ depName=\S+.*\n([A-Z_]+) = "', text, re.MULTILINE
    )
    assert len(pins) > 10
    assert [name for name, version in pins if not EXACT.fullmatch(version)] == []
    assert [name for name, _ in pins] == marked


def test_every_image_that_the_program_names_is_exact() -> None:
    named = [backup.IMAGE, backup.METRICS_IMAGE, metrics_server.APPROVER_IMAGE]
    assert [one for one in named if not is_exact(one)] == []
    # The constants above are all that there are.
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "components").rglob("*.py"))
    assert len(re.findall(r'"(?:ghcr\.io|registry\.k8s\.io|quay\.io|docker\.io)/', sources)) == len(
        named
    )


def test_every_image_in_git_is_exact() -> None:
    found = [image for documents in in_git().values() for image in images(documents)]
    assert found
    assert [one for one in found if not is_exact(one)] == []


@pytest.mark.parametrize(
    "document",
    [
        {"containers": [{"image": "web:latest"}]},
        {"images": [{"name": "web", "newTag": "main"}]},
    ],
)
def test_a_floating_image_in_git_is_found(document: object) -> None:
    assert not all(map(is_exact, images(document)))
