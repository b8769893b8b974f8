"""Configuration: the kinds of values that settings are made of.

Each kind checks one value on its own and, when it is wrong, says what is wrong and how to mend it.
What values mean to each other is in `config.rules` and `config.addresses`.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError, PydanticKnownError

from config.secret_keys import SECRET_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = "refused"
"""The error type of every check in this file; its context holds `fault` and `mend`."""

LABEL_LENGTH = 63
HOST_LENGTH = 253
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_KUBERNETES_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_KUBERNETES_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def refuse(fault: str, mend: str) -> NoReturn:
    """Raise what a check raises: what is wrong, and what to do."""
    raise PydanticCustomError(REFUSED, "{fault}", {"fault": fault, "mend": mend})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    return value


# --- Addresses ---------------------------------------------------------------------------------


def _usable(value: IPv4Address | IPv4Network) -> bool:
    return not (value.is_loopback or value.is_link_local or value.is_multicast)


def parse_address(value: object) -> IPv4Address:
    """Read an IPv4 address that a host can have."""
    text = _text(value)
    try:
        address = IPv4Address(text)
    except ValueError:
        fault = "not an IPv4 address"
        mend = "write four numbers from 0 to 255, as in 172.16.20.51"
        if "/" in text:
            mend = "write the address alone, without the prefix length"
        refuse(fault, mend)
    if not _usable(address) or address.is_unspecified:
        refuse("a loopback, link-local, multicast or zero address", "give a unicast address")
    return address


def parse_network(value: object) -> IPv4Network:
    """Read an IPv4 network in CIDR notation, without host bits."""
    text = _text(value)
    if "/" not in text:
        refuse("a network without a prefix length", "write it as in 172.16.20.0/24")
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        refuse("not an IPv4 network", "write it as in 172.16.20.0/24")
    if str(network) != text:
        # The same network may also be written with a netmask or leading zeros.
        fault = (
            "host bits are set" if text.endswith(f"/{network.prefixlen}") else "not in CIDR form"
        )
        refuse(fault, f"did you mean {network}?")
    if not _usable(network):
        refuse("a loopback, link-local or multicast network", "give a unicast network")
    return network


@dataclass(frozen=True)
class AddressRange:
    """Addresses from the first to the last, both included."""

    first: IPv4Address
    last: IPv4Address

    @property
    def size(self) -> int:
        """How many addresses the range holds."""
        return int(self.last) - int(self.first) + 1

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last

    def overlaps(self, other: AddressRange) -> bool:
        """Say whether an address lies in both ranges."""
        return self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_range(value: object) -> AddressRange:
    """Read a range: `172.16.20.100-172.16.20.150`, a network in CIDR notation, or one address."""
    text = _text(value)
    if "/" in text:
        network = parse_network(text)
        return AddressRange(network[0], network[-1])
    first, dash, last = (part.strip() for part in text.partition("-"))
    if dash and last and "." not in last:
        whole = f"{first.rpartition('.')[0]}.{last}"
        refuse("the last address is cut short", f"did you mean {first}-{whole}?")
    found = AddressRange(parse_address(first), parse_address(last if dash else first))
    if found.last < found.first:
        refuse("the range runs backwards", f"did you mean {found.last}-{found.first}?")
    return found


MIDNIGHT = " 00:00:00 +0000 UTC"
"""What the engine adds to a date that is not quoted: its YAML library takes it for a time."""


def parse_date(value: object) -> dt.date:
    """Read a day, written as ISO 8601 has it."""
    text = _text(value).removesuffix(MIDNIGHT)
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        day = None
    # Python also reads 20270331 and 2027-W13-3.
    if day is None or day.isoformat() != text:
        refuse("not a date", "write year, month and day, as in 2027-03-31")
    return day


Address = Annotated[
    IPv4Address, PlainValidator(parse_address), PlainSerializer(str, return_type=str)
]
Network = Annotated[
    IPv4Network, PlainValidator(parse_network), PlainSerializer(str, return_type=str)
]
Date = Annotated[dt.date, PlainValidator(parse_date), PlainSerializer(str, return_type=str)]
Range = Annotated[AddressRange, PlainValidator(parse_range), PlainSerializer(str, return_type=str)]

# --- Names and texts ---------------------------------------------------------------------------


def as_address(text: str) -> IPv4Address | None:
    """Read a host that may be a name or an address: the address, or `None` for a name."""
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _is_label(text: str) -> bool:
    return len(text) <= LABEL_LENGTH and _LABEL.fullmatch(text) is not None


def _is_host(text: str) -> bool:
    if as_address(text) is not None:
        return True
    labels = text.split(".")
    # A last label of digits alone is a mistyped address (RFC 1123, section 2.1).
    return len(text) <= HOST_LENGTH and all(map(_is_label, labels)) and not labels[-1].isdigit()


def _checked(accept: Callable[[str], object], fault: str, mend: str) -> AfterValidator:
    """Make a check of a text: `accept` says whether it is right."""

    def check(text: str) -> str:
        if not accept(text):
            refuse(fault, mend)
        return text

    return AfterValidator(check)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16


def _is_host_and_port(text: str) -> bool:
    host, colon, port = text.partition(":")
    return _is_host(host) and (not colon or _is_port(port))


def _url_host_port(text: str, schemes: frozenset[str]) -> tuple[str, int | None] | None:
    """Read a URL of a host and a port: `None` when it is not one, or carries a user."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return None
    host = url.hostname or ""
    if url.scheme not in schemes or not _is_host(host) or "@" in url.netloc:
        return None
    return host, port


