"""Reach: the questions' ways over the network, each bounded in time.

HTTPS goes through the environment's proxy as the plugins go, which are Go programs: the rules are
those of golang.org/x/net/http/httpproxy, of which Python's own know neither networks nor ports.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import http.client
import os
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from cryptography import x509

SECONDS = 5.0
"""For each step of a connection."""
PROBE_SECONDS = 2.0
LARGEST = 64 << 20
"""Bytes of an answer; the largest index of a chart repository has some ten million."""
MOST_REDIRECTS = 5
MOST_PROBES = 400
PORTS = {"http": 80, "https": 443}
DNS_PORT, NTP_PORT = 53, 123
DNS_A, DNS_SOA = 1, 6
DNS_REFUSED = 5
NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP's time begins, to 1970 (RFC 5905)."""


class NotTriedError(Exception):
    """Something cannot be tried from here; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What a server said to a GET, after its redirects."""

    status: int
    body: bytes
    proxy: str
    """Host and port of the proxy that it came through; empty without one."""
    ends: str
    """The day on which the server's certificate ends; empty without TLS, or when not verified."""


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, and what it is shown; the header is a secret."""

    host: str
    port: int
    header: str = field(repr=False, default="")

    def __str__(self) -> str:
        """Name it without its password."""
        return f"{self.host}:{self.port}"


def proxy_of(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """Find the proxy that a Go program uses for a URL. Raises `NotTriedError` for other kinds."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    name = f"{parts.scheme}_proxy"
    text = environment.get(name.upper()) or environment.get(name) or ""
    if not text or _goes_direct(host, port, environment):
        return None
    given = urlsplit(text if "://" in text else f"http://{text}")
    if given.scheme != "http" or not given.hostname:
        message = f"{name.upper()} is not an http:// proxy; this check supports only those"
        raise NotTriedError(message)
    header = ""
    if given.username is not None:
        both = f"{unquote(given.username)}:{unquote(given.password or '')}"
        header = f"Basic {base64.b64encode(both.encode()).decode()}"
    return Proxy(given.hostname, given.port or PORTS["http"], header)


def _goes_direct(host: str, port: int, environment: Mapping[str, str]) -> bool:
    """Say whether NO_PROXY, or the host itself, keeps a proxy out."""
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    exceptions = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    for each in filter(None, (one.strip().lower() for one in exceptions.split(","))):
        if each == "*":
            return True
        if address is not None and "/" in each:
            try:
                if address in ip_network(each, strict=False):
                    return True
            except ValueError:
                continue
        name, _, only = each.partition(":")
        if only and only != str(port):
            continue
        # `.example.com` names what is below it; `example.com` and `*.example.com` too.
        suffix = name.removeprefix("*")
        exact = not suffix.startswith(".") and host == suffix
        if exact or (address is None and host.endswith(f".{suffix.removeprefix('.')}")):
            return True
    return False


