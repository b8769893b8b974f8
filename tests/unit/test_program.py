"""The whole program under mocks: what it registers, in which order, with which secrets."""

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.failures import ToldError
from components.talos.patch_files import PatchError, check_patch_files
from config import parse
from config.versions import TALOS
from tests.unit.recorder import (
    CREDENTIALS_END,
    KEY,
    PASSWORD,
    Platform,
    Registered,
    is_secret,
    machine,
    production,
    public_text,
    run,
    run_machines,
    run_once,
    run_production,
    without_services,
)

VM = "vsphere:index/virtualMachine:VirtualMachine"
APPLY = "talos:machine/configurationApply:ConfigurationApply"
GATE = "platform:index:Gate"
SECRETS = "talos:machine/secrets:Secrets"

WORKERS = [machine(f"worker0{n}", f"172.16.20.6{n}", "worker") for n in (1, 2)]

pytestmark = pytest.mark.usefixtures("talosctl")


def settings(**changes: object) -> dict[str, Any]:
    return without_services(production()) | changes


def single() -> dict[str, Any]:
    return settings(machines=production()["machines"][:1])


def three_and_two() -> dict[str, Any]:
    # The workers stand first in the file: the file's order must not matter.
    return settings(machines=WORKERS + production()["machines"])


def chain(platform: Platform, names: list[str]) -> list[Registered]:
    steps = []
    for name in names:
        steps += [platform.one(VM, name), platform.one(APPLY, name)]
    return steps


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (single, ["node01"]),
        (settings, ["node01", "node02", "node03"]),
        (three_and_two, ["node01", "node02", "node03", "worker01", "worker02"]),
    ],
)
def test_machines_are_made_and_configured_one_after_the_other_control_planes_first(
    given: Callable[[], dict[str, Any]], names: list[str]
) -> None:
    platform = run_once(given())
    steps = chain(platform, names)
    assert sorted(platform.names(VM)) == sorted(platform.names(APPLY)) == sorted(names)
    for earlier, later in pairwise(steps):
        assert earlier.urn in later.dependencies
    order = [one.name for one in platform.resources if one.type in {VM, GATE}]
    for earlier_name, later_name in pairwise(names):
        # The engine is told of the next machine only once the gate before it is open.
        assert order.index(f"{earlier_name}-healthy") < order.index(later_name)


def test_etcd_is_bootstrapped_once_between_the_first_configuration_and_its_health() -> None:
    platform = run_machines()
    gate = platform.one(GATE, "etcd")
    assert platform.one(APPLY, "node01").urn in gate.dependencies
    assert gate.hooks("before_create") == ["etcd-first"]
    assert gate.hooks("before_update") == []
    # The gate that sees control planes apart comes at any time after the last machine, and places
    # say only in which order machines go.
    names = (one.name for one in platform.all(GATE) if "apart" not in one.name)
    order = [name for name in names if not name.endswith("-place")]
    assert order == [
        "kubernetes-version",
        "node01-talos",
        "etcd",
        "node01-healthy",
        "node02-talos",
        "node02-healthy",
        "node03-talos",
        "node03-healthy",
        "etcd-members",
        "kubernetes-api",
    ]


def test_every_hook_is_one_that_a_destroy_does_not_need_and_a_failure_repeats() -> None:
    platform = run_once(three_and_two())
    assert len(platform.hooks) > 0
    for one in platform.resources:
        for kind in ("after_create", "after_update", "before_delete", "after_delete"):
            assert one.hooks(kind) == []
    actions = [one for one in platform.hooks.values() if isinstance(one, pulumi.ResourceHook)]
    # None runs in a preview, but the one that only takes note of a first creation.
    assert [hook.name for hook in actions if hook.opts is not None] == ["machines-first"]


def test_only_the_machine_secrets_are_protected() -> None:
    platform = run_machines()
    assert [one.type for one in platform.resources if one.request.protect] == [SECRETS]
    assert list(platform.one(SECRETS, "prod").request.ignoreChanges) == ["talosVersion"]


def test_a_rebuilt_machine_is_configured_again() -> None:
    platform = run_machines()
    for one in platform.all(APPLY):
        assert one.request.replacement_trigger.string_value == f"{one.name}-id"


def test_all_in_the_cluster_goes_with_the_machines_when_the_platform_is_destroyed() -> None:
    platform = run_machines()
    machines = platform.one("platform:vsphere:Machines", "machines")
    cluster = platform.one("platform:talos:Cluster", "prod")
    assert cluster.request.deletedWith == machines.urn
    # The engine hands this down to children (source_eval.go, inheritFromParent).
    for type_ in (
        "pulumi:providers:kubernetes",
        "talos:cluster/kubeconfig:Kubeconfig",
    ):
        assert [one.request.parent for one in platform.all(type_)] == [cluster.urn]
    assert not platform.one(SECRETS, "prod").request.deletedWith


def test_the_kubernetes_provider_comes_after_the_api_answers_and_is_never_replaced() -> None:
    platform = run_machines()
    provider = platform.one("pulumi:providers:kubernetes", "prod")
    assert provider.inputs["clusterIdentifier"] == "prod"
    assert is_secret(provider.inputs["kubeconfig"])
    order = [one.urn for one in platform.resources]
    assert order.index(platform.one(GATE, "kubernetes-api").urn) < order.index(provider.urn)


