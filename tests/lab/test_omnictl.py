"""Omni's own command line, built from its module, checks what the program would tell Omni."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml

import config
from clients.omnictl import check_omnictl, run_omnictl, validate
from components.omni import patch_rules, template
from components.talos.patch_files import PatchError, check_patch_files
from config import omni
from ops.rehearsal.world import PROJECT

EXAMPLE = PROJECT / "Pulumi.omni.yaml"
OMNICTL = PROJECT / ".lab" / "bin" / "omnictl"

# `make omnictl` builds it, which takes minutes: of the weekly drill.
pytestmark = pytest.mark.campaign

run = partial(run_omnictl, program=str(OMNICTL))


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    assert OMNICTL.is_file(), "no omnictl in .lab/bin: run `make omnictl`"


def example() -> config.Settings:
    """Read the example."""
    return config.load_file(EXAMPLE)


def text(settings: config.Settings, root: Path = PROJECT) -> str:
    ids = template.placeholders(settings)
    return template.render(settings, omni.of(settings), ids, root)


def test_omnictl_is_of_the_version_that_the_settings_pin() -> None:
    check_omnictl(omni.of(example()).tag, run)


def test_the_examples_template_is_valid() -> None:
    assert validate(text(example()), run) == ""


def test_names_in_place_of_ids_are_for_people_alone() -> None:
    settings = example()
    told = template.render(settings, omni.of(settings), template.names(settings), PROJECT)
    assert 'invalid machine ID "node01"' in validate(told, run)


VALUES = {
    "cluster.controlPlane.endpoint": "https://172.16.20.250:6443",
    "cluster.acceptedCAs": [],
    "machine.acceptedCAs": [],
    "machine.ca": {"crt": ""},
    "machine.install.extensions": [],
}
"""Of fields that hold no text."""
LATER = {"cluster.ca", "cluster.serviceAccount"}
"""Which Omni 1.10 refuses, and 1.9 does not."""


@pytest.mark.parametrize("path", sorted(patch_rules.FORBIDDEN.keys() - LATER))
def test_what_the_check_refuses_in_a_patch_omnictl_refuses_too(path: str, tmp_path: Path) -> None:
    patch: object = VALUES.get(path, "x")
    for key in reversed(path.split(".")):
        patch = {key: patch}
    write(tmp_path, yaml.safe_dump(patch))
    assert f'overriding "{path}" is not allowed' in validate(text(example(), tmp_path), run)


@pytest.mark.parametrize(
    "patch",
    [
        "apiVersion: v1alpha1\nkind: HostnameConfig\nauto: stable\n---\ncluster: {id: x}\n",
        "cluster: {$patch: delete}\n",
        "apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: 10.0.0.1:4000\n",
    ],
    ids=["second document", "section deleted", "document of Omni's"],
)
def test_what_omnictl_lets_pass_the_check_still_refuses(patch: str, tmp_path: Path) -> None:
    write(tmp_path, patch)
    settings = example()
    assert validate(text(settings, tmp_path), run) == ""
    with pytest.raises(PatchError):
        check_patch_files(settings, tmp_path, patch_rules.faults)


def write(root: Path, patch: str) -> None:
    folder = root / "clusters" / "prod"
    folder.mkdir(parents=True)
    (folder / "common.yaml").write_text(patch, encoding="utf-8")
