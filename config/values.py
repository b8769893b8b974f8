"""Configuration: the kinds of values that settings are made of.

Each kind checks one value on its own and, when it is wrong, says what is wrong and how to fix it.
What values mean to each other is in `config.rules` and `config.addresses`.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import TYPE_CHECKING, Annotated, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cryptography import x509
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError, PydanticKnownError

from config import versions
from config.secret_keys import SECRET_NAMES
from config.yaml_text import MIDNIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Container

REFUSED = "refused"
"""The error type of every check in this file; its context holds `fault` and `fix`."""

LABEL_LENGTH = 63
HOST_LENGTH = 253
TEXT_LENGTH = 255
LARGEST_PEM = 64 * 1024
_PEM = re.compile(
    r"(-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\s*)+", re.ASCII
)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,3})(\.(0|[1-9][0-9]{0,3})){2}")
_KUBERNETES_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Git's own rules for a reference (git-check-ref-format), without what a shell takes for its own.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@#=,-]{0,199}")
_NO_REVISION = re.compile(r"\.\.|@\{|//|/\.|\./|\.lock(/|$)|[/.]$")
# What is escaped may be anything but a control character, a dot or a slash: `%20` is a blank.
_PATH = re.compile(
    r"(/([A-Za-z0-9._~!*()@+,=:-]|%(?!2[EeFf]|7[Ff])[2-9A-Fa-f][0-9A-Fa-f])*)*", re.ASCII
)
_FOLDER_PART = re.compile(r"[\w. ()+,=@#&-]{1,80}")
_GIT_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_DEVICE = re.compile(
    r"/dev/((sd|vd|xvd)[a-z]{1,2}|nvme[0-9]{1,3}n[0-9]{1,3}|mmcblk[0-9]{1,3}"
    r"|disk/by-(id|path|uuid|diskseq|dname)/[A-Za-z0-9][A-Za-z0-9._:+=@-]{0,199})"
)


def refuse(fault: str, fix: str) -> NoReturn:
    """Raise what a check raises: what is wrong, and what to do."""
    raise PydanticCustomError(REFUSED, "{fault}", {"fault": fault, "fix": fix})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    return value


def _ipv4_text(value: object) -> str:
    text = _text(value)
    _refuse_ipv6(text)
    return text


def _refuse_ipv6(text: str) -> None:
    """Refuse an IPv6 address wherever it stands in a text, such as in the brackets of a URL."""
    for part in re.split(r"[][/,@\s-]", text):
        try:
            IPv6Address(part)
        except ValueError:
            continue
        refuse(
            "IPv6, which the platform is not built for",
            "give IPv4 alone: machines, pods and Services have no other address "
            "(docs/site-requirements.md)",
        )


# --- Addresses ---------------------------------------------------------------------------------


_NO_HOSTS = tuple(
    map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
)
"""This network, loopback, link-local, multicast, reserved and broadcast (RFC 6890)."""


def _is_usable(value: IPv4Address) -> bool:
    return not any(value in each for each in _NO_HOSTS)


_NO_HOST = "a loopback, link-local, multicast, broadcast or zero address"


def parse_address(value: object) -> IPv4Address:
    """Read an IPv4 address that a host can have."""
    text = _ipv4_text(value)
    try:
        address = IPv4Address(text)
    except ValueError:
        fault = "not an IPv4 address"
        fix = "write four numbers from 0 to 255, as in 172.16.20.51"
        if "/" in text:
            fix = "write the address alone, without the prefix length"
        refuse(fault, fix)
    if not _is_usable(address):
        refuse(_NO_HOST, "give a unicast address")
    return address


def parse_interface(value: object) -> IPv4Interface:
    """Read the address of a network card, with the size of its network."""
    text = _ipv4_text(value)
    fix = "write it with the network's size, as in 192.168.20.51/24"
    try:
        found = IPv4Interface(text)
    except ValueError:
        refuse("not the IPv4 address of a network card", fix)
    if str(found) != text:
        refuse("not the IPv4 address of a network card", fix)
    if not _is_usable(found.ip) or found.ip in (found.network[0], found.network[-1]):
        refuse(_NO_HOST, "give a unicast address that is not the network's first or last")
    return found


def parse_network(value: object) -> IPv4Network:
    """Read an IPv4 network in CIDR notation, without host bits."""
    text = _ipv4_text(value)
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
    if network.prefixlen == 0:
        refuse("every address there is", "give the networks that are meant")
    if any(network.overlaps(each) for each in _NO_HOSTS):
        refuse("a network of loopback, link-local, multicast or reserved addresses", "give another")
    return network


@dataclass(frozen=True)
class AddressRange:
    """Addresses from the first to the last, both included."""

    first: IPv4Address
    last: IPv4Address
    network: IPv4Network | None = field(default=None, compare=False)
    """The network that it was written as, if it was."""

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
        if self.network is not None:
            return str(self.network)
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_range(value: object) -> AddressRange:
    """Read a range: `172.16.20.100-172.16.20.150`, a network in CIDR notation, or one address."""
    text = _ipv4_text(value)
    if "/" in text:
        network = parse_network(text)
        return AddressRange(network[0], network[-1], network)
    first, dash, last = (part.strip() for part in text.partition("-"))
    if dash and last and "." not in last:
        whole = f"{first.rpartition('.')[0]}.{last}"
        refuse("the last address is incomplete", f"did you mean {first}-{whole}?")
    found = AddressRange(parse_address(first), parse_address(last if dash else first))
    if found.last < found.first:
        refuse(
            "the first address comes after the last", f"did you mean {found.last}-{found.first}?"
        )
    return found


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
InterfaceAddress = Annotated[
    IPv4Interface, PlainValidator(parse_interface), PlainSerializer(str, return_type=str)
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


def _is_interface(text: str) -> bool:
    """Say whether Linux could call an interface so: 15 bytes at most (IFNAMSIZ)."""
    return re.fullmatch(r"[a-z][a-z0-9._-]{0,14}", text, re.ASCII) is not None


def _is_label(text: str) -> bool:
    return len(text) <= LABEL_LENGTH and _LABEL.fullmatch(text) is not None


def _is_name(text: str) -> bool:
    """Say whether a text is a DNS name: no address, in no way that a program reads one."""
    labels = text.split(".")
    # A last label of digits, or of 0x and digits, is an address to many programs (RFC 1123,
    # section 2.1; WHATWG URL, "ends in a number"). What is called localhost is the reader itself.
    return (
        len(text) <= HOST_LENGTH
        and all(map(_is_label, labels))
        and re.fullmatch(r"[0-9]+|0x[0-9a-f]*|localhost|localdomain", labels[-1]) is None
    )


def _is_host(text: str) -> bool:
    address = as_address(text)
    return _is_name(text) if address is None else _is_usable(address)


def _checked(accept: Callable[[str], object], fault: str, fix: str) -> AfterValidator:
    """Make a check of a text: `accept` says whether it is right."""

    def check(text: str) -> str:
        if not accept(text):
            _refuse_ipv6(text)
            refuse(fault, fix)
        return text

    return AfterValidator(check)


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,4}", text) is not None and int(text) < 1 << 16


def _is_host_and_port(text: str) -> bool:
    host, colon, port = text.partition(":")
    return _is_host(host) and (not colon or _is_port(port))


@dataclass(frozen=True)
class Url:
    """The parts of a URL that settings know: no user, no query, no fragment."""

    scheme: str
    host: str
    port: int | None
    path: str


def split_url(text: str) -> Url | None:
    """Read a URL; `None` for anything else, and for one with a user, a query or a fragment.

    Stricter than `urlsplit`, which drops line breaks and takes any character for a path.
    """
    found = re.fullmatch(r"([a-z]+)://([a-z0-9.-]+)(?::([0-9]+))?(/.*)?", text)
    if found is None:
        return None
    scheme, host, port, path = found.groups(default="")
    good_path = _PATH.fullmatch(path) is not None and ".." not in path.split("/")
    if not _is_host(host) or (port and not _is_port(port)) or not good_path:
        return None
    return Url(scheme, host, int(port) if port else None, path)


def split_git_url(text: str) -> Url | None:
    """Read where a Git repository is: by https, `ssh://USER@HOST:PORT/PATH` or `USER@HOST:PATH`."""
    short = re.fullmatch(rf"({_GIT_USER})@([a-z0-9.-]+):(?![0-9]+/)([^/:].*)", text)
    if short is not None:
        text = f"ssh://{short[1]}@{short[2]}/{short[3]}"
    found = re.fullmatch(rf"ssh://{_GIT_USER}@(.+)", text)
    url = split_url(f"ssh://{found[1]}" if found else text)
    if url is None or url.path.strip("/") == "":
        return None
    return url if url.scheme == ("ssh" if found else "https") else None


def _is_log_destination(text: str) -> bool:
    return _is_server(text, {"tcp", "udp"})


def _is_proxy(text: str) -> bool:
    return _is_server(text, {"https", "http"})


def _is_server(text: str, schemes: Container[str]) -> bool:
    """Say whether a URL names a host and its port, and nothing behind them."""
    url = split_url(text)
    return (
        url is not None and url.scheme in schemes and url.port is not None and url.path in {"", "/"}
    )


def _is_https(text: str) -> bool:
    url = split_url(text)
    return url is not None and url.scheme == "https"


def _is_origin(text: str) -> bool:
    url = split_url(text)
    return url is not None and url.scheme == "https" and url.path in ("", "/")


def _is_machine_api(text: str) -> bool:
    url = split_url(text)
    return url is not None and url.scheme in ("https", "grpc") and url.path in ("", "/")


def _is_backup_interval(text: str) -> bool:
    """Say whether Omni's server takes this as an interval (1 hour to 24 hours)."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([hm])", text, re.ASCII)
    if found is None:
        return False
    return 60 <= int(found[1]) * (60 if found[2] == "h" else 1) <= 24 * 60  # noqa: PLR2004 minutes


