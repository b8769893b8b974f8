"""One world, built once: what an operator sees of it, and what changes do to it.

The tests run in this order and leave the platform as the stack file says.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components.talos import growth
from config.versions import KUBERNETES, TALOS
from ops.rehearsal.killing import kill_tree
from ops.rehearsal.procedures import next_patch
from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.probe import Probe
from tests.lab.secret_values import left_behind, secret_values

ADDRESSES = {"node01": "172.16.20.51", "node02": "172.16.20.52", "node03": "172.16.20.53"}
VIP = "172.16.20.250"
NEXT_TALOS = next_patch(TALOS)
NAMES = """
import ssl
from cryptography import x509
text = ssl.get_server_certificate(("172.16.20.51", {port}))
names = x509.load_pem_x509_certificate(text.encode()).extensions
print(names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))
"""
"""Prints for which names a server of node01 has its certificate."""


def test_the_api_answers_through_the_vip_with_the_pinned_version(world: World) -> None:
    config = json.loads(world.run("kubectl", "config", "view", "--output", "json").stdout)
    assert config["clusters"][0]["cluster"]["server"] == f"https://{VIP}:6443"
    version = json.loads(world.run("kubectl", "get", "--raw", "/version").stdout)
    assert version["gitVersion"] == f"v{KUBERNETES}"


def test_etcd_has_three_voting_members(world: World) -> None:
    members = world.run("talosctl", "--nodes", ADDRESSES["node01"], "etcd", "members").stdout
    rows = [line.split() for line in members.splitlines()[1:]]
    assert sorted(row[2] for row in rows) == sorted(ADDRESSES)
    assert {row[-1] for row in rows} == {"false"}, "a member is still a learner"


def test_every_machine_is_a_node_with_its_address(world: World) -> None:
    nodes = json.loads(world.run("kubectl", "get", "nodes", "--output", "json").stdout)["items"]
    found = {
        node["metadata"]["name"]: address["address"]
        for node in nodes
        for address in node["status"]["addresses"]
        if address["type"] == "InternalIP"
    }
    assert found == ADDRESSES


def test_talosctl_health_passes(world: World) -> None:
    # The nodes cannot be ready before a CNI runs; every check before that must pass.
    process = world.start_command(
        "talosctl", "--nodes", ADDRESSES["node01"], "health", "--server=false", "--wait-timeout=5m"
    )
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if line.startswith("waiting for all control plane static pods to be running: OK"):
            break
    kill_tree(process.pid)
    process.communicate()
    assert "waiting for etcd members to be control plane nodes: OK" in said
    assert "waiting for all control plane static pods to be running: OK" in said


def test_a_second_preview_changes_nothing(world: World) -> None:
    world.expect_no_changes()


def test_more_memory_for_one_machine_shows_exactly_that_machine(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(
        "{ name: node02, address: 172.16.20.52, role: controlplane, cpus: 4, memoryMiB: 16384",
        "{ name: node02, address: 172.16.20.52, role: controlplane, cpus: 4, memoryMiB: 20480",
    )
    # Its VM, and the gate that the next machine waits behind.
    assert {name: step["op"] for name, step in world.preview().items()} == {
        "VirtualMachine node02": "update",
        "Gate node02-healthy": "update",
    }


def test_memory_grows_in_place_without_a_reboot(
    world: World, edit: Callable[[str, str], None]
) -> None:
    before = world.boot_ids(ADDRESSES)
    edit(
        "{ name: node02, address: 172.16.20.52, role: controlplane, cpus: 4, memoryMiB: 16384",
        "{ name: node02, address: 172.16.20.52, role: controlplane, cpus: 4, memoryMiB: 20480",
    )
    world.up()
    assert world.boot_ids(ADDRESSES) == before
    assert memory_of(world, "node02") == 20480
    capacity = "jsonpath={.status.capacity.memory}"
    said = world.run("kubectl", "get", "node", "node02", "-o", capacity).stdout
    assert growth.quantity(said) == 20480 * growth.MEBIBYTE  # its kubelet has seen it, too


def test_the_smaller_size_comes_back_one_machine_at_a_time(world: World) -> None:
    world.up()
    assert memory_of(world, "node02") == 16384
    world.expect_no_changes()


def memory_of(world: World, name: str) -> int:
    found = json.loads(world.run("govc", "vm.info", "-json", name).stdout)
    memory: int = found["virtualMachines"][0]["config"]["hardware"]["memoryMB"]
    return memory


def test_a_change_behind_the_programs_back_shows_in_a_refresh_and_is_fixed(world: World) -> None:
    world.run("govc", "vm.change", "-vm", "node03", "-c", "8")
    shown = world.run("pulumi", "refresh", "--preview-only", "--non-interactive", "--diff").stdout
    assert re.search(r"numCpus\s*: 4 => 8", shown), shown
    world.run("pulumi", "refresh", "--yes", "--skip-preview", "--non-interactive")
    world.up()
    world.expect_no_changes()


def test_no_secret_is_in_plain_text_anywhere(world: World) -> None:
    said = {
        "state": world.run("pulumi", "stack", "export").stdout,
        "preview": world.run("pulumi", "preview", "--diff", "--non-interactive").stdout,
        "preview as JSON": world.run("pulumi", "preview", "--json", "--non-interactive").stdout,
        "extraConfig": world.run("govc", "vm.info", "-e", "-json", "*").stdout,
    }
    assert left_behind(world, secret_values(world), **said) == []


def test_the_api_survives_the_loss_of_the_machine_that_holds_the_vip(world: World) -> None:
    holder = next(machine["name"] for machine in world.machines() if machine["vip"] == VIP)
    world.run("govc", "vm.power", "-off", holder)
    try:
        # Talos' election gives the VIP free when the holder's session has expired: a minute.
        wait_until("the API answers through the VIP", lambda: api_answers(world))
        assert all(m["vip"] != VIP for m in world.machines() if m["name"] == holder)
    finally:
        world.run("govc", "vm.power", "-on", holder)
    wait_until(
        "all machines are healthy again",
        lambda: all(m["stage"] == "running" and m["etcd"] == "Running" for m in world.machines()),
    )


def api_answers(world: World) -> bool:
    command = ("kubectl", "--request-timeout=2s", "get", "--raw", "/readyz")
    return world.run(*command, code=None).returncode == 0


def test_a_machine_that_was_lost_is_rebuilt_and_configured_again(world: World) -> None:
    before = world.boot_ids(ADDRESSES)
    world.run("govc", "vm.destroy", "node02")
    wait_until("the API answers through the VIP", lambda: api_answers(world))
    world.run("pulumi", "refresh", "--yes", "--skip-preview", "--non-interactive")
    changed = world.preview()
    assert changed, "the loss went unseen"
    assert all("node02" in name or "controlplanes-apart" in name for name in changed), changed
    world.up()
    world.expect_no_changes()
    after = world.boot_ids(ADDRESSES)
    assert after["node02"] != before["node02"]
    assert {name: after[name] for name in ("node01", "node03")} == {
        name: before[name] for name in ("node01", "node03")
    }
    members = world.run("talosctl", "--nodes", ADDRESSES["node01"], "etcd", "members").stdout
    assert len(members.splitlines()) == 1 + 3


def test_a_live_change_restarts_nothing(world: World, edit: Callable[[str, str], None]) -> None:
    before, processes = world.boot_ids(ADDRESSES), control_plane_processes(world)
    edit(
        "{ name: node01, address: 172.16.20.51, role: controlplane,",
        "{ name: node01, address: 172.16.20.51, role: controlplane, labels: { rack: r1 },",
    )
    world.up()
    label = "{.metadata.labels.rack}"
    wait_until(
        "the node has its label",
        lambda: (
            world.run("kubectl", "get", "node", "node01", "-o", f"jsonpath={label}").stdout == "r1"
        ),
    )
    assert world.boot_ids(ADDRESSES) == before
    assert control_plane_processes(world) == processes
    world.expect_no_changes()


TAINT = "{ key: example.com/busy, effect: PreferNoSchedule }"
MIRROR = "{ registry: docker.io, endpoints: [https://mirror.example.com] }"
LIVE = {
    "a label": (
        ("role: controlplane, cpus", "role: controlplane, labels: { shelf: s7 }, cpus"),
        ("kubectl", "get", "node", "node01", "-o", "jsonpath={.metadata.labels.shelf}"),
        "s7",
    ),
    "a taint": (
        ("role: controlplane, cpus", f"role: controlplane, taints: [{TAINT}], cpus"),
        ("kubectl", "get", "node", "node01", "-o", "jsonpath={.spec.taints}"),
        '"key":"example.com/busy"',
    ),
    "a mirror of a registry": (
        ("    patches: clusters/prod\n", f"    patches: clusters/prod\n    mirrors: [{MIRROR}]\n"),
        ("talosctl", "-n", "172.16.20.51", "read", "/etc/cri/conf.d/hosts/docker.io/hosts.toml"),
        "https://mirror.example.com",
    ),
}
"""Changes of the settings, with a command that shows each, and what that says then."""
LIVE_PATCHES = {
    "a sysctl": (
        {"machine": {"sysctls": {"vm.max_map_count": "262144"}}},
        ("talosctl", "-n", "172.16.20.51", "read", "/proc/sys/vm/max_map_count"),
        "262144",
    ),
    "a name of Talos' certificate": (
        {"machine": {"certSANs": ["talos.example.com"]}},
        ("python", "-c", NAMES.format(port=50000)),
        "talos.example.com",
    ),
    "a name of the API server's certificate": (
        {"cluster": {"apiServer": {"certSANs": ["api.example.com"]}}},
        ("python", "-c", NAMES.format(port=6443)),
        "api.example.com",
    ),
}
"""Changes of Talos patches, in the same way."""


@pytest.mark.parametrize("what", [*LIVE, *LIVE_PATCHES])
def test_a_machine_that_takes_a_change_live_stays_up(
    world: World, edit: Callable[[str, str], None], what: str
) -> None:
    before, since = world.boot_ids(ADDRESSES), time.monotonic()
    if what in LIVE:
        change, command, wanted = LIVE[what]
        edit(*change)
    else:
        patch, command, wanted = LIVE_PATCHES[what]
        patches = world.state / f"patches-{list(LIVE_PATCHES).index(what)}"
        shutil.copytree(PROJECT / "clusters" / "prod", patches)
        (patches / "node01.yaml").write_text(yaml.safe_dump(patch))
        edit("patches: clusters/prod", f"patches: {patches.relative_to(PROJECT)}")
    assert wanted not in world.run(*command, code=None).stdout
    world.up()
    wait_until(f"{what} is there", lambda: wanted in world.run(*command, code=None).stdout)
    for name in ADDRESSES:
        taken = time.monotonic() - since
        assert uptime(world, name) > taken, f"{name} has booted since"
    assert world.boot_ids(ADDRESSES) == before
    world.expect_no_changes()


def uptime(world: World, name: str) -> float:
    """Give the seconds since a machine's boot, as its kernel counts them."""
    command = ("talosctl", "--nodes", ADDRESSES[name], "read", "/proc/uptime")
    return float(world.run(*command).stdout.split()[0])


