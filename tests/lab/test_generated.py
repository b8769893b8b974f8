"""The configuration that Talos makes of our patches, held against what the charts render.

Offline: the real talosctl generates, the lab renders; no world is needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import config
from components.layers import plans
from components.talos.configuration import patches
from components.talos.inputs import TalosInputs
from components.talos.patch_files import check_patch_files
from components.talos.patch_validation import validate
from config import Settings
from ops.render import rendering
from ops.render.packages import PROJECT
from tests.unit.recorder import machine, production
from tests.unit.test_site_requirements import missing, registry

KINDS = {"controlplane": "control-plane", "worker": "worker"}
TALOSCTL = PROJECT / ".lab" / "bin" / "talosctl"


def with_a_worker(changes: Mapping[str, Any] | None = None) -> Settings:
    worker = machine("work01", "172.16.20.61", "worker")
    machines = {"machines": [*production()["machines"], worker]}
    return config.parse(production() | machines | dict(changes or {}))


def talosctl(*argv: str) -> None:
    done = subprocess.run([TALOSCTL, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def generated(settings: Settings, name: str, folder: Path) -> list[dict[str, Any]]:
    """Give the documents of a machine's configuration, which Talos has found valid."""
    (one,) = (each for each in settings.machines if each.name == name)
    found = folder / f"{name}.yaml"
    given: list[str] = []
    for number, text in enumerate(patches(TalosInputs.of(settings), one, PROJECT)):
        patch = folder / f"{name}-{number}.yaml"
        patch.write_text(text)
        given += [f"--config-patch-{KINDS[one.role]}", f"@{patch}"]
    talosctl(
        *("gen", "config", settings.cluster.name, settings.endpoint, "--force"),
        *("--output-types", one.role, "--output", str(found)),
        *(
            "--talos-version",
            settings.talos.contract_tag,
            "--with-docs=false",
            "--with-examples=false",
        ),
        *("--kubernetes-version", settings.kubernetes.version, *given),
    )
    talosctl("validate", "--config", str(found), "--mode", "metal", "--strict")
    return [one for one in yaml.safe_load_all(found.read_text()) if one]


@cache
def cilium_config() -> dict[str, str]:
    settings = with_a_worker()
    (plan,) = (one for one in plans(settings) if one.chart == "cilium")
    objects = rendering.objects(rendering.text(plan, settings.kubernetes.version))
    (found,) = (
        one
        for one in objects
        if (one["kind"], one["metadata"]["name"]) == ("ConfigMap", "cilium-config")
    )
    data: dict[str, str] = found["data"]
    return data


@pytest.mark.parametrize("name", ["node01", "work01"])
def test_dns_is_not_forwarded_to_machines_whose_packets_are_routed_in_ebpf(
    tmp_path: Path, name: str
) -> None:
    main = generated(with_a_worker(), name, tmp_path)[0]
    dns = main["machine"]["features"]["hostDNS"]
    forwarded = dns["enabled"] and dns.get("forwardKubeDNSToHost", False)
    in_ebpf = (
        cilium_config()["enable-bpf-masquerade"] == "true"
        and cilium_config().get("enable-host-legacy-routing", "false") != "true"
    )
    assert in_ebpf, "then nothing is held apart here: see docs/decisions/0015"
    assert not forwarded


@pytest.mark.parametrize("name", ["node01", "work01"])
def test_a_machine_has_what_cilium_is_told_of_it(tmp_path: Path, name: str) -> None:
    main = generated(with_a_worker(), name, tmp_path)[0]
    prism = main["machine"]["features"]["kubePrism"]
    assert prism == {"enabled": True, "port": 7445}
    assert main["cluster"]["network"]["cni"] == {"name": "none"}
    assert main["cluster"]["proxy"]["disabled"] is True
    assert cilium_config()["kube-proxy-replacement"] == "true"
    assert [cilium_config()["ipv4-native-routing-cidr"]] == main["cluster"]["network"]["podSubnets"]


def test_control_planes_run_workloads_and_take_load_balancers(tmp_path: Path) -> None:
    main = generated(with_a_worker(), "node01", tmp_path)[0]
    assert main["cluster"]["allowSchedulingOnControlPlanes"] is True
    labels = main["machine"].get("nodeLabels") or {}
    assert "node.kubernetes.io/exclude-from-external-load-balancers" not in labels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machine: {kubelet: {extraMount: []}}", "unknown keys found"),
        ("machine: {sysctls: [a]}", "cannot construct"),
        ("apiVersion: v1alpha1\nkind: TimeSyncConfg", "not registered"),
        ("machine: {network: {kubespan: {enabled: yes please}}}", "cannot construct"),
        ("cluster: {apiServer: {auditPolicy: {a: 1}}, extraManifests: {}}", "cannot construct"),
    ],
)
def test_the_check_has_talos_itself_merge_and_validate_the_files(
    tmp_path: Path, text: str, said: str
) -> None:
    settings = with_a_worker()
    folder = tmp_path / settings.talos.patches
    folder.mkdir(parents=True)
    (folder / "node01.yaml").write_text(text)
    (fault,) = validate(settings, tmp_path, str(TALOSCTL))
    assert fault.startswith("node01.yaml: Talos does not accept it: ")
    assert said in fault


def test_the_projects_own_files_are_valid_to_talos() -> None:
    assert validate(with_a_worker(), PROJECT, str(TALOSCTL)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"diskEncryption": {"key": "nodeId"}},
        {"diskEncryption": {"key": "kms", "endpoint": "https://kms.example.com:4050"}},
        {"discovery": False},
        {"contract": "1.12"},
        {"logDestinations": {"services": ["tcp://logs.example.com:5170"]}},
    ],
)
@pytest.mark.parametrize("name", ["node01", "work01"])
def test_talos_finds_the_configuration_of_other_settings_valid_too(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    settings = with_a_worker({"talos": production()["talos"] | changes})
    assert generated(settings, name, tmp_path)


def test_the_page_for_the_site_names_the_registry_of_every_image(tmp_path: Path) -> None:
    settings = with_a_worker()
    images = set()
    for plan in plans(settings):
        for one in rendering.objects(rendering.text(plan, settings.kubernetes.version)):
            if "helm.sh/hook" not in (one["metadata"].get("annotations") or {}):
                images |= set(images_in(one))
    for name in ("node01", "work01"):
        for document in generated(settings, name, tmp_path):
            images |= set(images_in(document))
    assert len(images) > 15, "then the walk finds no images any more"
    assert missing({registry(one) for one in images}) == []


def images_in(value: object) -> Iterator[str]:
    """Give every text under a key `image`."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key == "image" and isinstance(one, str):
                yield one
            else:
                yield from images_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from images_in(one)


EXAMPLES = re.findall(
    r"```yaml\n(.*?)```", (PROJECT / "docs" / "patches.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: yaml.safe_load(text)["kind"])
def test_talos_takes_every_example_of_the_page_about_patches(example: str, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "clusters", tmp_path / "clusters")
    (tmp_path / "clusters" / "prod" / "node01.yaml").write_text(example)
    settings = config.parse(production())
    check_patch_files(settings, tmp_path)
    assert validate(settings, tmp_path, str(TALOSCTL)) == []
