"""What a site has of its own: an authority, a proxy, storage behind both, and Git over SSH."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from ops.rehearsal.world import Result, World
from tests.lab.conftest import WORLDS, changed

STORAGE = "s3.corp.net:9000"
PROXY = "proxy.corp.net:3128"
NAMESPACE = ("--namespace", "platform-backup")
REPOSITORY = "ssh://git@git.corp.net:2222/team/platform.git"


def authority() -> tuple[str, str]:
    """Make the company's authority: its certificate, and the key of which no setting knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company CA of the test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def host_key() -> tuple[str, str]:
    """Make a key of an SSH server: its public half as the settings have it, and the private one."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return public.decode(), private.decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out what the site has: the private halves, for the lab's servers."""
    folder = tmp_path_factory.mktemp("site")
    certificate, key = authority()
    (folder / "authority.pem").write_text(certificate + key)
    (folder / "authority.crt").write_text(certificate)
    public, private = host_key()
    (folder / "ssh-host-key").write_text(private)
    (folder / "ssh-host-key.pub").write_text(public)
    return folder


@pytest.fixture(scope="module")
def world(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Build one machine with backups, whose storage is the company's and behind its proxy."""

    def change(sections: dict[str, Any]) -> None:
        del sections["machines"][1:]
        sections["site"]["trustedRoots"] = (site / "authority.crt").read_text()
        sections["network"]["proxy"] = {"url": f"http://{PROXY}"}
        services = sections["services"]
        for name in [name for name in services if name not in {"cilium", "backup"}]:
            del services[name]
        services["backup"]["endpoint"] = f"https://{STORAGE}"

    stack_file = changed(tmp_path_factory.mktemp("stack") / "Pulumi.prod.yaml", change)
    world = World(WORLDS / "way-out", stack_file, "--site", str(site)).start()
    world.up()
    world.write_credentials()
    yield world
    world.stop()


def test_a_backup_goes_by_the_proxy_to_storage_that_the_companys_authority_signed(
    world: World,
) -> None:
    world.run("kubectl", "create", "job", *NAMESPACE, "--from=cronjob/etcd-backup", "now")
    done = ("--for=condition=complete", "job/now", "--timeout=300s")
    world.run("kubectl", "wait", *NAMESPACE, *done)
    asked = (world.state / "proxy.log").read_text().splitlines()
    assert f"CONNECT {STORAGE}" in asked
    assert not [one for one in asked if "talos" in one or "10.96." in one]


def test_a_job_that_does_not_read_the_companys_authority_reaches_no_storage(world: World) -> None:
    job = json.loads(
        world.run(
            *("kubectl", "create", "job", *NAMESPACE, "--from=cronjob/etcd-backup", "blind"),
            *("--dry-run=client", "--output", "json"),
        ).stdout
    )
    job["spec"]["backoffLimit"] = 0
    pod = job["spec"]["template"]["spec"]
    pod["restartPolicy"] = "Never"
    pod["containers"][0]["env"] = [
        one for one in pod["containers"][0]["env"] if one["name"] != "SSL_CERT_DIR"
    ]
    world.run("bash", "-c", f"kubectl apply -f - <<< {shlex.quote(json.dumps(job))}")
    world.run(
        "kubectl", "wait", *NAMESPACE, "--for=condition=failed", "job/blind", "--timeout=300s"
    )
    pods = json.loads(
        world.run("kubectl", "get", "pods", *NAMESPACE, "-l", "job-name=blind", "-o", "json").stdout
    )
    ended = pods["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert "certificate signed by unknown authority" in ended["message"]


def test_the_machines_know_proxy_and_authority(world: World) -> None:
    world.write_credentials()
    said = world.run("talosctl", "-n", "172.16.20.51", "get", "machineconfig", "-o", "yaml").stdout
    assert "kind: EnvironmentConfig" in said
    assert "kind: TrustedRootsConfig" in said


# --- Git over SSH ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def git_world(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start a world whose repository is read over SSH; nothing is built in it."""

    def change(sections: dict[str, Any]) -> None:
        known = (site / "ssh-host-key.pub").read_text()
        sections["services"]["argocd"] |= {
            "repositoryUrl": REPOSITORY,
            "repositoryAccess": {"kind": "deployKey", "hostKeys": [known]},
        }

    stack_file = changed(tmp_path_factory.mktemp("git") / "Pulumi.prod.yaml", change)
    world = World(WORLDS / "way-out-git", stack_file, "--site", str(site)).start()
    yield world
    world.stop()


def ls_remote(world: World, known_host: str) -> Result:
    """Ask the repository as Argo CD does: the deploy key of the stack, and known hosts alone."""
    folder = world.state / "ssh"
    folder.mkdir(exist_ok=True)
    (folder / "known_hosts").write_text(known_host)
    ssh = (
        f"ssh -F none -i {folder}/key -o IdentitiesOnly=yes -o BatchMode=yes "
        f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={folder}/known_hosts"
    )
    script = (
        f"umask 077; pulumi config get platform:argocdRepositoryKey > {folder}/key && "
        f"GIT_SSH_COMMAND={shlex.quote(ssh)} git ls-remote {REPOSITORY}"
    )
    return world.run("bash", "-c", script, code=None)


def test_argo_cds_secret_and_known_hosts_read_the_repository_over_ssh(
    git_world: World, site: Path
) -> None:
    known = f"[git.corp.net]:2222 {(site / 'ssh-host-key.pub').read_text()}\n"
    done = ls_remote(git_world, known)
    assert "refs/heads/main" in done.stdout, done.stderr


def test_a_server_with_another_host_key_is_refused(git_world: World) -> None:
    done = ls_remote(git_world, f"[git.corp.net]:2222 {host_key()[0]}\n")
    assert done.returncode != 0
    assert "Host key verification failed" in done.stderr