def control_plane_processes(world: World) -> dict[str, list[int]]:
    return {
        machine["name"]: sorted(process["pid"] for process in machine["processes"])
        for machine in world.machines()
    }


def test_a_change_that_needs_a_reboot_runs_in_order_and_the_quorum_holds(
    world: World, edit: Callable[[str, str], None]
) -> None:
    before = world.boot_ids(ADDRESSES)
    patches = world.state / "patches"
    shutil.copytree(PROJECT / "clusters" / "prod", patches)
    common = yaml.safe_load((patches / "common.yaml").read_text())
    common["machine"]["udev"] = {"rules": ['SUBSYSTEM=="drm", MODE="0666"']}
    (patches / "common.yaml").write_text(yaml.safe_dump(common))
    edit("patches: clusters/prod", f"patches: {patches.relative_to(PROJECT)}")
    with Probe(world) as probe:
        world.up()
    after = world.boot_ids(ADDRESSES)
    print(probe.summary())
    assert all(after[name] != before[name] for name in ADDRESSES), "a machine did not reboot"
    assert probe.order_of_reboots() == ["node01", "node02", "node03"]
    assert probe.fewest_members() >= 2, probe.summary()
    world.expect_no_changes()


def test_a_machine_whose_new_talos_does_not_start_stops_the_chain_at_itself(
    world: World, edit: Callable[[str, str], None]
) -> None:
    before = world.boot_ids(ADDRESSES)
    edit(f"version: {TALOS}", f"version: {NEXT_TALOS}")
    dead = does_not_start(world, f"v{NEXT_TALOS}")
    result = world.up(code=None)
    dead.unlink()
    assert result.returncode != 0
    said = result.stdout + result.stderr
    assert f"node01 (172.16.20.51): came back with Talos v{TALOS}" in said, said
    assert "No other machine is touched" in said
    after = world.boot_ids(ADDRESSES)
    assert after["node01"] != before["node01"]
    assert {name: after[name] for name in ("node02", "node03")} == {
        name: before[name] for name in ("node02", "node03")
    }
    assert versions(world) == dict.fromkeys(ADDRESSES, f"v{TALOS}")
    assert cordoned(world) == []