def _is_storage(text: str) -> bool:
    url = split_url(text)
    return url is not None and url.scheme in {"https", "http"}


def parse_direct(value: object) -> str:
    """Read what is reached without the proxy: a network, a host, or a domain with a leading dot."""
    text = _ipv4_text(value)
    if "/" in text:
        return str(parse_network(text))
    if not _is_host(text.removeprefix(".")) or as_address(text.removeprefix(".")) != as_address(
        text
    ):
        refuse(
            "not a host, a domain or a network",
            "write it as in s3.example.com, .example.com for all names below it, or 10.0.0.0/8",
        )
    return text


def _is_registry(text: str) -> bool:
    # Docker's own is called docker.io in every image's full name, whatever serves it.
    others = ("index.docker.io", "registry-1.docker.io", "hub.docker.com")
    return text == "*" or (_is_host_and_port(text) and text not in others)


def _are_certificates(text: str) -> bool:
    """Say whether a text holds certificates and nothing else: a private key beside them is none."""
    if len(text) > LARGEST_PEM or _PEM.fullmatch(text) is None:
        return False
    try:
        return bool(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False


def _is_folder(text: str) -> bool:
    """Say whether a text is a relative path that no shell and no tool takes for something else."""
    return all(
        _FOLDER_PART.fullmatch(part) is not None
        and part not in (".", "..")
        and part == part.strip()
        and not part.startswith("-")
        for part in text.split("/")
    )


def _is_tree_path(text: str) -> bool:
    parts = text.split("/")
    return _is_folder(text) and all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts)


