"""The simulated machines answer Talos' own client as machines do: every call that operators need.

The tests run in this order in one world; the last ones take the cluster apart and restore it.
"""

from __future__ import annotations

import json

import yaml

from rehearsal.world import Result, World, wait_until

NODE01, NODE02, NODE03 = "172.16.20.51", "172.16.20.52", "172.16.20.53"
ALL = (NODE01, NODE02, NODE03)


def talosctl(world: World, node: str, *argv: str, code: int | None = 0) -> Result:
    return world.run("talosctl", "--nodes", node, "--endpoints", node, *argv, code=code)


def machine_status(world: World, node: str) -> dict[str, str]:
    text = talosctl(world, node, "get", "machinestatus", "-o", "json", code=None).stdout
    if not text:
        return {}
    spec: dict[str, str] = json.loads(text)["spec"]
    return spec


def running(world: World, *nodes: str) -> bool:
    return all(
        machine_status(world, node).get("stage") == "running"
        and "STATE    Running" in talosctl(world, node, "service", "etcd", code=None).stdout
        for node in nodes
    )


def boot_id(world: World, node: str) -> str:
    result = talosctl(world, node, "read", "/proc/sys/kernel/random/boot_id", code=None)
    return result.stdout.strip()


def test_version_names_the_pinned_talos(world: World) -> None:
    assert "Tag:         v1.13.9" in talosctl(world, NODE01, "version").stdout


def test_the_machine_api_refuses_a_caller_without_a_certificate(world: World) -> None:
    result = talosctl(world, NODE01, "version", "--insecure", code=None)
    assert result.returncode != 0


def test_service_shows_etcd_and_its_events(world: World) -> None:
    shown = talosctl(world, NODE01, "service", "etcd").stdout
    assert "STATE    Running" in shown
    assert "HEALTH   OK" in shown


def test_an_invalid_configuration_is_refused_with_talos_own_message(world: World) -> None:
    config = talosctl(world, NODE01, "get", "machineconfig", "-o", "jsonpath={.spec}").stdout
    documents = list(yaml.safe_load_all(config))
    documents[0]["machine"]["install"]["disk"] = ""
    documents[0]["cluster"]["network"]["dnsDomain"] = "not a domain"
    documents[0]["machine"]["type"] = "pet"
    path = world.state / "bad.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    result = talosctl(world, NODE01, "apply-config", "--file", str(path), code=None)
    path.unlink()
    assert result.returncode != 0
    assert "pet" in result.stderr


def test_a_dry_run_says_whether_a_reboot_comes_and_changes_nothing(world: World) -> None:
    before = boot_id(world, NODE01)
    patch = "machine: {udev: {rules: [none]}}"
    shown = talosctl(world, NODE01, "patch", "machineconfig", "--dry-run", "--patch", patch)
    assert "with a reboot" in shown.stdout + shown.stderr
    assert boot_id(world, NODE01) == before


def test_kubeconfig_opens_the_api(world: World) -> None:
    path = world.state / "from-talos"
    talosctl(world, NODE01, "kubeconfig", "--merge=false", str(path))
    shown = world.run("kubectl", "--kubeconfig", str(path), "get", "--raw", "/readyz").stdout
    path.unlink()
    assert shown == "ok"


def test_a_reboot_keeps_the_machines_state(world: World) -> None:
    before = boot_id(world, NODE03)
    talosctl(world, NODE03, "reboot", "--wait=false")
    wait_until("node03 goes", lambda: boot_id(world, NODE03) not in ("", before), 60)
    wait_until("node03 is back", lambda: running(world, NODE03), 90)
    assert len(members(world)) == 3


def members(world: World) -> list[str]:
    rows = talosctl(world, NODE01, "etcd", "members").stdout.splitlines()[1:]
    return sorted(row.split()[2] for row in rows)


def test_an_upgrade_changes_the_version_after_a_reboot(world: World) -> None:
    image = "factory.talos.dev/vmware-installer/" + "0" * 64 + ":v1.13.8"
    # It waits for a ready node, which none is before a CNI runs.
    talosctl(
        world, NODE03, "upgrade", "--image", image, "--drain=false", "--timeout=15s", code=None
    )
    wait_until(
        "node03 runs the other version",
        lambda: "v1.13.8" in talosctl(world, NODE03, "version", code=None).stdout,
        90,
    )
    wait_until("node03 is back", lambda: running(world, NODE03), 90)


def test_a_reset_machine_leaves_etcd_and_waits_for_a_configuration(world: World) -> None:
    talosctl(world, NODE03, "reset", "--graceful", "--reboot", "--wait=false")
    wait_until(
        "node03 is in maintenance mode",
        lambda: (
            world.run(
                "talosctl", "--nodes", NODE03, "--endpoints", NODE03, "version", "--insecure",
                code=None,
            ).returncode
            == 0
        ),
        90,
    )  # fmt: skip
    assert members(world) == ["node01", "node02"]


def test_a_cluster_comes_back_from_a_snapshot(world: World) -> None:
    world.run("kubectl", "create", "namespace", "before-the-fire")
    snapshot = world.state / "etcd.snapshot"
    talosctl(world, NODE01, "etcd", "snapshot", str(snapshot))
    world.run("kubectl", "create", "namespace", "after-the-snapshot")
    for node in (NODE01, NODE02):
        talosctl(
            world, node, "reset", "--graceful=false", "--reboot", "--wait=false",
            "--system-labels-to-wipe=EPHEMERAL",
        )  # fmt: skip
    wait_until(
        "etcd waits for a bootstrap on both",
        lambda: all(
            "STATE    Preparing" in talosctl(world, node, "service", "etcd", code=None).stdout
            for node in (NODE01, NODE02)
        ),
        120,
    )
    talosctl(world, NODE01, "bootstrap", "--recover-from", str(snapshot))
    snapshot.unlink()
    wait_until(
        "the API is back",
        # The snapshot holds the VIP's old election, which has to expire first: a minute.
        lambda: world.run("kubectl", "get", "--raw", "/readyz", code=None).returncode == 0,
        150,
    )
    world.run("kubectl", "get", "namespace", "before-the-fire")
    gone = world.run("kubectl", "get", "namespace", "after-the-snapshot", code=1)
    assert "NotFound" in gone.stderr
    wait_until("both members are back", lambda: members(world) == ["node01", "node02"], 90)
