"""The simulated machines answer Talos' own client as machines do: every call that operators need.

The tests run in this order in one world; the last ones take the cluster apart and restore it.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from config.versions import TALOS
from ops.rehearsal.procedures import next_patch
from ops.rehearsal.world import Result, World, wait_until

NODE01, NODE02, NODE03 = "172.16.20.51", "172.16.20.52", "172.16.20.53"
ALL = (NODE01, NODE02, NODE03)
OTHER_TALOS = next_patch(TALOS)


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
    assert f"Tag:         v{TALOS}" in talosctl(world, NODE01, "version").stdout


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


def test_credentials_one_week_from_their_end_are_renewed_by_up_and_no_machine_is_touched(
    world: World,
) -> None:
    world.expect_no_changes()
    aged = world.state / "aged.json"
    aged.touch(mode=0o600)
    ends = age(world.state_with_secrets(), dt.timedelta(days=7), aged)
    world.run("pulumi", "stack", "import", "--file", str(aged))
    aged.unlink()
    boots = {node: boot_id(world, node) for node in ALL}
    # The preview shows it before it is done, and makes or removes nothing.
    assert {step["op"] for step in world.preview().values()} == {"update"}
    world.up()
    told = json.loads(world.run("pulumi", "stack", "output", "--json", "expires").stdout)
    now = dt.datetime.now(dt.UTC)
    assert ends < now + dt.timedelta(days=8)
    for name in ("talosconfig", "kubeconfig"):
        assert dt.datetime.fromisoformat(told[name]) > now + dt.timedelta(days=300)
    world.write_credentials()
    assert {node: boot_id(world, node) for node in ALL} == boots
    assert world.run("kubectl", "get", "nodes").stdout.count(" control-plane ") == 3
    world.expect_no_changes()


def age(state: dict[str, Any], left: dt.timedelta, target: Path) -> dt.datetime:
    """Write a state whose two client certificates end soon, signed by the cluster's authorities."""
    resources = state["deployment"]["resources"]
    secrets = revealed(one_of(resources, "talos:machine/secrets:Secrets"))
    access = revealed(one_of(resources, "talos:cluster/kubeconfig:Kubeconfig"))
    authorities = secrets["machineSecrets"]["certs"]
    text = json.dumps(state)
    ends = dt.datetime.now(dt.UTC).replace(microsecond=0) + left
    for old, authority in (
        (secrets["clientConfiguration"]["clientCertificate"], authorities["os"]),
        (access["kubernetesClientConfiguration"]["clientCertificate"], authorities["k8s"]),
    ):
        new = signed_again(old, authority["cert"], authority["key"], ends)
        assert old in text
        text = text.replace(old, new)
    target.write_text(text)
    return ends


def one_of(resources: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (one["outputs"] for one in resources if one["type"] == kind)
    outputs: dict[str, Any] = found
    return outputs


def revealed(value: Any) -> Any:
    """Take the marks of secrets out of a state that shows them."""
    if isinstance(value, dict):
        if "plaintext" in value:
            return revealed(json.loads(value["plaintext"]))
        return {key: revealed(one) for key, one in value.items()}
    return [revealed(one) for one in value] if isinstance(value, list) else value


def signed_again(old: str, authority: str, key: str, ends: dt.datetime) -> str:
    """Sign a certificate once more, for the same key, with another end; all are base64 of PEM."""
    before = x509.load_pem_x509_certificate(base64.b64decode(old))
    by = x509.load_pem_x509_certificate(base64.b64decode(authority))
    # Talos names the kind of key in the label, which others read from what is inside.
    pem = base64.b64decode(key).replace(b"ED25519 PRIVATE KEY", b"PRIVATE KEY")
    private: Any = serialization.load_pem_private_key(pem, None)
    made = (
        x509.CertificateBuilder()
        .subject_name(before.subject)
        .issuer_name(by.subject)
        .public_key(before.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - dt.timedelta(days=365))
        .not_valid_after(ends)
    )
    for one in before.extensions:
        made = made.add_extension(one.value, one.critical)
    algorithm = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = made.sign(private, algorithm)
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.PEM)).decode()


def test_a_reboot_keeps_the_machines_state(world: World) -> None:
    before = boot_id(world, NODE03)
    talosctl(world, NODE03, "reboot", "--wait=false")
    wait_until("node03 goes", lambda: boot_id(world, NODE03) not in ("", before))
    wait_until("node03 is back", lambda: running(world, NODE03))
    assert len(members(world)) == 3


def members(world: World) -> list[str]:
    rows = talosctl(world, NODE01, "etcd", "members").stdout.splitlines()[1:]
    return sorted(row.split()[2] for row in rows)


def installer(world: World, version: str) -> str:
    """Name the installer of the machines' schematic in another version."""
    shown = world.run("python", "-m", "ops", "show", "Pulumi.prod.yaml", "--json").stdout
    image: str = json.loads(shown)["derived"]["installerImage"]
    return f"{image.rpartition(':')[0]}:{version}"


def test_an_installer_that_the_factory_does_not_make_is_refused(world: World) -> None:
    unknown = f"factory.talos.dev/vmware-installer/{'0' * 64}:v{TALOS}"
    for image in (unknown, installer(world, f"v{TALOS}9")):
        refused = talosctl(world, NODE03, "image", "pull", image, "--namespace=system", code=1)
        assert f'failed to pull image "{image}"' in refused.stderr
        assert "not found" in refused.stderr
        assert talosctl(world, NODE03, "upgrade", "--image", image, code=1).returncode == 1


def test_an_upgrade_changes_the_version_after_a_reboot(world: World) -> None:
    image = installer(world, f"v{OTHER_TALOS}")
    # It waits for a ready node, which none is before a CNI runs.
    talosctl(
        world, NODE03, "upgrade", "--image", image, "--drain=false", "--timeout=15s", code=None
    )
    wait_until(
        "node03 runs the other version",
        lambda: f"v{OTHER_TALOS}" in talosctl(world, NODE03, "version", code=None).stdout,
    )
    wait_until("node03 is back", lambda: running(world, NODE03))


def test_a_rollback_starts_what_ran_before(world: World) -> None:
    talosctl(world, NODE03, "rollback")
    wait_until(
        "node03 runs the old version",
        lambda: f"v{TALOS}" in talosctl(world, NODE03, "version", code=None).stdout,
    )
    wait_until("node03 is back", lambda: running(world, NODE03))


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
    )
    talosctl(world, NODE01, "bootstrap", "--recover-from", str(snapshot))
    snapshot.unlink()
    wait_until(
        "the API is back",
        # The snapshot holds the VIP's old election, which has to expire first: a minute.
        lambda: world.run("kubectl", "get", "--raw", "/readyz", code=None).returncode == 0,
    )
    world.run("kubectl", "get", "namespace", "before-the-fire")
    gone = world.run("kubectl", "get", "namespace", "after-the-snapshot", code=1)
    assert "NotFound" in gone.stderr
    wait_until("both members are back", lambda: members(world) == ["node01", "node02"])
