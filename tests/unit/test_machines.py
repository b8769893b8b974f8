"""The vSphere layer under mocks: each machine as vCenter is asked for it."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pulumi
import pytest

from components.vsphere import disks
from tests.unit.recorder import (
    KEY,
    decoded_guestinfo,
    machine,
    on_one_machine,
    production,
    run,
    run_machines,
    run_once,
    without_services,
)

GATE = "platform:index:Gate"
VM = "vsphere:index/virtualMachine:VirtualMachine"
LIBRARY = "vsphere:index/contentLibrary:ContentLibrary"
FOLDER = "vsphere:index/folder:Folder"
CATEGORY = "vsphere:index/tagCategory:TagCategory"
TAG = "vsphere:index/tag:Tag"
RULE = "vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule"

pytestmark = pytest.mark.usefixtures("talosctl")


def settings(**changes: object) -> dict[str, Any]:
    return without_services(production()) | changes


def with_site(**changes: object) -> dict[str, Any]:
    """Give one machine in a site of which something is set otherwise."""
    return on_one_machine(settings(site=production()["site"] | changes))


def test_a_machine_has_the_size_and_place_that_the_settings_give_it() -> None:
    node = run_machines().one(VM, "node02").inputs
    assert node["name"] == "node02"
    assert (node["numCpus"], node["memory"]) == (4, 16384)
    assert node["disks"] == [
        {"label": "system", "size": 100, "unitNumber": 0, "thinProvisioned": True}
    ]
    assert node["networkInterfaces"] == [
        {"networkId": "id-of-platform", "adapterType": "vmxnet3", "ovfMapping": "VM Network"}
    ]
    assert node["resourcePoolId"] == "pool-of-cluster01"
    assert node["datastoreId"] == "id-of-datastore01"
    assert node["folder"] == "platform-prod"
    assert node["clone"] == {"templateUuid": "talos-id"}


def test_a_machine_keeps_what_the_image_says_of_its_hardware() -> None:
    node = run_machines().one(VM, "node01").inputs
    assert node["guestId"] == "other3xLinux64Guest"
    assert node["scsiType"] == "pvscsi"
    assert node["enableDiskUuid"] is True


def test_a_machine_grows_while_it_runs() -> None:
    node = run_machines().one(VM, "node01").inputs
    assert node["cpuHotAddEnabled"] is True
    assert node["memoryHotAddEnabled"] is True


def test_a_small_machine_grows_past_three_gib_while_it_is_off() -> None:
    """Live, vCenter would refuse it half way through an `up`."""
    worker = machine("worker01", "172.16.20.61", "worker", memoryMiB=3072)
    platform = run(settings(machines=production()["machines"] + [worker]))
    assert platform.one(VM, "worker01").inputs["memoryHotAddEnabled"] is False


def test_nobody_waits_for_an_address_that_needs_vmware_tools() -> None:
    assert run_machines().one(VM, "node01").inputs["waitForGuestNetTimeout"] == 0


def test_the_extra_config_holds_the_address_and_nothing_else() -> None:
    node = run_machines().one(VM, "node03").inputs
    assert decoded_guestinfo(node["extraConfig"]) == {
        "instance-id": "node03",
        "local-hostname": "node03",
        "network": {
            "version": 2,
            "ethernets": {
                "eth0": {
                    "match": {"name": "eth0"},
                    "addresses": ["172.16.20.53/24"],
                    "gateway4": "172.16.20.1",
                    "nameservers": {"addresses": ["172.16.20.1"]},
                }
            },
        },
    }
    assert set(node["extraConfig"]) == {"guestinfo.metadata", "guestinfo.metadata.encoding"}
    assert KEY not in str(node)


def test_what_is_read_only_once_never_changes_a_machine_again() -> None:
    request = run_machines().one(VM, "node01").request
    ignored = {"annotation", "clone", "extraConfig", "hostSystemId"}
    assert ignored <= set(request.ignoreChanges)


def test_what_an_import_cannot_know_does_not_make_a_machine_again() -> None:
    ignored = set(run_machines().one(VM, "node01").request.ignoreChanges)
    assert {"disks[0].label", "networkInterfaces[0].ovfMapping"} <= ignored
    # A data disk's place in the list may change: its label is what it is known by.
    assert not any(one.startswith(("disks[1]", "disks[*]")) for one in ignored)


def test_a_rebuilt_machine_waits_until_its_name_is_free() -> None:
    assert run_machines().one(VM, "node01").request.deleteBeforeReplace is True


def disks_of(*data_disks: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Give size and unit of each disk of a machine with these data disks."""
    node = machine("node01", "172.16.20.51", dataDisks=list(data_disks))
    found = run_once(settings(machines=[node])).one(VM, "node01").inputs["disks"]
    return {one["label"]: (one["size"], one["unitNumber"]) for one in found}


