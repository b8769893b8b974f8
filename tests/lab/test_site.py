"""A site with fewer hosts than machines, objects of its own, and a second network.

The tests run in this order in one world.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ops.rehearsal.world import World
from tests.lab.conftest import editing

pytestmark = pytest.mark.campaign  # DRS gets two minutes to move machines apart

PLACE = """    contentLibrary: platform-prod
    tagCategory: roles
    existing: [folder, contentLibrary, tagCategory]
    storagePolicy: gold
    antiAffinity: preferred
"""
STORAGE = "192.168.20.5{}"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], stack_file: Path) -> World:
    text = stack_file.read_text().replace("    contentLibrary: platform-prod\n", PLACE)
    document = yaml.safe_load(text)
    for number, machine in enumerate(document["config"]["platform:machines"], 1):
        address = STORAGE.format(number) + "/24"
        machine["networks"] = [{"network": "storage", "address": address}]
    document["config"]["platform:machines"][0]["datastore"] = "esx01-local"
    stack_file.write_text(yaml.safe_dump(document, sort_keys=False))
    return make_world("--hosts", "2")


def inventory(world: World, *query: str) -> str:
    return world.run("govc", *query).stdout


def test_two_control_planes_on_one_host_are_told_by_up(world: World) -> None:
    said = world.up().stdout
    world.write_credentials()
    assert "run on one host" in said
    assert "when it fails, etcd loses its quorum" in said
    assert not world.preview()


def test_what_exists_is_used_and_each_machine_is_where_the_settings_say(world: World) -> None:
    made = {one["type"] for one in world.state_with_secrets()["deployment"]["resources"]}
    mine = ("folder:Folder", "contentLibrary:ContentLibrary", "tagCategory:TagCategory", "tag:Tag")
    assert not {one for one in made if one.endswith(mine)}
    machines = json.loads(inventory(world, "vm.info", "-json", "node01", "node02"))
    where = [
        one["config"]["files"]["vmPathName"].partition("]")[0][1:]
        for one in machines["virtualMachines"]
    ]
    assert where == ["esx01-local", "datastore01"]
    assert "node01" in inventory(world, "ls", "/dc01/vm/platform-prod")
    assert inventory(world, "tags.attached.ls", "controlplane").count("VirtualMachine:") == 3


def test_each_machine_has_an_address_in_the_second_network(world: World) -> None:
    addresses = world.run("talosctl", "-n", "172.16.20.51", "get", "addresses").stdout
    assert f"eth1/{STORAGE.format(1)}/24" in addresses
    # What runs in the cluster knows the first network alone.
    nodes = world.run("kubectl", "get", "nodes", "-o", "json").stdout
    assert STORAGE.format(1) not in nodes


def test_a_refresh_finds_all_as_it_was_made(world: World) -> None:
    said = world.run("pulumi", "refresh", "--preview-only", "--non-interactive").stdout
    assert "changes" not in said.partition("Resources:")[2]


def test_a_must_that_no_host_can_obey_is_told_and_undone(world: World) -> None:
    with editing(world) as edit:
        edit("antiAffinity: preferred", "antiAffinity: mandatory")
        world.up()
        edit("memoryMiB: 16384", "memoryMiB: 12288")  # node01 is off for this
        said = world.up(code=1).stdout
        assert "No host is compatible with the virtual machine." in said
        assert 'platform:site.cluster = "cluster01": none of its hosts can take' in said
        edit("antiAffinity: mandatory", "antiAffinity: preferred")
        world.up("--target", "**::controlplanes-apart")
        world.up()
        assert not world.preview()