def _is_log_destination(text: str) -> bool:
    found = _url_host_port(text, frozenset({"tcp", "udp"}))
    return found is not None and found[1] is not None


def _is_https(text: str) -> bool:
    return _url_host_port(text, frozenset({"https"})) is not None


def _is_folder(text: str) -> bool:
    parts = text.split("/")
    return not text.startswith("/") and all(part not in ("", ".", "..") for part in parts)


def parse_version(value: object) -> str:
    """Read a version; without its patch, `1.34`, YAML takes it for a number."""
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        refuse(
            "not an exact version", "write major, minor and patch without a leading v, as in 1.34.1"
        )
    return value


Text = Annotated[
    str,
    _checked(
        lambda text: text and text == text.strip(),
        "empty, or blanks at its ends",
        "write the text without them",
    ),
]
Label = Annotated[
    str,
    _checked(
        _is_label,
        "not a valid name",
        "use at most 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit",
    ),
]
Host = Annotated[
    str,
    _checked(
        _is_host,
        "not a host name or IPv4 address",
        "write it in lower case without scheme, port or path, as in vcenter.example.com",
    ),
]
HostPort = Annotated[
    str,
    _checked(
        _is_host_and_port,
        "not a host, or host and port",
        "write it without scheme or path, as in factory.talos.dev",
    ),
]
Domain = Annotated[
    str,
    _checked(
        lambda text: _is_host(text) and as_address(text) is None and "." in text,
        "not a domain name",
        "write it in lower case with at least two parts, as in argocd.example.com",
    ),
]
Version = Annotated[str, BeforeValidator(parse_version)]
LogDestination = Annotated[
    str,
    _checked(
        _is_log_destination,
        "not a log destination",
        "write tcp:// or udp:// with host and port, as in tcp://logs.example.com:5170",
    ),
]
HttpsUrl = Annotated[
    str,
    _checked(
        _is_https,
        "not an https URL, or one with a user in it",
        "write it as in https://s3.example.com",
    ),
]
Folder = Annotated[
    str,
    _checked(_is_folder, "not a relative path", "write it without leading or doubled `/` or `..`"),
]
Schematic = Annotated[
    str,
    _checked(
        re.compile(r"[0-9a-f]{64}").fullmatch,
        "not a schematic id",
        "give the 64 hexadecimal digits that the image factory shows, or give `extensions`",
    ),
]
# Letters of an extension's name never need quoting in YAML: the schematic's id depends on it.
Extension = Annotated[
    str,
    _checked(
        re.compile(r"[a-z0-9][-a-z0-9]*/[a-z0-9][-a-z0-9.]*").fullmatch,
        "not the name of a system extension",
        "write it as in siderolabs/vmtoolsd-guest-agent",
    ),
]
Device = Annotated[
    str,
    _checked(
        re.compile(r"/dev/[-\w./:]+").fullmatch, "not a disk device", "write it as in /dev/sda"
    ),
]
KubernetesKey = Annotated[
    str,
    _checked(
        _KUBERNETES_KEY.fullmatch,
        "not a valid key of a label or taint",
        "write it as in topology.kubernetes.io/zone",
    ),
]
KubernetesValue = Annotated[
    str,
    _checked(
        _KUBERNETES_VALUE.fullmatch,
        "not a valid value of a label or taint",
        "use at most 63 letters, digits, `-`, `_` and `.`",
    ),
]
SecretName = Annotated[
    str,
    _checked(
        SECRET_NAMES.__contains__,
        "not one of the stack's secrets",
        f"give one of {', '.join(sorted(SECRET_NAMES))}",
    ),
]
AgePublicKey = Annotated[
    str,
    _checked(
        re.compile(r"age1[02-9ac-hj-np-z]{58}").fullmatch,
        "not an age public key",
        "give the line that `age-keygen` prints as `Public key`, beginning with age1",
    ),
]
Email = Annotated[
    str,
    _checked(
        re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+").fullmatch,
        "not an e-mail address",
        "write it as in platform@example.com",
    ),
]
Cron = Annotated[
    str,
    _checked(
        re.compile(r"[-\d*/,]+( [-\d*/,]+){4}").fullmatch,
        "not a schedule",
        'write five fields as cron has them, as in "0 * * * *" for every hour',
    ),
]
