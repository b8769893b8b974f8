"""Configuration: the platform's way out of its site: by which proxy, and whom it trusts there.

Every program that goes outside is of Go, but for Git, which Argo CD tells itself whom to trust. A
folder in SSL_CERT_DIR is read beside the image's own bundle of public authorities (crypto/x509).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from config.values import as_address, split_url

if TYPE_CHECKING:
    from config.settings import Settings
    from config.values import Url

ROOTS = "company-authorities"
"""The ConfigMap with the company's authorities, in each namespace that goes outside."""
ROOTS_FILE = "ca.crt"
ROOTS_FOLDER = "/etc/platform/authorities"
ROOTS_ANNOTATION = "platform.io/trusted-roots"
"""On pods: another value starts them again, since a program reads authorities only once."""
HTTPS_PORT = 443
ANYWHERE = ""
"""Stands for any host of the internet, of which no setting says that it is direct."""
OF_THE_CLUSTER = (".svc", ".cluster.local")
Entry = dict[str, Any]
"""Of a list in a pod's spec."""
LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class WayOut:
    """How machines and pods reach what is outside."""

    proxy: str | None = None
    """The URL of the HTTP proxy; None: they go directly."""
    direct: tuple[str, ...] = ()
    """Hosts, domains with a leading dot, and networks that are reached without it."""
    trusted_roots: str | None = None
    """In PEM: the authorities that are trusted beside the public ones."""

    @classmethod
    def of(cls, settings: Settings) -> WayOut:
        """Take what the settings say; the platform's own networks and names are always direct."""
        network, roots = settings.network, settings.site.trusted_roots
        if network.proxy is None:
            return cls(trusted_roots=roots)
        own = map(str, (network.cidr, network.pods, network.services))
        direct = (*LOCAL, *own, *OF_THE_CLUSTER, *network.proxy.direct)
        return cls(network.proxy.url.rstrip("/"), tuple(dict.fromkeys(direct)), roots)

    def variables(self, *names: str) -> dict[str, str]:
        """Give the variables that programs read; `names` are further ones that stay direct.

        In small letters: curl, and with it Git, reads `http_proxy` in these alone; Go reads both.
        """
        if self.proxy is None:
            return {}
        return {
            "http_proxy": self.proxy,
            "https_proxy": self.proxy,
            "no_proxy": ",".join((*self.direct, *names)),
        }

    def environment(self, *names: str) -> list[Entry]:
        """Give a container's variables; `names` of the cluster stay direct beside the others."""
        found = self.variables(*names)
        if self.trusted_roots is not None:
            found["SSL_CERT_DIR"] = ROOTS_FOLDER
        return [{"name": name, "value": value} for name, value in found.items()]

    @property
    def volumes(self) -> list[Entry]:
        """A pod's volume with the company's authorities; none without them."""
        if self.trusted_roots is None:
            return []
        return [{"name": ROOTS, "configMap": {"name": ROOTS}}]

    @property
    def mounts(self) -> list[Entry]:
        """The place of that volume in a container."""
        if self.trusted_roots is None:
            return []
        return [{"name": ROOTS, "mountPath": ROOTS_FOLDER, "readOnly": True}]

    @property
    def annotations(self) -> dict[str, str]:
        """What makes a pod start again when the authorities change."""
        if self.trusted_roots is None:
            return {}
        return {ROOTS_ANNOTATION: hashlib.sha256(self.trusted_roots.encode()).hexdigest()[:16]}

    @property
    def proxy_url(self) -> Url | None:
        """The parts of the proxy's URL."""
        return None if self.proxy is None else split_url(self.proxy)

    def is_direct(self, host: str) -> bool:
        """Say whether a host is reached without the proxy, as Go's and curl's rules are."""
        if self.proxy is None:
            return True
        address = as_address(host)
        if address is not None:
            return any(address in one for one in map(_network, self.direct) if one is not None)
        # A name stands for itself and for all below it, one with a dot for those below it alone.
        return any(
            host.endswith(one if one.startswith(".") else f".{one}") or host == one
            for one in self.direct
        )


def _network(text: str) -> IPv4Network | None:
    try:
        return IPv4Network(text)
    except ValueError:
        return None
