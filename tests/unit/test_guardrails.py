"""The rules that the API server holds: what they are made of. A lab test asks a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.kubernetes import guardrails
from config import parse
from tests.unit.recorder import Platform, install_talosctl, production, run_production

POLICY = "kubernetes:admissionregistration.k8s.io/v1:ValidatingAdmissionPolicy"
NAMESPACE = "kubernetes:core/v1:Namespace"
ROUTE = "kubernetes:traefik.io/v1alpha1:IngressRoute"


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return run_production()


def test_the_levels_that_are_kept_are_those_that_the_layers_give(platform: Platform) -> None:
    given = {
        one.inputs["metadata"]["name"]: one.inputs["metadata"]["labels"][guardrails.LABEL]
        for one in platform.all(NAMESPACE)
    }
    assert given == guardrails.LEVELS


def test_every_policy_refuses_and_none_is_without_its_binding(platform: Platform) -> None:
    bindings = [one.inputs["spec"] for one in platform.all(f"{POLICY}Binding")]
    assert {one["policyName"] for one in bindings} == set(platform.names(POLICY))
    assert all(one["validationActions"] == ["Deny"] for one in bindings)
    assert {one.inputs["spec"]["failurePolicy"] for one in platform.all(POLICY)} == {"Fail"}


def test_the_platforms_routes_win_over_every_other(platform: Platform) -> None:
    routes: list[dict[str, Any]] = [
        route
        for one in platform.all(ROUTE)
        for route in one.inputs["spec"]["routes"]
        if "Host(" in route["match"]
    ]
    assert len(routes) > 2
    assert all(route["priority"] >= guardrails.ROUTE_PRIORITY for route in routes)


def test_the_names_that_are_kept_follow_the_settings() -> None:
    assert guardrails.hosts_of(parse(production()).services) == {
        "argocd.platform.example.com": ("argocd", "logging", "monitoring"),
        "traefik.platform.example.com": ("traefik",),
    }
    services = {
        name: given
        for name, given in production()["services"].items()
        if name not in {"argocd", "logging", "monitoring", "traefik"}
    }
    assert guardrails.hosts_of(parse(production() | {"services": services}).services) == {}
    assert not any(one.name.startswith("platform-names") for one in guardrails.policies({}))
