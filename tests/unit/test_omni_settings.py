"""The settings of a cluster that Omni manages: what it needs, and that it is still refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from components.gitops import generated
from components.omni import patch_rules
from components.talos.patch_files import check_patch_files
from config import plain_yaml
from config.needed_secrets import needed
from config.show import as_json, as_text
from ops.reach.questions import questions
from ops.settings.command import main
from tests.edits import STACK_FILES

ROOT = Path(__file__).parents[2]
EXAMPLE = STACK_FILES / "good" / "omni.yaml"


def settings(text: str = "", instead: str = "") -> config.Settings:
    """Read the good file with Omni, with one text in place of another."""
    raw = EXAMPLE.read_text(encoding="utf-8")
    assert text in raw
    found = plain_yaml.read(raw.replace(text, instead) if text else raw)["config"]
    return config.parse({key.removeprefix("platform:"): value for key, value in found.items()})


def test_the_example_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", str(EXAMPLE)])
    assert code == 0, capsys.readouterr().err


def test_omni_needs_a_key_and_a_join_token() -> None:
    omni = settings().omni
    assert omni is not None
    names = [key.name for key in needed(settings().services, settings().talos, omni)]
    assert names[1:3] == ["omniServiceAccountKey", "omniJoinToken"]


def test_without_omni_nobody_is_asked_for_its_secrets() -> None:
    standalone = config.load_file(STACK_FILES / "good" / "three.yaml")
    names = {key.name for key in needed(standalone.services, standalone.talos, standalone.omni)}
    assert not any("omni" in name for name in names)


@pytest.mark.parametrize("interval", ["1h", "60m", "90m", "24h", "1440m"])
def test_backups_are_taken_every_hour_to_every_day(interval: str) -> None:
    omni = settings("backupInterval: 1h", f"backupInterval: {interval}").omni
    assert omni is not None
    assert omni.backup_interval == interval


@pytest.mark.parametrize("interval", ["0h", "59m", "1441m", "25h", "1h30m", "1 h", "01h", "1d", ""])
def test_no_other_interval_is_taken(interval: str) -> None:
    with pytest.raises(config.SettingsError, match="not an interval that Omni takes backups at"):
        settings("backupInterval: 1h", f"backupInterval: '{interval}'")


def test_machines_may_join_without_tls_where_omni_serves_it_so() -> None:
    omni = settings("machineApi: https://", "machineApi: grpc://").omni
    assert omni is not None
    assert omni.machine_api == "grpc://omni.example.internal:8090"


def test_show_names_omni_and_leaves_out_what_is_its_own() -> None:
    text = as_text(settings())
    assert "https://omni.example.internal:8095" in text
    assert "every 1h" in text
    assert "vmware-installer" not in text
    derived = as_json(settings())["derived"]
    assert "bootstrapMachine" not in derived


def test_reach_tries_the_ports_of_omni_and_says_that_udp_cannot_be_tried() -> None:
    asked = {one.what: one for one in questions(settings(), installed=False)}
    assert asked["Omni"].key == "platform:omni.endpoint"
    assert asked["Omni's machine API"].by_machines
    assert not asked["Omni's Kubernetes proxy"].by_machines
    assert asked["Omni's WireGuard"].key == "platform:omni.tunnel"
    tunnelled = settings("backupInterval: 1h", "tunnel: true")
    names = {one.what for one in questions(tunnelled, installed=False)}
    assert "Omni's WireGuard" not in names


def test_the_example_is_good_and_fits_what_git_tells_argo_cd() -> None:
    example = config.load_file(ROOT / "Pulumi.omni.yaml")
    assert example.cluster.lifecycle == "omni"
    assert [one.role for one in example.machines].count("worker") == 1
    generated.check(example, ROOT)
    check_patch_files(example, ROOT, patch_rules.faults)
