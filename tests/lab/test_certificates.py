"""With `LAB_PROGRAMS=real` cert-manager gets certificates from an ACME server, by DNS-01."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.conftest import editing

pytestmark = pytest.mark.campaign

WITH_SERVICES = True
SERVICES = """\
  platform:services:
    cilium: {}
    certManager:
      issuer: letsencrypt-production
      domain: platform.example.com
      email: platform@example.com
      dns: { provider: cloudflare }
    traefik:
      address: 172.16.20.100
    metallb:
      interface: eth0
      spareAddresses: 10
"""
CHALLENGE = "_acme-challenge.platform.example.com"

# The ACME server whose certificates live for three minutes is the lab's own.
SHORT_LIVED = """\
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: { name: short-lived }
spec:
  acme:
    server: https://short-lived.acme.example.net/directory
    privateKeySecretRef: { name: short-lived-account }
    solvers:
      - dns01: { cloudflare: { apiTokenSecretRef: { name: dns-token, key: token } } }
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: { name: short, namespace: default }
spec:
  secretName: short
  dnsNames: [short.platform.example.com]
  issuerRef: { kind: ClusterIssuer, name: short-lived }
"""


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the production stack file with the services that these tests look at."""
    target = tmp_path_factory.mktemp("certificates") / "Pulumi.prod.yaml"
    text, services, _ = (PROJECT / "Pulumi.prod.yaml").read_text().partition("  platform:services:")
    assert services
    target.write_text(text + SERVICES)
    return target


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Build the stack in a world whose machines run programs; ask for a short-lived certificate."""
    world = make_world("--programs", "real")
    world.up()
    world.write_credentials()
    apply(world, SHORT_LIVED)
    return world


def kubectl(world: World, *argv: str, code: int | None = 0) -> str:
    """Run kubectl in the world; gives its output."""
    return world.run("kubectl", *argv, code=code).stdout


def read(world: World, *argv: str) -> dict[str, Any]:
    """Read objects of the cluster."""
    found: dict[str, Any] = json.loads(kubectl(world, "get", *argv, "--output", "json"))
    return found


def apply(world: World, text: str, code: int | None = 0) -> str:
    """Apply a manifest; gives what was said against it."""
    file = world.stack_file.parent / "manifest.yaml"
    file.write_text(text)
    return world.run("kubectl", "apply", "--filename", str(file), code=code).stderr


def chain(world: World, namespace: str, name: str) -> list[x509.Certificate]:
    """Read the certificates of a Secret, the server's own first."""
    secret = read(world, "secret", name, "--namespace", namespace)
    return x509.load_pem_x509_certificates(base64.b64decode(secret["data"]["tls.crt"]))


def log(world: World, name: str) -> str:
    """Read a log of the world's ACME servers or of the public DNS."""
    return (world.state / "acme" / f"{name}.log").read_text()


def orders(world: World, server: str) -> int:
    """Count the orders that an ACME server has taken."""
    return log(world, server).count("Added order")


def signed_by(world: World, certificates: list[x509.Certificate], server: str) -> bool:
    """Say whether a chain leads to the authority of an ACME server; each signature is checked."""
    root = x509.load_pem_x509_certificate((world.state / "acme" / f"{server}.root").read_bytes())
    if certificates[-1].issuer != root.subject:
        return False
    for certificate, issuer in zip(certificates, [*certificates[1:], root], strict=True):
        certificate.verify_directly_issued_by(issuer)
    return True