@pytest.mark.campaign
def test_another_talos_reaches_every_machine_in_order_with_one_reboot_each(
    world: World, edit: Callable[[str, str], None]
) -> None:
    """The last one failed at its first machine; with it comes a change that needs a reboot."""
    patches = world.state / "patches-of-the-upgrade"
    shutil.copytree(PROJECT / "clusters" / "prod", patches)
    common = yaml.safe_load((patches / "common.yaml").read_text())
    common["machine"]["udev"] = {"rules": ['SUBSYSTEM=="drm", MODE="0600"']}
    (patches / "common.yaml").write_text(yaml.safe_dump(common))
    edit("patches: clusters/prod", f"patches: {patches.relative_to(PROJECT)}")
    edit(f"version: {TALOS}", f"version: {NEXT_TALOS}")
    with Probe(world) as probe:
        world.up()
    print(probe.summary())
    assert probe.order_of_reboots() == ["node01", "node02", "node03"], probe.summary()
    assert probe.fewest_members() >= 2, probe.summary()
    assert versions(world) == dict.fromkeys(ADDRESSES, f"v{NEXT_TALOS}")
    assert cordoned(world) == []
    nodes = json.loads(world.run("kubectl", "get", "nodes", "--output", "json").stdout)["items"]
    assert {one["status"]["nodeInfo"]["osImage"] for one in nodes} == {f"Talos (v{NEXT_TALOS})"}
    snapshot = f"etcd-before-talos-v{NEXT_TALOS}.snapshot"
    kept = world.run("sh", "-c", 'stat -c "%a %n" "$PULUMI_HOME"/platform-snapshots/*').stdout
    assert kept.startswith("600 ")
    assert kept.strip().endswith(snapshot)
    world.expect_no_changes()


def does_not_start(world: World, image: str) -> Path:
    """Let no machine start an image, by its version; gives the file that says so."""
    file = world.state / "machines" / "does-not-start" / image
    file.touch()
    return file


def versions(world: World) -> dict[str, str]:
    return {machine["name"]: machine["talosVersion"] for machine in world.machines()}


def cordoned(world: World) -> list[str]:
    nodes = json.loads(world.run("kubectl", "get", "nodes", "--output", "json").stdout)["items"]
    return [one["metadata"]["name"] for one in nodes if one["spec"].get("unschedulable")]


def test_destroy_and_up_give_the_same_cluster_authority(world: World) -> None:
    before = authority(world)
    world.destroy()
    assert world.machines() == []
    world.up()
    assert authority(world) == before
    # The old kubeconfig still opens the new cluster.
    world.run("kubectl", "get", "--raw", "/version")
    world.expect_no_changes()


def authority(world: World) -> str:
    text = world.run("pulumi", "stack", "output", "--show-secrets", "kubeconfig").stdout
    cluster: dict[str, str] = yaml.safe_load(text)["clusters"][0]["cluster"]
    return cluster["certificate-authority-data"]