def test_a_data_disk_keeps_its_place_whatever_comes_before_it() -> None:
    data, logs = {"name": "data", "sizeGiB": 50}, {"name": "logs", "sizeGiB": 20}
    alone = disks_of(data)
    assert alone == {"system": (100, 0), "data": (50, 10)}
    assert disks_of(logs, data) == alone | {"logs": (20, 5)}
    assert disks_of(data, logs) == disks_of(logs, data)


def test_a_unit_of_the_settings_is_where_the_disk_is() -> None:
    assert disks_of({"name": "data", "sizeGiB": 50, "unit": 1})["data"] == (50, 1)


def test_a_change_that_moves_a_disk_is_refused_before_the_machine_is_touched() -> None:
    def args(**units: int) -> list[dict[str, Any]]:
        return [{"label": label, "unitNumber": unit} for label, unit in units.items()]

    def change(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
        hook = pulumi.ResourceHookArgs(
            urn="urn:pulumi:prod::platform::x::node01", id="id", name="node01", type=VM,
            old_inputs={"disks": before}, new_inputs={"disks": after},
        )  # fmt: skip
        asyncio.run(as_coroutine(disks.stay("node01")(hook)))

    change(args(system=0, data=1), args(system=0, logs=5, data=1))
    change(args(system=0, data=1), args(system=0))
    with pytest.raises(disks.MovedDiskError, match=r"data from unit 1 to 2.*add `unit: 1` to data"):
        change(args(system=0, data=1), args(system=0, logs=1, data=2))


async def as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def test_a_host_of_the_settings_is_where_the_machine_starts() -> None:
    hosts = [
        machine("node01", "172.16.20.51", host="esx01.example.com"),
        machine("node02", "172.16.20.52"),
        machine("node03", "172.16.20.53"),
    ]
    platform = run(settings(machines=hosts))
    assert platform.one(VM, "node01").inputs["hostSystemId"] == "id-of-esx01.example.com"
    assert "hostSystemId" not in platform.one(VM, "node02").inputs


def test_control_planes_must_be_apart_and_workers_should() -> None:
    workers = [machine(f"worker0{n}", f"172.16.20.6{n}", "worker") for n in (1, 2)]
    platform = run(settings(machines=production()["machines"] + workers))
    rules = {one.name: one.inputs for one in platform.all(RULE)}
    assert rules["controlplanes-apart"]["mandatory"] is True
    assert sorted(rules["controlplanes-apart"]["virtualMachineIds"]) == [
        "node01-id",
        "node02-id",
        "node03-id",
    ]
    assert rules["workers-apart"]["mandatory"] is False
    assert sorted(rules["workers-apart"]["virtualMachineIds"]) == ["worker01-id", "worker02-id"]


@pytest.mark.parametrize(
    ("strictness", "mandatory"), [("mandatory", [True]), ("preferred", [False]), ("none", [])]
)
def test_the_settings_say_how_strictly_control_planes_are_kept_apart(
    strictness: str, mandatory: list[bool]
) -> None:
    """With as many hosts as control planes a must keeps any host from maintenance."""
    site = production()["site"] | {"antiAffinity": strictness}
    rules = run_once(settings(site=site)).all(RULE)
    assert [one.inputs["mandatory"] for one in rules] == mandatory


def test_a_gate_sees_the_control_planes_apart_where_a_rule_keeps_them_so() -> None:
    gate = run_machines().one(GATE, "controlplanes-apart-seen")
    assert gate.inputs["machines"] == {f"node0{n}": f"node0{n}-id" for n in (1, 2, 3)}
    site = production()["site"] | {"antiAffinity": "none"}
    gates = {one.name for one in run_once(settings(site=site)).all(GATE)}
    assert "controlplanes-apart-seen" not in gates


def test_the_library_says_that_it_is_not_published() -> None:
    (library,) = run_machines().all("vsphere:index/contentLibrary:ContentLibrary")
    assert library.inputs["publication"] == {"published": False}


def test_names_of_the_site_are_looked_up_in_its_datacenter() -> None:
    calls = dict(run_machines().calls)
    for function in ("ComputeCluster", "Datastore", "Network"):
        token = f"vsphere:index/get{function}:get{function}"
        assert calls[token]["datacenterId"] == "id-of-dc01"


def test_machines_are_in_the_resource_pool_that_the_settings_name() -> None:
    platform = run(with_site(resourcePool="platform"))
    path = "cluster01/Resources/platform"
    assert platform.one(VM, "node01").inputs["resourcePoolId"] == f"id-of-{path}"


def test_each_machine_carries_the_tag_of_its_role() -> None:
    workers = [machine("worker01", "172.16.20.61", "worker")]
    platform = run(settings(machines=production()["machines"] + workers))
    assert platform.one(VM, "node01").inputs["tags"] == ["controlplane-id"]
    assert platform.one(VM, "worker01").inputs["tags"] == ["worker-id"]


def test_a_machine_may_be_in_a_datastore_of_its_own() -> None:
    local = [machine("node01", "172.16.20.51", datastore="esx01-local")]
    platform = run(settings(machines=local))
    assert platform.one(VM, "node01").inputs["datastoreId"] == "id-of-esx01-local"
    (library,) = platform.all(LIBRARY)
    assert library.inputs["storageBackings"] == ["id-of-datastore01"]


def test_machine_and_disks_have_the_storage_policy_of_the_settings() -> None:
    node = run(with_site(storagePolicy="vSAN Encrypted")).one(VM, "node01").inputs
    assert node["storagePolicyId"] == "id-of-vSAN Encrypted"
    assert [one["storagePolicyId"] for one in node["disks"]] == ["id-of-vSAN Encrypted"]
    plain = run_machines().one(VM, "node01").inputs
    assert "storagePolicyId" not in plain
    assert "storagePolicyId" not in plain["disks"][0]


def test_what_exists_without_the_stack_is_used_and_never_made() -> None:
    existing = ["folder", "contentLibrary", "tagCategory"]
    platform = run(with_site(existing=existing, tagCategory="roles", contentLibrary="images"))
    made = {one.type for one in platform.resources}
    assert not made & {FOLDER, LIBRARY, CATEGORY, TAG}
    node = platform.one(VM, "node01").inputs
    assert node["folder"] == "platform-prod"
    assert node["tags"] == ["id-of-controlplane"]
    (item,) = platform.all("vsphere:index/contentLibraryItem:ContentLibraryItem")
    assert item.inputs["libraryId"] == "id-of-images"
    calls = dict(platform.calls)
    assert calls["vsphere:index/getFolder:getFolder"]["path"] == "/dc01/vm/platform-prod"
    assert calls["vsphere:index/getTag:getTag"]["categoryId"] == "id-of-roles"


def test_the_category_of_the_roles_has_the_name_that_the_settings_give() -> None:
    (category,) = run(with_site(tagCategory="roles")).all(CATEGORY)
    assert category.inputs["name"] == "roles"


def with_cards() -> dict[str, Any]:
    cards = [
        {"network": "storage", "address": "192.168.20.51/24", "mtu": 9000},
        {"network": "backup", "address": "192.168.21.51/25"},
    ]
    return settings(machines=[machine("node01", "172.16.20.51", networks=cards)])


def test_further_network_cards_follow_the_first() -> None:
    node = run_once(with_cards()).one(VM, "node01").inputs
    assert [one["networkId"] for one in node["networkInterfaces"]] == [
        "id-of-platform",
        "id-of-storage",
        "id-of-backup",
    ]
    # The image knows one network: the others are added to the machine that is made of it.
    assert [one.get("ovfMapping") for one in node["networkInterfaces"]] == [
        "VM Network",
        None,
        None,
    ]


def test_no_card_asks_for_an_address_before_the_machine_has_a_configuration() -> None:
    """Talos asks by DHCP on a card that it knows nothing of, and takes the route that it gets."""
    node = run_once(with_cards()).one(VM, "node01").inputs
    told: Any = decoded_guestinfo(node["extraConfig"])
    ethernets = told["network"]["ethernets"]
    assert ethernets["eth1"] == {"match": {"name": "eth1"}, "addresses": ["192.168.20.51/24"]}
    assert ethernets["eth2"] == {"match": {"name": "eth2"}, "addresses": ["192.168.21.51/25"]}


def test_a_machine_may_be_called_as_anything_else_of_the_program() -> None:
    """The engine takes each hook's name only once: those of machines end like no other ones."""
    shared = ["image", "images", "folder", "role", "role-worker", "controlplanes-apart", "etcd"]
    gates = ["etcd-members", "controlplanes-apart-seen", "kubernetes-api"]
    machines = [
        machine(name, f"172.16.20.{60 + number}", "worker")
        for number, name in enumerate([*shared, *gates, "node", "node-first", "node-healthy"])
    ]
    platform = run(settings(machines=production()["machines"] + machines))
    assert len(platform.all(VM)) == len(machines) + 3
