"""Layer Talos: when credentials end, for whoever must renew them in time."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from cryptography import x509

if TYPE_CHECKING:
    from config.settings import Cluster


def end(certificate: str) -> str:
    """Give the end of a certificate (base64 of PEM, as the Talos provider has it); ISO 8601."""
    parsed = x509.load_pem_x509_certificate(base64.b64decode(certificate))
    return parsed.not_valid_after_utc.isoformat()


def ends(certificates: dict[str, Any]) -> dict[str, str]:
    """Give the end of each certificate, by name."""
    return {name: end(str(one)) for name, one in certificates.items()}


def told_ends(cluster: Cluster) -> dict[str, str]:
    """Give the end of each secret that no program can read it from, by name; ISO 8601."""
    return {secret.name: secret.ends.isoformat() for secret in cluster.expiries}
