"""Certificates of the world's ACME servers, and what those servers noted."""

from __future__ import annotations

import base64

from cryptography import x509

from ops.rehearsal.world import World, wait_until
from tests.lab.real_programs.cluster import read

# Another ACME server than the platform's: its certificates live for three minutes.
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


def wait_for_the_domain(world: World) -> None:
    """Wait for the certificate of the domain itself; `up` waits for that of *.DOMAIN alone."""

    def issued() -> bool:
        found = read(world, "certificate", "domain", "--namespace", "traefik")
        conditions = {one["type"]: one for one in found.get("status", {}).get("conditions", [])}
        ready = conditions.get("Ready", {})
        generation = found["metadata"]["generation"]
        return (ready.get("status"), ready.get("observedGeneration")) == ("True", generation)

    wait_until("the certificate of the domain itself", issued, 240, poll=1)


def signed_by(world: World, certificates: list[x509.Certificate], server: str) -> bool:
    """Say whether a chain leads to the authority of an ACME server; each signature is checked."""
    root = x509.load_pem_x509_certificate((world.state / "acme" / f"{server}.root").read_bytes())
    if certificates[-1].issuer != root.subject:
        return False
    for certificate, issuer in zip(certificates, [*certificates[1:], root], strict=True):
        certificate.verify_directly_issued_by(issuer)
    return True
