"""What Omni is told of a cluster: the template, the patches, the machines' join documents."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import config
from components.omni import join, patch_rules, template
from components.omni.machine_ids import forms, swapped
from components.talos.configuration import patches
from components.talos.inputs import TalosInputs
from components.talos.patch_files import PatchError, check_patch_files
from config import plain_yaml
from tests.edits import STACK_FILES

ROOT = Path(__file__).parents[2]
EXAMPLE = STACK_FILES / "good" / "omni.yaml"


def settings(**changes: Any) -> config.Settings:
    found = plain_yaml.read(EXAMPLE.read_text(encoding="utf-8"))["config"]
    sections = {key.removeprefix("platform:"): value for key, value in found.items()}
    return config.parse(sections | changes)


def omni_of(model: config.Settings) -> Any:
    assert model.omni is not None
    return model.omni


def documents(text: str) -> list[dict[str, Any]]:
    return list(plain_yaml.read_all(text))


def rendered(model: config.Settings, root: Path = ROOT) -> list[dict[str, Any]]:
    text = template.render(model, omni_of(model), template.placeholders(model), root)
    return documents(text)


def write(root: Path, **texts: str) -> None:
    folder = root / "clusters" / "prod"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


# --- Machines' ids -----------------------------------------------------------------------------


def test_the_first_three_groups_of_a_uuid_are_told_in_either_order() -> None:
    uuid = "421f245c-7fa8-60fa-6af6-1a2b3c4d5e6f"
    assert swapped(uuid) == "5c241f42-a87f-fa60-6af6-1a2b3c4d5e6f"
    assert forms(uuid.upper()) == (uuid, swapped(uuid))


@given(st.uuids())
def test_a_uuid_that_is_swapped_twice_is_itself(uuid: Any) -> None:
    assert swapped(swapped(str(uuid))) == str(uuid)


def test_a_uuid_that_is_the_same_in_both_orders_has_one_form() -> None:
    assert forms("11111111-2222-3333-4444-555555555555") == (
        "11111111-2222-3333-4444-555555555555",
    )


# --- The template ------------------------------------------------------------------------------


def test_a_template_names_each_machine_by_its_id_in_the_set_of_its_role() -> None:
    model = settings()
    ids = template.placeholders(model)
    cluster, control_planes, workers, *machines = rendered(model)
    assert cluster["kind"] == "Cluster"
    assert (cluster["kubernetes"], cluster["talos"]) == (
        {"version": "v1.34.1"},
        {"version": "v1.13.9"},
    )
    assert cluster["features"] == {"backupConfiguration": {"interval": "1h"}}
    assert cluster["systemExtensions"] == ["siderolabs/vmtoolsd-guest-agent"]
    assert control_planes["machines"] == [ids["node01"], ids["node02"], ids["node03"]]
    assert workers["machines"] == [ids["node04"]]
    assert [one["name"] for one in machines] == list(ids.values())
    assert len(set(ids.values())) == 4


def test_what_a_preview_shows_names_machines_as_the_settings_do() -> None:
    model = settings()
    text = template.render(model, omni_of(model), template.names(model), ROOT)
    assert "- node01\n" in text
    assert "00000000" not in text


def test_a_template_is_the_same_each_time() -> None:
    assert rendered(settings()) == rendered(settings())


def test_the_image_to_install_is_omnis_and_the_disk_is_the_settings() -> None:
    for machine in rendered(settings())[3:]:
        assert machine["install"] == {"disk": "/dev/sda"}
        (patch,) = machine["patches"]
        assert "install" not in patch["inline"][0]["machine"]


def test_a_machine_gets_the_same_configuration_in_the_same_order_as_without_omni(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        common="machine: {sysctls: {a: '1'}}\n",
        controlplane="machine: {sysctls: {b: '2'}}\n",
        node01="machine: {sysctls: {c: '3'}}\n",
    )
    model = settings()
    _, control_planes, _, machine, *_ = rendered(model, tmp_path)
    given = [*control_planes["patches"], *machine["patches"]]
    merged = [
        document
        for patch in given
        for document in (
            documents(patch["inline"]) if isinstance(patch["inline"], str) else patch["inline"]
        )
    ]
    wanted = [
        document
        for text in patches(TalosInputs.of(model), model.machines[0], tmp_path)
        for document in documents(text)
    ]
    del wanted[4]["machine"]["install"]
    assert merged == wanted
    assert [patch["name"] for patch in given] == [
        "platform-defaults",
        "common.yaml",
        "controlplane.yaml",
        "node01.yaml",
        "node01",
    ]


def test_an_operators_file_reaches_omni_as_it_is_written(tmp_path: Path) -> None:
    text = "# why\nmachine:\n  files:\n    - {path: /var/a, permissions: 0o644, op: create}\n"
    write(tmp_path, worker=text)
    workers = rendered(settings(), tmp_path)[2]
    assert [one["inline"] for one in workers["patches"]] == [text]


def test_a_file_of_comments_alone_is_no_patch(tmp_path: Path) -> None:
    write(tmp_path, common="# nothing yet\n")
    cluster, control_planes, workers, *_ = rendered(settings(), tmp_path)
    assert "patches" not in cluster
    assert "patches" not in workers
    assert [one["name"] for one in control_planes["patches"]] == ["platform-defaults"]


def test_a_cluster_without_workers_has_an_empty_set_of_them() -> None:
    model = settings(machines=[one for one in machines() if one["role"] == "controlplane"])
    assert rendered(model)[2] == {"kind": "Workers", "machines": []}


def machines() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plain_yaml.read(EXAMPLE.read_text())["config"][
        "platform:machines"
    ]
    return found


def test_no_secret_is_in_a_template() -> None:
    text = template.render(settings(), omni_of(settings()), template.names(settings()), ROOT)
    assert "jointoken" not in text
    assert "SideroLinkConfig" not in text


# --- Joining -----------------------------------------------------------------------------------


def test_a_machine_is_told_where_omni_is_and_with_which_token_to_join() -> None:
    omni = omni_of(settings())
    text = base64.b64decode(join.guestinfo(omni, "token+of/the=test", None)).decode()
    link, events, log = documents(text)
    assert link["apiUrl"] == (
        "https://omni.example.internal:8090?jointoken=token%2Bof%2Fthe%3Dtest"
    )
    assert (events["kind"], events["endpoint"]) == (
        "EventSinkConfig",
        "[fdae:41e4:649b:9303::1]:8091",
    )
    assert (log["name"], log["url"]) == ("omni-kmsg", "tcp://[fdae:41e4:649b:9303::1]:8092")


def test_a_machine_joins_by_grpc_alone_where_the_settings_say_so() -> None:
    given = plain_yaml.read(EXAMPLE.read_text())["config"]["platform:omni"] | {"tunnel": True}
    (link, *_) = join.documents(omni_of(settings(omni=given)), "token", None)
    assert link["apiUrl"].endswith("?jointoken=token&grpc_tunnel=true")


@pytest.mark.parametrize(("tunnel", "firewall"), [(True, True), (True, False), (False, True)])
def test_a_firewall_lets_omni_in_where_it_comes_by_the_tunnel(
    tunnel: bool,  # noqa: FBT001 a case of the table
    firewall: bool,  # noqa: FBT001
) -> None:
    plain = settings()
    network = plain.network.model_dump(mode="json", by_alias=True, exclude_none=True)
    network |= {"firewall": {"operators": ["172.16.10.0/24"]}} if firewall else {}
    section = omni_of(plain).model_dump(mode="json", by_alias=True, exclude_none=True)
    model = settings(network=network, omni=section | {"tunnel": tunnel})
    rules = {
        part["name"]: rule
        for part in rendered(model)
        if part["kind"] == "Machine"
        for rule in part["patches"][-1]["inline"]
        if (rule.get("kind"), rule.get("name")) == ("NetworkRuleConfig", "omni")
    }
    assert len(rules) == (4 if tunnel and firewall else 0)
    ports = sorted(rule["portSelector"]["ports"] for rule in rules.values())
    assert ports == ([[50000]] + [[50000, 6443]] * 3 if rules else [])
    assert all(one["ingress"] == [{"subnet": join.NETWORK}] for one in rules.values())


def test_a_machine_that_joins_trusts_the_companys_authorities() -> None:
    *_, last = join.documents(omni_of(settings()), "token", "PEM")
    assert last == {
        "apiVersion": "v1alpha1",
        "kind": "TrustedRootsConfig",
        "name": "company",
        "certificates": "PEM",
    }


# --- Patches -----------------------------------------------------------------------------------


def refused(root: Path, **texts: str) -> str:
    write(root, **texts)
    with pytest.raises(PatchError) as caught:
        check_patch_files(settings(), root, patch_rules.faults)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(patch_rules.FORBIDDEN))
def test_what_omni_sets_no_patch_may_set(tmp_path: Path, path: str) -> None:
    value: Any = "x"
    for key in reversed(path.split(".")):
        value = {key: value}
    told = refused(tmp_path, common=yaml.safe_dump(value))
    assert f"common.yaml: {path}: Omni lets no patch set it" in told


@pytest.mark.parametrize("path", sorted(patch_rules.FORBIDDEN))
def test_what_omni_sets_no_patch_may_delete(tmp_path: Path, path: str) -> None:
    value: Any = {"$patch": "delete"}
    for key in reversed(path.split(".")):
        value = {key: value}
    told = refused(tmp_path, common=yaml.safe_dump(value))
    assert f"common.yaml: {path}: deletes what Omni sets; remove it" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cluster: {$patch: delete}", "cluster: deletes what Omni sets"),
        ("machine: {install: {$patch: delete}}", "machine.install: deletes what Omni sets"),
        (
            "cluster: {controlPlane: {$patch: delete}}",
            "cluster.controlPlane: deletes what Omni sets",
        ),
        (
            "kind: WatchdogTimerConfig\n---\nmachine: {acceptedCAs: []}",
            "machine.acceptedCAs: Omni lets no patch set it",
        ),
        (
            "machine: {sysctls: {a: '1'}}\n---\ncluster: {id: x}",
            "cluster.id: Omni lets no patch set it",
        ),
        (
            "machine: {features: {kubernetesTalosAPIAccess: {allowedRoles: [os:admin]}}}",
            "os:admin, with which pods could do",
        ),
        (
            "apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: https://a.example.com",
            "SideroLinkConfig: it is the machine's way to Omni",
        ),
        (
            "apiVersion: v1alpha1\nkind: SideroLinkConfig\n$patch: delete",
            "SideroLinkConfig: it is the machine's way to Omni",
        ),
        (
            "apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: 10.0.0.1:4000",
            "EventSinkConfig: it is how the machine tells Omni",
        ),
        (
            "apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: omni-kmsg\nurl: tcp://10.0.0.1:1",
            "KmsgLogConfig omni-kmsg: it is how Omni gets the kernel's log",
        ),
        ("machine: {sysctl: {a: b}}", "machine.sysctl: no field of Talos'"),
        ("clusters: {id: x}", "clusters: no field of Talos'"),
        ("machine: {install: {image: a/b:1}}", "machine.install.image = a/b:1"),
        ("machine: {install: {disk: /dev/sdb}}", "platform:talos.installDisk"),
    ],
)
def test_no_patch_takes_the_cluster_away_from_omni(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, controlplane=text)


def test_the_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    told = refused(
        tmp_path,
        common="cluster: {id: x}",
        worker="machine: {type: worker}",
        node01="machine: {acceptedCAs: []}",
    )
    for name in ("common.yaml: cluster.id", "worker.yaml: machine.type", "node01.yaml: machine."):
        assert name in told


def test_a_kernel_log_of_ones_own_and_rights_of_pods_are_allowed(tmp_path: Path) -> None:
    write(
        tmp_path,
        common="apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: mine\nurl: tcp://10.0.0.1:1\n",
        controlplane="machine: {features: {kubernetesTalosAPIAccess: {enabled: true, "
        "allowedRoles: [os:etcd:backup], allowedKubernetesNamespaces: [a]}}}\n",
    )
    check_patch_files(settings(), tmp_path, patch_rules.faults)


def test_the_projects_own_patches_pass() -> None:
    check_patch_files(settings(), ROOT, patch_rules.faults)
