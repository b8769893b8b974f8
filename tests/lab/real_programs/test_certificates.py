"""cert-manager gets certificates from an ACME server, by DNS-01, and renews them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509

from ops.rehearsal.world import World, wait_until
from tests.lab.real_programs.acme import (
    SHORT_LIVED,
    chain,
    log,
    orders,
    signed_by,
    wait_for_the_domain,
)
from tests.lab.real_programs.cluster import DOMAIN, apply, curl, kinds, kubectl, read

CHALLENGE = "_acme-challenge.platform.example.com"


def names(certificate: x509.Certificate) -> list[str]:
    """Give the names that a certificate is for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return sorted(found.value.get_values_for_type(x509.DNSName))


def test_the_platforms_certificates_are_issued_by_dns_01_and_the_challenges_are_gone(
    world: World,
) -> None:
    wait_for_the_domain(world)
    for secret, name in (
        ("wildcard", "*.platform.example.com"),
        ("domain", "platform.example.com"),
    ):
        certificates = chain(world, "traefik", secret)
        assert names(certificates[0]) == [name]
        assert signed_by(world, certificates, "production")
    assert orders(world, "production") == 2
    assert orders(world, "staging") == 0
    lines = [line for line in log(world, "dns").splitlines() if f" {CHALLENGE} " in line]
    changes = [line.split()[1] for line in lines]
    assert changes == ["added", "removed"] * 2  # the same record for both
    assert all("by Cloudflare's API" in line for line in lines)
    # What production's authority signs is trusted, as Let's Encrypt's own is.
    root = (world.state / "acme" / "production.root").read_text()
    assert root in (world.state / "ca.crt").read_text()


def test_the_domain_itself_is_served_with_its_own_certificate(world: World) -> None:
    wait_for_the_domain(world)

    def listeners() -> dict[str, bool]:
        found = read(world, "gateway", "platform", "--namespace", "traefik")["status"]["listeners"]
        return {
            one["name"]: all(each["status"] == "True" for each in one["conditions"])
            for one in found
        }

    wait_until(
        "the gateway's listeners", lambda: listeners() == {"websecure": True, "domain": True}
    )
    # Nothing answers there, but the certificate is verified first, by name.
    answer = curl(world, f"https://{DOMAIN}/")
    assert answer.startswith("HTTP/2 404")


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
    parts = kinds(world)
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
