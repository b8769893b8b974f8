"""Configuration: the address plan, and the rules that keep its entries apart.

Every address or range that the settings name is one entry. Entries of ours (machines, VIP, pools)
must lie in the machines' network and touch nothing else; a pool may lie outside where BGP announces
it. A machine's further network cards are in
networks of their own, which overlap neither that one nor each other. Hosts that exist without us
(gateway, name servers, time servers, vCenter, BGP routers) may be one and the same host, since
routers often serve DNS and time too, but never twice in one list. The cluster's inner networks
overlap nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from typing import TYPE_CHECKING

from config import git
from config.problems import Path, Problem, key_of, problem
from config.values import AddressRange, as_address, split_git_url, split_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config.settings import Machine, NetworkSettings, Omni, Services, Site, Talos

MACHINE_PREFIXES = range(8, 30)
"""A /29 is the smallest network that holds a gateway, three machines and a VIP."""
NODE_POD_PREFIX = 24
"""Every node gets a /24 of the pods' network (kube-controller-manager's default)."""
SERVICE_PREFIXES = range(12, 29)
"""The API server takes Services' networks of at most 2^20 addresses; 16 are the least useful."""


MOST_OVERLAPS = 1000
"""Pairs that are told: of the same address given to all machines there are very many."""
LISTS = frozenset({"name server", "time server", "resolver", "BGP router"})
"""Uses of hosts that are a list, in which none is named twice."""


OUTER = frozenset({"machine network", "further network"})
"""Uses of networks that machines' cards are in."""


class Kind(Enum):
    """Who owns an entry's addresses."""

    OURS = "ours"
    CARD = "card"
    """Of a machine's further network card, in a network beside the machines' own."""
    HOST = "host"
    NETWORK = "network"


@dataclass(frozen=True)
class Entry:
    """An address, range or network in use, and the key that says so."""

    use: str
    name: str
    addresses: AddressRange
    path: Path
    kind: Kind
    network: IPv4Network | None = None

    @property
    def key(self) -> str:
        """The key in the stack file, as in `platform:network.vip`."""
        return key_of(self.path)

    @property
    def value(self) -> str:
        """The addresses as they are written in the settings."""
        return str(self.network or self.addresses)


def _entry(
    use: str, name: str, where: IPv4Address | AddressRange | IPv4Network, path: Path, kind: Kind
) -> Entry:
    if isinstance(where, IPv4Network):
        return Entry(use, name, AddressRange(where[0], where[-1]), path, kind, where)
    if isinstance(where, IPv4Address):
        where = AddressRange(where, where)
    return Entry(use, name, where, path, kind)


def _of_network(network: NetworkSettings) -> Iterator[Entry]:
    yield _entry("machine network", "", network.cidr, ("network", "cidr"), Kind.NETWORK)
    yield _entry("pod network", "", network.pods, ("network", "pods"), Kind.NETWORK)
    yield _entry("service network", "", network.services, ("network", "services"), Kind.NETWORK)
    yield _entry("gateway", "", network.gateway, ("network", "gateway"), Kind.HOST)
    for index, address in enumerate(network.name_servers):
        yield _entry("name server", "", address, ("network", "nameServers", index), Kind.HOST)
    for index, host in enumerate(network.time_servers):
        if (found := as_address(host)) is not None:
            yield _entry("time server", "", found, ("network", "timeServers", index), Kind.HOST)
    if network.vip is not None:
        yield _entry("VIP", "Kubernetes API", network.vip, ("network", "vip"), Kind.OURS)
    for index, pool in enumerate(network.pools):
        path = ("network", "pools", index, "addresses")
        yield _entry("pool", pool.name, pool.addresses, path, Kind.OURS)


def _of_cards(machines: dict[int, Machine]) -> Iterator[Entry]:
    """Give the further cards' addresses, and each network that they are in once."""
    seen: set[tuple[str, IPv4Network]] = set()
    for index, machine in machines.items():
        for number, card in enumerate(machine.networks):
            path = ("machines", index, "networks", number, "address")
            where = card.address
            if (card.network, where.network) not in seen:
                seen.add((card.network, where.network))
                yield _entry("further network", card.network, where.network, path, Kind.NETWORK)
            yield _entry("network card", f"of {machine.name}", where.ip, path, Kind.CARD)


def _host_in(where: str) -> IPv4Address | None:
    """Give the address in a host, a host with a port, or a URL; `None` for a name."""
    url = split_url(where) or split_git_url(where)
    if url is None and "/" in where:  # a network, which holds hosts that nobody names
        return None
    return as_address(url.host if url is not None else where.partition(":")[0])


