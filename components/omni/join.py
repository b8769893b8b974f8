"""Layer Omni: what a machine is told before it has a configuration, so that it joins Omni.

Talos reads it from `guestinfo.talos.config`. The documents are those that `omnictl jointoken
machine-config` prints. They hold the join token, so they are a secret of the stack; whoever reads
the machine's settings in vCenter reads it too (docs/decisions/0032-managed-by-omni.md).
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import yaml

from components.talos.configuration import TRUSTED_ROOTS, written
from config import plain_yaml

if TYPE_CHECKING:
    from config.settings import Omni

GUESTINFO = "guestinfo.talos.config"
JOINS = "SideroLinkConfig"
"""The document with the token."""
ADDRESS = "fdae:41e4:649b:9303::1"
"""Omni's own in every tunnel (siderolink/pkg/wireguard, NetworkPrefix)."""
NETWORK = "fdae:41e4:649b:9303::/64"
"""The network of that address, from which Omni calls machines."""
KERNEL_LOG = "omni-kmsg"
"""The name of the document with which Omni gets a machine's kernel log."""


def documents(omni: Omni, token: str, trusted_roots: str | None) -> list[dict[str, Any]]:
    """List the documents; `trusted_roots` are the company's authorities in PEM, if it has any."""
    query = {"jointoken": token} | ({"grpc_tunnel": "true"} if omni.tunnel else {})
    url = f"{omni.machine_api.rstrip('/')}?{urlencode(query)}"
    found = [
        _document(JOINS, apiUrl=url),
        _document("EventSinkConfig", endpoint=f"[{ADDRESS}]:{omni.event_port}"),
        _document("KmsgLogConfig", name=KERNEL_LOG, url=f"tcp://[{ADDRESS}]:{omni.log_port}"),
    ]
    if trusted_roots is not None:
        found.append(
            _document("TrustedRootsConfig", name=TRUSTED_ROOTS, certificates=trusted_roots)
        )
    return found


def guestinfo(omni: Omni, token: str, trusted_roots: str | None) -> str:
    """Give the documents as vCenter holds them: base64 of YAML; a secret."""
    text = "---\n".join(map(written, documents(omni, token, trusted_roots)))
    return base64.b64encode(text.encode()).decode()


def token_in(told: str) -> str:
    """Give the join token of what `guestinfo` wrote; "" where there is none."""
    try:
        parts = plain_yaml.read_all(base64.b64decode(told, validate=True).decode())
        urls = [str(one["apiUrl"]) for one in parts if one and one.get("kind") == JOINS]
    except (ValueError, yaml.YAMLError, KeyError, AttributeError):
        return ""
    return "".join(parse_qs(urlsplit(url).query).get("jointoken", [""])[0] for url in urls[:1])


def _document(kind: str, **fields: str) -> dict[str, Any]:
    return {"apiVersion": "v1alpha1", "kind": kind, **fields}
