"""The lab's charts have the versions that the stack installs: no pin is in one place only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from config import plain_yaml, traefik_api, versions

LAB = Path(__file__).parents[2] / "lab"


def required(tool: str) -> dict[str, str]:
    """Give each module that a go.mod requires, with its version without the v."""
    text = (LAB / "tools" / tool / "go.mod").read_text(encoding="utf-8")
    return dict(re.findall(r"^(?:require)?\s+(\S+) v(\S+)$", text, re.MULTILINE))


def stand_in(name: str) -> dict[str, Any]:
    chart: dict[str, Any] = plain_yaml.read(
        (LAB / "charts" / name / "Chart.yaml").read_text(encoding="utf-8")
    )
    return chart


@pytest.mark.parametrize(
    ("tool", "module", "version"),
    [
        ("charts", "github.com/cilium/cilium", versions.CILIUM),
        ("charts", "go.universe.tf/metallb", versions.METALLB),
        ("charts", "github.com/cert-manager/cert-manager", versions.CERT_MANAGER),
        ("gateway-api", "sigs.k8s.io/gateway-api", versions.GATEWAY_API),
    ],
)
def test_a_chart_of_a_module_has_the_version_that_is_installed(
    tool: str, module: str, version: str
) -> None:
    assert required(tool)[module] == version


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("traefik", versions.TRAEFIK),
        ("argo-cd", versions.ARGO_CD),
    ],
)
def test_a_stand_in_has_the_version_that_is_installed(name: str, version: str) -> None:
    chart = stand_in(name)
    assert (chart["name"], chart["version"]) == (name, version)
    assert chart["annotations"]["platform.lab/stand-in"] == "true"


@pytest.mark.parametrize(
    ("name", "module"),
    [("traefik", "github.com/traefik/traefik/v3"), ("argo-cd", "github.com/argoproj/argo-cd/v3")],
)
def test_a_stand_ins_definitions_are_of_its_program(name: str, module: str) -> None:
    assert stand_in(name)["appVersion"] == "v" + required("charts")[module]


def test_traefiks_definitions_are_of_the_version_that_its_chart_installs() -> None:
    assert stand_in("traefik")["appVersion"] == f"v{versions.TRAEFIK_API}"
    assert versions.TRAEFIK_API in traefik_api.SHA256


def test_the_traefik_that_pods_run_is_the_version_that_its_chart_installs() -> None:
    module = required("traefik")["github.com/traefik/traefik/v3"]
    assert stand_in("traefik")["appVersion"] == f"v{module}"


def test_no_stand_in_is_forgotten() -> None:
    folders = {path.parent.name for path in (LAB / "charts").glob("*/Chart.yaml")}
    assert folders == {"traefik", "argo-cd"}