@dataclass
class Network:
    """The network as this computer sees it."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    seconds: float = SECONDS

    def get(self, url: str, *, verify: bool = True, most: int = LARGEST) -> Answer:
        """Get a URL; `most` bytes are read. Raises `OSError`, `HTTPException`, `NotTriedError`."""
        for _ in range(MOST_REDIRECTS):
            answer, location = self._get_once(url, verify=verify, most=most)
            if not location:
                return answer
            url = urljoin(url, location)
            if urlsplit(url).scheme not in PORTS:
                break
        message = f"it redirects too often, last to {url.partition('?')[0]}"
        raise http.client.HTTPException(message)

    def _get_once(self, url: str, *, verify: bool, most: int) -> tuple[Answer, str]:
        parts, proxy = urlsplit(url), proxy_of(url, self.environment)
        connection = self._connection(parts, proxy, verify=verify)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if proxy is not None and parts.scheme == "http":
            target = url
        headers = {"User-Agent": "platform", "Accept": "*/*"}
        if proxy is not None and proxy.header and parts.scheme == "http":
            headers["Proxy-Authorization"] = proxy.header
        try:
            connection.request("GET", target, headers=headers)
            ends = _end_of(connection.sock)
            response = connection.getresponse()
            location = response.getheader("Location", "") if response.status // 100 == 3 else ""  # noqa: PLR2004
            body = b"" if location else response.read(most)
        except ssl.SSLCertVerificationError as error:
            issuer = self._issuer(parts, proxy)
            message = f"{error.verify_message}; it shows a certificate of {issuer}"
            raise ssl.SSLCertVerificationError(message) from None
        finally:
            connection.close()
        return Answer(response.status, body, str(proxy or ""), ends), location

    def _connection(
        self, parts: SplitResult, proxy: Proxy | None, *, verify: bool
    ) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        first = (proxy.host, proxy.port) if proxy is not None else (host, port)
        if parts.scheme == "http":
            return http.client.HTTPConnection(*first, timeout=self.seconds)
        connection = http.client.HTTPSConnection(
            *first, timeout=self.seconds, context=_tls(verify=verify)
        )
        if proxy is not None:
            shown = {"Proxy-Authorization": proxy.header} if proxy.header else {}
            connection.set_tunnel(host, port, headers=shown)
        return connection

    def _issuer(self, parts: SplitResult, proxy: Proxy | None) -> str:
        """Name who issued the certificate that a server shows: a proxy that opens TLS, perhaps."""
        connection = self._connection(parts, proxy, verify=False)
        try:
            connection.connect()
            sock = connection.sock
            shown = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
            return x509.load_der_x509_certificate(shown or b"").issuer.rfc4514_string()
        except (OSError, ValueError, http.client.HTTPException):
            return "an issuer that could not be read"
        finally:
            connection.close()

    def connect(self, host: str, port: int) -> None:
        """Open a TCP connection, and close it. Raises `OSError`."""
        socket.create_connection((host, port), self.seconds).close()

    def resolve(self, name: str) -> set[str]:
        """Give a name's IPv4 addresses, as this computer sees them. Raises `OSError`."""
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        return {str(one[4][0]) for one in found}

    def ask_dns(self, server: str, name: str, kind: int, port: int = DNS_PORT) -> tuple[int, int]:
        """Ask a name server; gives its code (RFC 1035) and how many answers. Raises `OSError`."""
        labels = b"".join(bytes([len(one)]) + one for one in name.encode("idna").split(b".") if one)
        number = os.urandom(2)
        asked = number + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0)
        asked += labels + b"\0" + struct.pack(">HH", kind, 1)
        reply = self._datagram(server, port, asked)
        if len(reply) < 12 or reply[:2] != number:  # noqa: PLR2004 the size of a header
            message = "its answer is not DNS"
            raise OSError(message)
        flags, _, answers = struct.unpack(">HHH", reply[2:8])
        return flags & 0xF, answers

    def ask_time(self, server: str, port: int = NTP_PORT) -> float:
        """Ask a time server; gives how far it is ahead of this computer, in seconds."""
        before = time.time()
        reply = self._datagram(server, port, b"\x23" + bytes(47))  # version 4, a client
        after = time.time()
        if len(reply) < 48 or reply[0] & 7 != 4 or reply[1] == 0:  # noqa: PLR2004 RFC 5905
            message = "its answer is not a time"
            raise OSError(message)
        whole, part = struct.unpack(">II", reply[40:48])
        told: float = whole - NTP_EPOCH + part / (1 << 32)
        return told - (before + after) / 2

    def _datagram(self, host: str, port: int, text: bytes) -> bytes:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, socket.AF_INET, socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(self.seconds)
            sock.connect(address)
            sock.send(text)
            return sock.recv(4096)


Probe = Callable[[str, int], Awaitable[str]]
"""Tries an address and a port: what shows that somebody is there; empty when nobody answers."""


async def probe(address: str, port: int) -> str:
    """Try to connect. Raises `NotTriedError` when there is no route from here."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return ""
    except ConnectionRefusedError:
        return f"a host there refuses TCP {port}"
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            message = "this computer has no route there"
            raise NotTriedError(message) from None
        return ""
    writer.close()
    return f"something answers there on TCP {port}"


def who_answers(
    addresses: Iterable[str], ports: Iterable[int], probe: Probe = probe
) -> dict[str, str]:
    """Find the addresses at which somebody is: what shows it, by address."""

    async def all_of_them() -> dict[str, str]:
        free = asyncio.Semaphore(MOST_PROBES)
        pairs = [(address, port) for address in addresses for port in ports]

        async def one(address: str, port: int) -> str:
            async with free:
                return await probe(address, port)

        found = await asyncio.gather(*(one(*pair) for pair in pairs))
        return {address: shown for (address, _), shown in zip(pairs, found, strict=True) if shown}

    return asyncio.run(all_of_them())


def _tls(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _end_of(sock: object) -> str:
    """Give the day on which the certificate of a verified connection ends."""
    if not isinstance(sock, ssl.SSLSocket):
        return ""
    certificate = sock.getpeercert() or {}
    text = certificate.get("notAfter")
    if not isinstance(text, str):
        return ""
    return time.strftime("%Y-%m-%d", time.gmtime(ssl.cert_time_to_seconds(text)))