def _of_hosts(
    machines: dict[int, Machine],
    network: NetworkSettings | None,
    talos: Talos | None,
    site: Site | None,
    services: Services | None,
) -> Iterator[tuple[str, str | None, Path]]:
    """Give every host that exists without us: its use, where it is, and the key that says so."""
    if site is not None:
        yield "vCenter", site.vcenter, ("site", "vcenter")
        yield "image factory", site.image_factory, ("site", "imageFactory")
        yield "mirror of definitions", site.definitions, ("site", "definitions")
    for index, machine in machines.items():
        yield f"ESXi host of {machine.name}", machine.host, ("machines", index, "host")
    if network is not None and network.proxy is not None:
        yield "HTTP proxy", network.proxy.url, ("network", "proxy", "url")
        for index, host in enumerate(network.proxy.direct):
            yield "host beside the proxy", host, ("network", "proxy", "direct", index)
    if talos is not None:
        yield from _of_talos(talos)
    if services is not None:
        yield from _of_services(services)


def _of_talos(talos: Talos) -> Iterator[tuple[str, str | None, Path]]:
    """Give the hosts that the machines are told of, as `_of_hosts` does."""
    if talos.registry_login is not None:
        yield "registry", talos.registry_login.registry, ("talos", "registryLogin", "registry")
    for index, mirror in enumerate(talos.mirrors):
        yield "registry", mirror.registry, ("talos", "mirrors", index, "registry")
        for number, endpoint in enumerate(mirror.endpoints):
            yield "registry mirror", endpoint, ("talos", "mirrors", index, "endpoints", number)
    logs = talos.log_destinations
    for index, one in enumerate(logs.services):
        yield "log destination", one, ("talos", "logDestinations", "services", index)
    for index, one in enumerate(logs.kernel):
        yield "log destination", one, ("talos", "logDestinations", "kernel", index)
    if talos.disk_encryption is not None:
        path: Path = ("talos", "diskEncryption", "endpoint")
        yield "key management server", talos.disk_encryption.endpoint, path


def _of_services(services: Services) -> Iterator[tuple[str, str | None, Path]]:
    """Give the hosts that the services are told of, as `_of_hosts` does."""
    for name, info in type(services).model_fields.items():
        mirror = getattr(getattr(services, name), "repository", None)
        yield "chart repository", mirror, ("services", info.alias or name, "repository")
    if services.argocd is not None:
        path: Path = ("services", "argocd", "repositoryUrl")
        yield "Git repository", services.argocd.repository_url, path
        yield from git.login_servers(services.argocd)
    if services.backup is not None:
        yield "backup storage", services.backup.endpoint, ("services", "backup", "endpoint")
    if services.cert_manager is not None and services.cert_manager.acme is not None:
        path = ("services", "certManager", "acme", "directory")
        yield "ACME server", services.cert_manager.acme.directory, path
    if services.cert_manager is not None and services.cert_manager.dns is not None:
        path = ("services", "certManager", "dns", "nameServer")
        yield "name server of the domain", services.cert_manager.dns.name_server, path
        if "resolvers" in services.cert_manager.dns.model_fields_set:
            for index, resolver in enumerate(services.cert_manager.dns.resolvers):
                path = ("services", "certManager", "dns", "resolvers", index)
                yield "resolver", str(resolver), path


def _of_omni(omni: Omni | None) -> Iterator[tuple[str, str | None, Path]]:
    """Give the hosts of Omni, as `_of_hosts` does."""
    if omni is not None:
        yield "server of Omni", omni.endpoint, ("omni", "endpoint")
        yield "machine API of Omni", omni.machine_api, ("omni", "machineApi")
        yield "Kubernetes proxy of Omni", omni.kubernetes_proxy, ("omni", "kubernetesProxy")


def entries(  # noqa: PLR0913 the sections that name addresses
    machines: dict[int, Machine],
    network: NetworkSettings | None,
    site: Site | None = None,
    services: Services | None = None,
    talos: Talos | None = None,
    *,
    omni: Omni | None = None,
) -> tuple[Entry, ...]:
    """Collect the address plan from those sections that could be read, `machines` by position."""
    found = [
        _entry("machine", machine.name, machine.address, ("machines", index, "address"), Kind.OURS)
        for index, machine in machines.items()
    ]
    found += _of_cards(machines)
    if network is not None:
        found += _of_network(network)
    hosts = _of_hosts(machines, network, talos, site, services)
    for use, where, path in (*hosts, *_of_omni(omni)):
        if where is not None and (address := _host_in(where)) is not None:
            found.append(_entry(use, "", address, path, Kind.HOST))
    if services is not None and services.cilium is not None and services.cilium.bgp is not None:
        for index, peer in enumerate(services.cilium.bgp.peers):
            path = ("services", "cilium", "bgp", "peers", index, "address")
            found.append(_entry("BGP router", "", peer.address, path, Kind.HOST))
    order = {Kind.NETWORK: 0, Kind.HOST: 1, Kind.CARD: 2, Kind.OURS: 3}
    return tuple(sorted(found, key=lambda each: (order[each.kind], each.addresses.first)))


