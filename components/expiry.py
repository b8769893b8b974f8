"""Layer Talos: when credentials end, for whoever must renew them in time."""

from __future__ import annotations

import base64
from typing import Any

from cryptography import x509


def end(certificate: str) -> str:
    """Give the end of a certificate (base64 of PEM, as the Talos provider has it); ISO 8601."""
    found = x509.load_pem_x509_certificate(base64.b64decode(certificate))
    return found.not_valid_after_utc.isoformat()


def ends(certificates: dict[str, Any]) -> dict[str, str]:
    """Give the end of each certificate, by name."""
    return {name: end(str(one)) for name, one in certificates.items()}