def _is_text(text: str) -> bool:
    """Say whether a text is a name that can also stand in a command of a page, in quotes."""
    return (
        0 < len(text) <= TEXT_LENGTH
        and text == text.strip()
        and not text.startswith("-")
        and re.search(r"[`\"<>|;*?]|\$[({]", text) is None
    )


def _is_escaped(text: str) -> bool:
    """Say whether a name is as vCenter keeps it (vSphere API, ManagedEntity.name)."""
    return "\\" not in text and re.search(r"%(?!2[Ff]|5[Cc]|25)", text) is None


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and _NO_REVISION.search(text) is None


def _is_kubernetes_key(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    labels = prefix.split(".")
    good_prefix = len(prefix) <= HOST_LENGTH and all(map(_is_label, labels))
    return (
        bool(name)
        and _KUBERNETES_VALUE.fullmatch(name) is not None
        and (good_prefix if slash else True)
    )


def _is_bucket(text: str) -> bool:
    """Say whether a text is a bucket's name (Amazon S3 User Guide, "Bucket naming rules")."""
    labels = text.split(".")
    return (
        3 <= len(text) <= LABEL_LENGTH  # noqa: PLR2004 the guide's own
        and all(map(_is_label, labels))
        and as_address(text) is None
        and not text.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        and not text.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    )


_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _is_age_key(text: str) -> bool:
    """Say whether a text is an age public key, by its checksum (BIP 173, "Bech32")."""
    if re.fullmatch(f"age1[{_BECH32}]{{58}}", text) is None:
        return False
    prefix = [ord(one) >> 5 for one in "age"] + [0] + [ord(one) & 31 for one in "age"]
    checksum = 1
    for value in (*prefix, *map(_BECH32.index, text[4:])):
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(
            (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
        ):
            if top >> bit & 1:
                checksum ^= generator
    return checksum == 1


HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)


def _is_host_key(text: str) -> bool:
    """Say whether a text is an SSH server's public key, whose bytes name its type again."""
    kind, _, key = text.partition(" ")
    try:
        found = base64.b64decode(key, validate=True)
    except ValueError:
        return False
    named = len(kind).to_bytes(4, "big") + kind.encode()
    return kind in HOST_KEY_TYPES and found.startswith(named) and len(found) > len(named) + 32


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_cron(text: str) -> str:
    """Check a schedule as Kubernetes reads it (robfig/cron v3, ParseStandard), of five fields."""
    cron_fields(text)
    return text


def cron_fields(text: str) -> list[set[int]]:
    """Give the numbers of a schedule's minutes, hours, days, months and days of the week."""
    fields = text.split(" ")
    if len(fields) != len(_CRON):
        refuse(
            "not a schedule",
            'write five fields as cron has them, as in "0 * * * *" for every hour',
        )
    found = []
    for value, (name, first, last, names) in zip(fields, _CRON, strict=True):
        numbers = _cron_field(value, first, last, names)
        if not numbers:
            refuse(
                f"cron has no such {name}",
                f"use numbers from {first} to {last}, `*`, lists `1,2`, ranges `1-5`, steps `*/15`",
            )
        found.append(numbers)
    days, months = found[2], found[3]
    if fields[4] in {"*", "?"} and all(min(days) > _LONGEST_MONTH[one - 1] for one in months):
        refuse("a day that does not exist", "give a day that the month has")
    return found


def _cron_field(text: str, first: int, last: int, names: tuple[str, ...]) -> set[int]:
    """Give the numbers of a field; none when it is wrong."""
    found: set[int] = set()
    for part in text.lower().split(","):
        match = re.fullmatch(
            r"(\*|\?|([0-9]{1,2}|[a-z]{3})(-([0-9]{1,2}|[a-z]{3}))?)(/([0-9]{1,2}))?", part
        )
        if match is None:
            return set()
        _, low, _, high, stepped, step = match.groups()
        start = first if low is None else _cron_number(low, first, names)
        end = last if low is None or (stepped and high is None) else start
        if high is not None:
            end = _cron_number(high, first, names)
        if not first <= start <= end <= last or (stepped and int(step) == 0):
            return set()
        found |= set(range(start, end + 1, int(step or 1)))
    return found


def _cron_number(text: str, first: int, names: tuple[str, ...]) -> int:
    if text.isdigit():
        return int(text)
    return names.index(text) + first if text in names else -1


def _is_zone(text: str) -> bool:
    """Say whether the time zone database of this machine has it (zoneinfo)."""
    try:
        ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return True


def parse_version(value: object) -> str:
    """Read a version; without its patch, `1.34`, YAML takes it for a number."""
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        refuse(
            "not an exact version", "write major, minor and patch without a leading v, as in 1.34.1"
        )
    return value


def parse_contract(value: object) -> str:
    """Read the minor version of a configuration contract."""
    if not isinstance(value, str) or value not in versions.TALOS_CONTRACTS:
        refuse(
            "not a contract that the stack knows",
            'use one of "' + '", "'.join(versions.TALOS_CONTRACTS) + '", in quotes',
        )
    return value


Text = Annotated[
    str,
    _checked(
        _is_text,
        "not a name: empty, too long, or with what a shell or a search takes for its own",
        "write at most 255 characters, no blanks at the ends, no `-` at the beginning, and none of "
        '` " < > | ; * ? $(',
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
Interface = Annotated[
    str,
    _checked(
        _is_interface,
        "not the name of a network interface",
        "use at most 15 of a-z, 0-9, `.`, `-` and `_`, as in eth0, or eth0.120 for a VLAN on it",
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
TimeServer = Annotated[
    str,
    _checked(
        _is_host,
        "not a host name or IPv4 address",
        "write it in lower case without scheme or port, as in ntp.example.com; a clock of the "
        "machine, such as /dev/ptp0, is not supported",
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
MailServer = Annotated[
    str,
    _checked(
        lambda text: ":" in text and _is_host_and_port(text),
        "not a host and port",
        "write both, as in mail.example.com:587",
    ),
]
Domain = Annotated[
    str,
    _checked(
        lambda text: _is_name(text) and "." in text,
        "not a domain name",
        "write it in lower case with at least two parts, as in argocd.example.com",
    ),
]
Version = Annotated[str, BeforeValidator(parse_version)]
Contract = Annotated[str, BeforeValidator(parse_contract)]
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
        "write it in lower case, as in https://s3.example.com",
    ),
]
StorageUrl = Annotated[
    str,
    _checked(
        _is_storage,
        "not an https or http URL, or one with a user in it",
        "write it in lower case, as in https://s3.example.com",
    ),
]
ProxyUrl = Annotated[
    str,
    _checked(
        _is_proxy,
        "not the URL of a proxy with its port, or one with a user or a path in it",
        "write it as in http://proxy.example.com:3128; let the machines' addresses use it without "
        "a login, which would stand in clear in the pods that use it",
    ),
]
Origin = Annotated[
    str,
    _checked(
        _is_origin,
        "not an https URL of a host, with a port where it has one",
        "write it in lower case without user, path and query, as in https://omni.example.com",
    ),
]
MachineApi = Annotated[
    str,
    _checked(
        _is_machine_api,
        "not where machines join Omni",
        "write `apiUrl` of `omnictl jointoken machine-config` without its `?jointoken=...`, as in "
        "https://omni.example.com:8090; grpc:// where Omni serves it without TLS",
    ),
]
Interval = Annotated[
    str,
    _checked(
        _is_backup_interval,
        "not an interval that Omni takes backups at",
        "write whole minutes or hours from 1h to 24h, as in 1h or 90m",
    ),
]
Direct = Annotated[str, PlainValidator(parse_direct), PlainSerializer(str, return_type=str)]
Registry = Annotated[
    str,
    _checked(
        _is_registry,
        "not the host of a registry, or *",
        "write it as images name it, as in docker.io or registry.example.com:5000",
    ),
]
GitUrl = Annotated[
    str,
    _checked(
        split_git_url,
        "not the URL of a Git repository by https or SSH, or one with a password in it",
        "write it as in https://git.example.com/team/platform, or with a deploy key as in "
        "ssh://git@git.example.com:2222/team/platform.git; by http anybody on the way could change "
        "what runs on the platform",
    ),
]
HostKey = Annotated[
    str,
    _checked(
        _is_host_key,
        "not the public key of an SSH server",
        "write a type and a key as `ssh-keyscan -p PORT HOST` prints them behind the host, and "
        "compare it with what the server's people say",
    ),
]
Folder = Annotated[
    str,
    _checked(
        _is_folder,
        "not a relative path",
        "write it without leading or doubled `/` or `..`, of letters, digits, blanks and . _ - ( )",
    ),
]
_AS_VCENTER = "write a `/` in a name as %2f, a `\\` as %5c and a `%` as %25, as vCenter itself does"
_NO_PATTERN = _checked(
    lambda text: "[" not in text,
    "a name with `[`, which vCenter's provider takes for a pattern: it finds nothing",
    "give it another name in vCenter",
)
Inventory = Annotated[
    Text,
    _checked(
        lambda text: _is_escaped(text) and "//" not in text and text == text.strip("/"),
        "not a name as vCenter has it",
        f"{_AS_VCENTER}; a plain `/` stands after a folder",
    ),
    _NO_PATTERN,
]
PortGroup = Annotated[
    Text,
    _checked(
        lambda text: _is_escaped(text) and "/" not in text,
        "not a port group's name as vCenter has it",
        _AS_VCENTER,
    ),
    _NO_PATTERN,
]
TreePath = Annotated[
    str,
    _checked(
        _is_tree_path,
        "not a relative path",
        "write it without leading or doubled `/` or `..`, of letters, digits, `.`, `_` and `-`",
    ),
]
Revision = Annotated[
    str,
    _checked(
        _is_revision,
        "not a branch, tag or commit of Git",
        "write it as in main or v1.2.0, without leading `-`, blanks or `..`",
    ),
]
Bucket = Annotated[
    str,
    _checked(
        _is_bucket,
        "not a bucket's name",
        "use 3 to 63 of a-z, 0-9, `-` and `.`, beginning and ending with a letter or digit",
    ),
]
Region = Annotated[
    str,
    _checked(
        re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?").fullmatch,
        "not a region's name",
        "write it as your storage calls it, as in eu-central-1 or RegionOne",
    ),
]
HostedZone = Annotated[
    str,
    _checked(
        re.compile(r"Z[A-Z0-9]{1,31}").fullmatch,
        "not a hosted zone of Route 53",
        "write its id, as in Z2ABCDEF3GHIJK",
    ),
]
Certificates = Annotated[
    str,
    _checked(
        _are_certificates,
        "not certificates in PEM",
        "write `|` behind the key, and the lines from -----BEGIN CERTIFICATE----- to "
        "-----END CERTIFICATE----- below it",
    ),
]
ClientId = Annotated[
    str,
    _checked(
        re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}").fullmatch,
        "not an OAuth application's client id",
        "write the id that its page shows, of letters, digits, `.`, `_` and `-`",
    ),
]
GitHubName = Annotated[
    str,
    _checked(
        re.compile(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}").fullmatch,
        "not the name of a GitHub organization",
        "write the name as its address has it, of letters, digits and `-`",
    ),
]
Team = Annotated[
    str,
    _checked(
        re.compile(r"[a-z0-9]([a-z0-9_-]{0,98}[a-z0-9])?").fullmatch,
        "not a team's short name",
        "write it as the team's address has it, of a-z, 0-9, `-` and `_`",
    ),
]
GroupPath = Annotated[
    str,
    _checked(
        re.compile(
            r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,98}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,98}){0,20}"
        ).fullmatch,
        "not a group's path",
        "write it as the group's address has it, as in team/platform",
    ),
]
GroupName = Annotated[
    str,
    _checked(
        re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:/ @-]{0,253}[A-Za-z0-9_])?").fullmatch,
        "not a group's name",
        "write it as the `groups` claim has it, of letters, digits, blanks and . _ : / @ -",
    ),
]
GiteaName = Annotated[
    str,
    _checked(
        re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,38}[A-Za-z0-9_])?").fullmatch,
        "not the name of an organization or a team",
        "write the name as Gitea has it, of letters, digits and . _ -",
    ),
]
KeyName = Annotated[
    str,
    _checked(
        re.compile(
            r"(?=.{1,253}$)[A-Za-z0-9][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_-]{1,63})*\.?"
        ).fullmatch,
        "not the name of a TSIG key",
        "write it as the name server has it, as in acme-key or acme-key.example.com.",
    ),
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
        _DEVICE.fullmatch,
        "not a disk device",
        "write it as in /dev/sda, /dev/nvme0n1 or /dev/disk/by-id/NAME",
    ),
]
KubernetesKey = Annotated[
    str,
    _checked(
        _is_kubernetes_key,
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
        _is_age_key,
        "not an age public key",
        "give the line that `age-keygen` prints as `Public key`, beginning with age1",
    ),
]
SlackChannel = Annotated[
    str,
    BeforeValidator(_text),
    _checked(
        re.compile(r"#[a-z0-9_-]{1,79}").fullmatch,
        "not a Slack channel",
        "write its name with the #, in quotes, as in '#platform'",
    ),
]
Email = Annotated[
    str,
    _checked(
        lambda text: (
            re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._%+&'=-]{0,63}@([^@]+)", text) is not None
            and _is_name(text.rpartition("@")[2])
            and "." in text.rpartition("@")[2]
        ),
        "not an e-mail address",
        "write it as in platform@example.com",
    ),
]
Cron = Annotated[str, AfterValidator(parse_cron)]
Clock = Annotated[
    str,
    _checked(
        lambda text: re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text, re.ASCII) is not None,
        "not a time of day",
        'write hours and minutes in quotes, as in "22:30"',
    ),
]
Zone = Annotated[
    str,
    _checked(
        _is_zone,
        "not a time zone that this machine knows",
        "write it as the IANA database does, as in Europe/Berlin, or UTC",
    ),
]