def problems(plan: tuple[Entry, ...]) -> Iterator[Problem]:
    """Find every entry in the wrong place, and every pair of entries that overlap."""
    machine_network = next((each.network for each in plan if each.use == "machine network"), None)
    routed = any(each.use == "BGP router" for each in plan)
    if machine_network is not None and machine_network.prefixlen in MACHINE_PREFIXES:
        for each in plan:
            # Hosts may be anywhere, but not at the ends of the machines' own network.
            near = each.kind is Kind.HOST and _in(each, machine_network)
            if routed and each.use == "pool" and not _touches(each, machine_network):
                continue  # Cilium announces it to the routers (services.cilium.bgp).
            if each.kind is Kind.OURS or each.use == "gateway" or near:
                yield from _outside(each, machine_network)
    # Networks come first in a plan: an inner one over the machines' network is found at once.
    swallowed: set[Path] = set()
    for one, other in islice(_overlapping(plan), MOST_OVERLAPS):
        first, second = sorted((one, other), key=_blame)
        if first.use == "machine network":
            swallowed.add(second.path)
        elif (
            second.path in swallowed and machine_network is not None and _in(first, machine_network)
        ):
            continue  # Follows from the overlap of the two networks, which is told already.
        yield problem(
            second.path,
            second.value,
            f"overlaps the {_title(first)} {first.value} ({first.key})",
            "change one of the two",
        )


def _overlapping(plan: tuple[Entry, ...]) -> Iterator[tuple[Entry, Entry]]:
    """Give the pairs that overlap and must not, in the plan's order."""
    place = {id(each): number for number, each in enumerate(plan)}
    found: list[tuple[int, int]] = []
    near: list[Entry] = []
    for each in sorted(plan, key=lambda one: one.addresses.first):
        near = [one for one in near if one.addresses.last >= each.addresses.first]
        for one in near:
            if not _may_share(one, each):
                pair = place[id(one)], place[id(each)]
                found.append((min(pair), max(pair)))
        if len(found) > MOST_OVERLAPS * 10:
            break
        near.append(each)
    return ((plan[one], plan[other]) for one, other in sorted(found))


def _in(entry: Entry, network: IPv4Network) -> bool:
    return entry.addresses.first in network and entry.addresses.last in network


def _touches(entry: Entry, network: IPv4Network) -> bool:
    return entry.addresses.overlaps(AddressRange(network[0], network[-1]))


def _title(entry: Entry) -> str:
    return f"{entry.use} {entry.name}" if entry.name and entry.use != "VIP" else entry.use


def _blame(entry: Entry) -> tuple[int, tuple[str, ...]]:
    """Order a pair: the problem is reported at the one that is easier to change."""
    order = (
        "machine network",
        "gateway",
        "vCenter",
        "name server",
        "time server",
        "BGP router",
        "other host",
        "machine",
        "VIP",
        "network card",
        "further network",
        "pool",
        "pod network",
        "service network",
    )
    use = entry.use if entry.use in order else "other host"
    return order.index(use), tuple(map(str, entry.path))


def _may_share(one: Entry, other: Entry) -> bool:
    kinds = {one.kind, other.kind}
    if kinds == {Kind.HOST}:
        return one.use != other.use or one.use not in LISTS
    # Machines' networks hold hosts and ours; the cluster's inner networks hold nothing of them.
    if kinds == {Kind.NETWORK, Kind.CARD}:
        return True  # what overlaps is the card's network
    return kinds != {Kind.NETWORK} and bool({one.use, other.use} & OUTER)


def _outside(entry: Entry, network: IPv4Network) -> Iterator[Problem]:
    first, last = network[1], network[-2]
    if entry.addresses.first < first or entry.addresses.last > last:
        fault = f"outside the machines' network {network}"
        if _in(entry, network):
            fault = f"holds the network or broadcast address of {network}"
        fix = f"use addresses from {first} to {last}"
        if entry.use == "pool" and not _touches(entry, network):
            fix += ", or let services.cilium.bgp announce it"
        yield problem(entry.path, entry.value, fault, fix)


def network_sizes(network: NetworkSettings, machine_count: int) -> Iterator[Problem]:
    """Check that each network is large enough for its use, and not too large."""
    if network.cidr.prefixlen not in MACHINE_PREFIXES:
        yield problem(
            ("network", "cidr"),
            network.cidr,
            "not a size for the machines' network",
            f"use a prefix length from {MACHINE_PREFIXES[0]} to {MACHINE_PREFIXES[-1]}",
        )
    room = 1 << max(0, NODE_POD_PREFIX - network.pods.prefixlen)
    if network.pods.prefixlen > NODE_POD_PREFIX or room < machine_count:
        yield problem(
            ("network", "pods"),
            network.pods,
            f"too small for {machine_count} machines of a /{NODE_POD_PREFIX} each",
            f"use a prefix length of {NODE_POD_PREFIX - (machine_count - 1).bit_length()} or less",
        )
    if network.services.prefixlen not in SERVICE_PREFIXES:
        yield problem(
            ("network", "services"),
            network.services,
            "not a size that the API server takes",
            f"use a prefix length from {SERVICE_PREFIXES[0]} to {SERVICE_PREFIXES[-1]}",
        )
