"""What is told at the end of `pulumi up`: addresses, and a next step."""

from pathlib import Path

import pytest

from components import entrances
from config import parse
from tests.unit.recorder import install_talosctl, production, run_production, without_services

FIRST = "pulumi stack output --show-secrets kubeconfig > kubeconfig, and the same for talosconfig"


def test_the_addresses_are_those_of_the_settings() -> None:
    found = entrances.addresses(parse(production()).services)
    assert found["argocd"] == "https://argocd.platform.example.com"
    assert found["traefik"] == "https://traefik.platform.example.com"
    assert found["dashboards"] == "https://argocd.platform.example.com/monitoring/vmui/"
    assert found["logs"] == "https://argocd.platform.example.com/logs/select/vmui/"
    assert found["ingress"] == "172.16.20.100"
    assert "port-forward service/hubble-ui" in found["hubble"]


def test_what_is_not_installed_has_no_address() -> None:
    settings = parse(without_services(production()))
    assert entrances.addresses(settings.services) == {}
    assert "name server" not in entrances.next_step(settings.services, "first")


def test_the_next_step_says_how_to_get_in_and_which_names_need_an_address() -> None:
    step = entrances.next_step(parse(production()).services, FIRST)
    assert "pulumi stack output --show-secrets kubeconfig" in step
    assert (
        "give 172.16.20.100 for argocd.platform.example.com and traefik.platform.example.com"
        in step
    )


def test_both_are_outputs_of_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    values = run_production().values
    assert values["addresses"] == entrances.addresses(parse(production()).services)
    assert values["next"] == entrances.next_step(parse(production()).services, FIRST)