def names(certificate: x509.Certificate) -> list[str]:
    """Give the names that a certificate is for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return sorted(found.value.get_values_for_type(x509.DNSName))


def test_the_platforms_certificate_is_issued_by_dns_01_and_the_challenges_are_gone(
    world: World,
) -> None:
    certificates = chain(world, "traefik", "wildcard")
    assert names(certificates[0]) == ["*.platform.example.com", "platform.example.com"]
    assert signed_by(world, certificates, "production")
    assert orders(world, "production") == 1
    assert orders(world, "staging") == 0
    lines = [line for line in log(world, "dns").splitlines() if f" {CHALLENGE} " in line]
    changes = [line.split()[1] for line in lines]
    assert changes == ["added", "removed"] * 2  # one for each name, one after the other
    assert all("by Cloudflare's API" in line for line in lines)
    # What production's authority signs is trusted, as Let's Encrypt's own is.
    root = (world.state / "acme" / "production.root").read_text()
    assert root in (world.state / "ca.crt").read_text()


def test_the_webhook_refuses_what_cannot_be_and_the_api_server_knows_its_authority(
    world: World,
) -> None:
    bad = SHORT_LIVED.partition("---\n")[2].replace("dnsNames: [short.platform.example.com]", "")
    said = apply(world, bad.replace("name: short,", "name: bad,"), code=1)
    assert 'admission webhook "webhook.cert-manager.io" denied the request' in said
    assert "at least one of" in said
    secret = read(world, "secret", "cert-manager-webhook-ca", "--namespace", "cert-manager")
    for kind in ("validating", "mutating"):
        found = read(world, f"{kind}webhookconfiguration", "cert-manager-webhook")
        bundles = {one["clientConfig"]["caBundle"] for one in found["webhooks"]}
        assert bundles == {secret["data"]["ca.crt"]}


def test_cert_managers_programs_are_the_real_ones(world: World) -> None:
    parts = {
        one["name"]: one["kind"] for one in json.loads((world.state / "workloads.json").read_text())
    }
    for name in ("controller", "webhook", "cainjector"):
        assert parts[f"cert-manager-{name}"] == "real"
    assert (parts["acme"], parts["public-dns"]) == ("real", "simulated")
    lease = read(world, "lease", "cert-manager-controller", "--namespace", "cert-manager")
    pods = read(world, "pods", "--namespace", "cert-manager")["items"]
    leader = lease["spec"]["holderIdentity"].removesuffix("-external-cert-manager-controller")
    assert leader in {one["metadata"]["name"] for one in pods}
    restarts = {one["status"]["containerStatuses"][0]["restartCount"] for one in pods}
    assert (len(pods), restarts) == (6, {0})


def test_a_certificate_is_renewed_after_two_thirds_of_its_life(world: World) -> None:
    def status() -> dict[str, Any]:
        found: dict[str, Any] = read(world, "certificate", "short")["status"]
        return found

    wait_until("the first one", lambda: status().get("revision", 0) >= 1, 300, poll=1)
    before, revision = status(), status()["revision"]
    first = chain(world, "default", "short")[0]
    assert signed_by(world, chain(world, "default", "short"), "short-lived")
    life = first.not_valid_after_utc - first.not_valid_before_utc
    renewal = datetime.strptime(before["renewalTime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(renewal - first.not_valid_before_utc - life * 2 / 3) <= timedelta(seconds=2)
    wait_until("the next one", lambda: status()["revision"] > revision, 300, poll=1)
    second = chain(world, "default", "short")[0]
    assert renewal <= second.not_valid_before_utc < first.not_valid_after_utc
    assert second.serial_number != first.serial_number
    kubectl(world, "delete", "certificate", "short", "--namespace", "default")


@pytest.mark.unseen
def test_a_dns_token_that_is_refused_is_named_by_up_and_a_right_one_goes_on_with_staging(
    world: World,
) -> None:
    refused, issued = world.state / "acme" / "token-refused", orders(world, "production")
    with editing(world) as replace:
        replace("issuer: letsencrypt-production", "issuer: letsencrypt-staging")
        refused.touch()
        failed = world.up(code=None)
        said = " ".join((failed.stdout + failed.stderr).split())
        assert failed.returncode != 0
        assert "platform:dnsToken: cloudflare refuses it" in said
        assert "Error: 9109: Invalid access token" in said
        assert "`pulumi config set --secret platform:dnsToken`" in said
        refused.unlink()
        world.up()
        world.expect_no_changes()
        assert signed_by(world, chain(world, "traefik", "wildcard"), "staging")
    assert orders(world, "staging") == 1
    assert orders(world, "production") == issued
    root = (world.state / "acme" / "staging.root").read_text()
    assert root not in (world.state / "ca.crt").read_text()