def test_the_api_is_awaited_again_when_control_planes_come_or_go() -> None:
    before = run_machines().one(GATE, "kubernetes-api")
    after = run_once(single()).one(GATE, "kubernetes-api")
    assert before.inputs["controlPlanes"] != after.inputs["controlPlanes"]
    assert after.hooks("before_update") == ["kubernetes-api-again"]
    workers = run_once(three_and_two()).one(GATE, "kubernetes-api")
    assert workers.inputs["controlPlanes"] == before.inputs["controlPlanes"]


def test_every_resource_names_its_provider() -> None:
    for one in run_production().resources + run_once(three_and_two()).resources:
        if one.request.custom and not one.type.startswith("pulumi:"):
            assert one.request.provider, one.urn


def test_no_secret_is_in_a_plain_input_or_output() -> None:
    platform = run_once(three_and_two())
    for one in platform.resources:
        text = public_text(one.inputs)
        assert KEY not in text, one.urn
        assert PASSWORD not in text, one.urn
    assert platform.secret_outputs == {"kubeconfig", "talosconfig"}
    assert platform.values["endpoint"] == "https://172.16.20.250:6443"
    # What was looked for does exist, as secrets.
    assert KEY in json.dumps(platform.one(APPLY, "node01").inputs)
    assert PASSWORD in json.dumps(
        platform.one("pulumi:providers:vsphere", "machines-vcenter").inputs
    )


def test_a_single_machine_without_a_vip_is_its_own_endpoint() -> None:
    network = {key: value for key, value in production()["network"].items() if key != "vip"}
    platform = run(single() | {"network": network})
    assert platform.values["endpoint"] == "https://172.16.20.51:6443"
    assert (
        platform.all(
            "vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule"
        )
        == []
    )


def gates(platform: Platform) -> dict[str, Mapping[str, Any]]:
    return {one.name: one.inputs for one in platform.all(GATE)}


def test_a_change_of_one_machine_closes_only_its_own_gate() -> None:
    machines = production()["machines"]
    grown = [*machines[:1], machines[1] | {"memoryMiB": 32768}, *machines[2:]]
    before, after = gates(run_machines()), gates(run(settings(machines=grown)))
    assert [name for name in before if before[name] != after[name]] == ["node02-healthy"]


def test_a_change_of_every_configuration_closes_every_machines_gate() -> None:
    network = production()["network"] | {"timeServers": ["time.example.com"]}
    before, after = gates(run_machines()), gates(run(settings(network=network)))
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["node01-healthy", "node02-healthy", "node03-healthy"]


def test_removing_a_machine_changes_no_other_machine_and_closes_the_gate_of_etcds_members() -> None:
    five = [machine(f"node0{n}", f"172.16.20.5{n}") for n in range(1, 6)]
    before, after = (run(settings(machines=list_)) for list_ in (five, five[:3]))
    for name in after.names(VM):
        assert before.one(VM, name).inputs == after.one(VM, name).inputs
    assert gates(before)["etcd-members"]["controlPlanes"]["node05"] == "172.16.20.55"
    assert "node05" not in gates(after)["etcd-members"]["controlPlanes"]


def test_an_image_by_its_id_is_not_registered_with_the_factory() -> None:
    talos = {"version": "1.13.9", "schematic": "a" * 64}
    platform = run(settings(talos=talos))
    assert platform.all("talos:imageFactory/schematic:Schematic") == []
    (item,) = platform.all("vsphere:index/contentLibraryItem:ContentLibraryItem")
    assert f"/image/{'a' * 64}/v1.13.9/" in item.inputs["fileUrl"]


def test_an_image_of_extensions_is_registered_before_it_is_downloaded() -> None:
    platform = run_machines()
    (schematic,) = platform.all("talos:imageFactory/schematic:Schematic")
    (item,) = platform.all("vsphere:index/contentLibraryItem:ContentLibraryItem")
    assert schematic.urn in item.dependencies


def test_bad_settings_are_all_reported_and_nothing_is_registered() -> None:
    network = production()["network"] | {"gatway": "172.16.20.1"}
    platform = Platform()
    with pytest.raises(ToldError) as caught:
        run(settings(network=network, machines=production()["machines"][:2]), platform=platform)
    for key in ("platform:network.gatway", "platform:machines"):
        assert key in str(caught.value)
    assert [one.urn for one in platform.resources if one.type != "pulumi:pulumi:Stack"] == []


def test_a_patch_file_that_no_machine_would_get_is_refused(tmp_path: Path) -> None:
    model = parse(settings())
    folder = tmp_path / model.talos.patches
    folder.mkdir(parents=True)
    (folder / "contolplane.yaml").write_text("machine: {}")
    with pytest.raises(PatchError, match=r"contolplane\.yaml is used for no machine"):
        check_patch_files(model, tmp_path)


def test_a_missing_folder_of_patches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="clusters/prod: no such folder"):
        check_patch_files(parse(settings()), tmp_path)


def test_a_missing_talosctl_is_named_before_anything_is_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ToldError, match=f"talosctl: not found on PATH; install talosctl v{TALOS}"):
        run(settings())


def test_a_preview_needs_no_talosctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert run(settings(), preview=True).names(VM)


def test_the_stack_says_when_the_operators_credentials_end() -> None:
    platform = run_machines()
    end = CREDENTIALS_END.isoformat()
    assert platform.values["expires"] == {"talosconfig": end, "kubeconfig": end}
    assert "expires" not in platform.secret_outputs


def test_the_stack_says_when_secrets_end_whose_end_the_settings_tell() -> None:
    told = {"name": "prod", "expiries": [{"name": "dnsToken", "ends": "2027-03-31"}]}
    assert run(settings(cluster=told)).values["expires"]["dnsToken"] == "2027-03-31"
