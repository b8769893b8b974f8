"""The address plan: valid plans pass, and no overlap of any kind slips through."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from tests.unit.recorder import production

# The keys of a plan's kinds of entries, by what `place` calls them.
KEYS = {
    "machine": "platform:machines[0].address",
    "other machine": "platform:machines[1].address",
    "vip": "platform:network.vip",
    "gateway": "platform:network.gateway",
    "name server": "platform:network.nameServers[0]",
    "time server": "platform:network.timeServers[0]",
    "vcenter": "platform:site.vcenter",
    "pool": "platform:network.pools[0].addresses",
    "other pool": "platform:network.pools[1].addresses",
    "pods": "platform:network.pods",
    "services": "platform:network.services",
    "cidr": "platform:network.cidr",
}
HOSTS = {"gateway", "name server", "time server", "vcenter"}
INNER = {"pods", "services"}
PAIRS = [
    (one, other)
    for one, other in combinations(KEYS, 2)
    # Hosts that exist without us may be one host, and the machines' network holds all but the
    # cluster's inner networks.
    if not {one, other} <= HOSTS and not ("cidr" in (one, other) and not {one, other} & INNER)
]


@dataclass
class Plan:
    """Addresses of a platform, all apart."""

    cidr: IPv4Network
    points: dict[str, IPv4Address]
    pools: list[tuple[IPv4Address, IPv4Address]]
    pods: IPv4Network
    services: IPv4Network

    def values(self) -> dict[str, Any]:
        point = {name: str(address) for name, address in self.points.items()}
        machines = ["machine", "other machine", "third machine"]
        return {
            "cluster": {"name": "prod"},
            "site": {
                "vcenter": point["vcenter"],
                "user": "pulumi",
                "datacenter": "dc01",
                "cluster": "cluster01",
                "datastore": "datastore01",
                "network": "platform",
                "folder": "platform",
                "contentLibrary": "platform",
            },
            "machines": [
                {
                    "name": f"node{index}",
                    "address": point[name],
                    "role": "controlplane",
                    "cpus": 2,
                    "memoryMiB": 2048,
                    "diskGiB": 10,
                }
                for index, name in enumerate(machines)
            ],
            "network": {
                "cidr": str(self.cidr),
                "gateway": point["gateway"],
                "nameServers": [point["name server"]],
                "timeServers": [point["time server"]],
                "vip": point["vip"],
                "pods": str(self.pods),
                "services": str(self.services),
                "pools": [
                    {"name": f"pool{index}", "addresses": f"{first}-{last}"}
                    for index, (first, last) in enumerate(self.pools)
                ],
            },
            "talos": {"extensions": []},
        }

    def extent(self, name: str) -> tuple[IPv4Address, IPv4Address]:
        """The first and last address of an entry."""
        if name in self.points:
            return self.points[name], self.points[name]
        if name.endswith("pool"):
            return self.pools[name == "other pool"]
        network: IPv4Network = getattr(self, name)
        return network[0], network[-1]


def subnet(draw: st.DrawFn, block: IPv4Network, prefix: int) -> IPv4Network:
    """Draw a network of a prefix length in a block."""
    count = 1 << (prefix - block.prefixlen)
    start = int(block[0]) + draw(st.integers(0, count - 1)) * (1 << (32 - prefix))
    return IPv4Network((start, prefix))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    blocks = draw(st.permutations(["10.0.0.0/9", "10.128.0.0/9", "172.16.0.0/12"]))
    machines, pods, services = map(IPv4Network, blocks)
    cidr = subnet(draw, machines, draw(st.integers(16, 27)))
    inside = ["machine", "other machine", "third machine", "vip", "gateway", "pool", "other pool"]
    outside: list[str] = []
    for name in ("name server", "time server", "vcenter"):
        (inside if draw(st.booleans()) else outside).append(name)
    usable = cidr.num_addresses - 2
    # Every entry takes one offset, a pool two: its first and last.
    count = len(inside) + 2
    offsets = sorted(
        draw(st.lists(st.integers(1, usable), min_size=count, max_size=count, unique=True))
    )
    points = {name: IPv4Address(f"192.0.2.{index + 1}") for index, name in enumerate(outside)}
    pools = []
    for name in draw(st.permutations(inside)):
        first = cidr[offsets.pop(0)]
        if name.endswith("pool"):
            pools.append((first, cidr[offsets.pop(0)]))
        else:
            points[name] = first
    return Plan(
        cidr,
        points,
        pools,
        pods=subnet(draw, pods, draw(st.integers(12, 22))),
        services=subnet(draw, services, draw(st.integers(12, 28))),
    )


@st.composite
def moved_over(draw: st.DrawFn, plan: Plan, name: str, target: IPv4Address) -> Plan:
    """Move an entry so that it holds an address."""
    moved = copy.deepcopy(plan)
    if name in plan.points:
        moved.points[name] = target
    elif name.endswith("pool"):
        before = draw(st.integers(0, 300))
        after = draw(st.integers(0, 300))
        moved.pools[name == "other pool"] = (target - before, target + after)
    elif name == "cidr":
        moved.cidr = IPv4Network((int(target), draw(st.integers(16, 27))), strict=False)
    else:
        prefix = draw(st.integers(12, 22))
        setattr(moved, name, IPv4Network((int(target), prefix), strict=False))
    return moved


def problems_of(values: dict[str, Any]) -> list[config.Problem]:
    try:
        config.parse(values)
    except config.SettingsError as error:
        return list(error.problems)
    return []


@settings(deadline=None)
@given(plans())
def test_a_plan_without_overlaps_passes(plan: Plan) -> None:
    settled = config.parse(plan.values())
    assert settled.network.vip == plan.points["vip"]
    assert [machine.address for machine in settled.machines] == [
        plan.points[name] for name in ("machine", "other machine", "third machine")
    ]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_an_overlap_of_every_pair_is_told(pair: tuple[str, str], data: st.DataObject) -> None:
    plan = data.draw(plans())
    still, moving = data.draw(st.permutations(pair))
    first, last = plan.extent(still)
    target = IPv4Address(data.draw(st.integers(int(first), int(last))))
    moved = data.draw(moved_over(plan, moving, target))
    told = [
        {each.key, each.fault.partition("(")[2].rstrip(")")}
        for each in problems_of(moved.values())
        if each.fault.startswith("overlaps")
    ]
    wanted = [{KEYS[still], KEYS[moving]}]
    inner = {still, moving} & INNER
    if inner and target in moved.cidr:
        # An inner network over the whole machines' network is told as that, once.
        wanted.append({KEYS[inner.pop()], KEYS["cidr"]})
    assert any(keys in told for keys in wanted), (moved, told)


# Addresses of a network so small that they meet often.
NEAR = st.integers(1, 62).map(lambda offset: IPv4Address("192.168.0.0") + offset)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_plan_is_refused_exactly_when_two_entries_share_an_address(data: st.DataObject) -> None:
    names = [
        *(name for name in KEYS if name not in INNER | {"cidr", "pool", "other pool"}),
        "third machine",
    ]
    points = {name: data.draw(NEAR) for name in names}
    pools = [sorted((data.draw(NEAR), data.draw(NEAR))) for _ in range(2)]
    plan = Plan(
        IPv4Network("192.168.0.0/26"),
        points,
        [(first, last) for first, last in pools],
        IPv4Network("10.0.0.0/16"),
        IPv4Network("10.1.0.0/16"),
    )
    ours = [{address} for name, address in points.items() if name not in HOSTS]
    ours += [{first + step for step in range(int(last) - int(first) + 1)} for first, last in pools]
    hosts = {address for name, address in points.items() if name in HOSTS}
    shared = any(one & other for one, other in combinations([*ours, hosts], 2))
    assert bool(problems_of(plan.values())) == shared


@settings(deadline=None)
@given(plans(), st.sampled_from(sorted(HOSTS)), st.sampled_from(sorted(HOSTS)))
def test_a_router_may_serve_names_and_time_too(plan: Plan, one: str, other: str) -> None:
    if one != "gateway":  # The gateway itself must stay in the machines' network.
        plan.points[one] = plan.points[other]
    assert problems_of(plan.values()) == []


@settings(deadline=None)
@given(plans(), st.sampled_from(["machine", "vip", "gateway"]), st.integers(0, 2**32 - 1))
def test_an_address_outside_the_network_is_told(plan: Plan, name: str, number: int) -> None:
    address = IPv4Address(number)
    inside = plan.cidr[1] <= address <= plan.cidr[-2]
    plan.points[name] = address
    told = [each for each in problems_of(plan.values()) if each.key == KEYS[name]]
    assert told or inside


@pytest.mark.parametrize(
    ("resolvers", "fault"),
    [
        (["172.16.20.1"], None),
        (["10.96.0.5"], r"services = .*overlaps the resolver 10\.96\.0\.5"),
        (["172.16.20.51"], r"address = .*overlaps the resolver 172\.16\.20\.51"),
        (["172.16.20.1", "172.16.20.1"], "overlaps the resolver"),
    ],
)
def test_resolvers_are_in_the_plan_once_they_are_given(
    resolvers: list[str], fault: str | None
) -> None:
    values = copy.deepcopy(production())
    values["services"]["certManager"]["dns"]["resolvers"] = resolvers
    if fault is None:
        config.parse(values)
        return
    with pytest.raises(config.SettingsError, match=fault) as caught:
        config.parse(values)
    assert "resolvers[" in str(caught.value)


def test_a_key_management_server_is_in_the_plan() -> None:
    values = copy.deepcopy(production())
    values["talos"]["diskEncryption"] = {"key": "kms", "endpoint": "https://10.244.0.9:4050"}
    with pytest.raises(config.SettingsError, match=r"pods = .*overlaps the key management server"):
        config.parse(values)


def with_cards(*cards: tuple[int, str, str]) -> list[str]:
    """Give the problems of production with further network cards: machine, port group, address."""
    values = copy.deepcopy(production())
    for number, network, address in cards:
        machine = values["machines"][number]
        machine.setdefault("networks", []).append({"network": network, "address": address})
    try:
        config.parse(values)
    except config.SettingsError as error:
        return [str(one) for one in error.problems]
    return []


def test_machines_share_further_networks() -> None:
    cards = [(n, "storage", f"192.168.20.5{n}/24") for n in range(3)]
    assert not with_cards(*cards, (0, "backup", "192.168.21.50/24"))


@pytest.mark.parametrize(
    ("address", "with_what"),
    [
        ("172.16.20.60/24", "machine network 172.16.20.0/24"),
        ("172.16.0.9/16", "machine network 172.16.20.0/24"),
        ("10.244.3.4/24", "pod network 10.244.0.0/16"),
        ("10.100.3.4/24", "service network 10.96.0.0/12"),
    ],
)
def test_a_further_network_overlaps_none_of_the_platforms(address: str, with_what: str) -> None:
    (problem,) = with_cards((1, "storage", address))
    assert f"overlaps the {with_what}" in problem or "overlaps the further network" in problem
    assert "platform:machines[1].networks[0].address" in problem


def test_two_port_groups_are_two_networks() -> None:
    (problem,) = with_cards((0, "storage", "192.168.20.50/24"), (1, "nfs", "192.168.20.51/25"))
    assert "overlaps the further network" in problem


def test_an_address_of_a_further_card_is_one_machines() -> None:
    twice = (0, "storage", "192.168.20.50/24"), (2, "storage", "192.168.20.50/24")
    (problem,) = with_cards(*twice)
    assert problem.startswith("platform:machines[2].networks[0].address")
    assert "overlaps the network card of node01 192.168.20.50" in problem


def test_a_server_in_a_further_network_is_no_machine() -> None:
    values = copy.deepcopy(production())
    values["services"]["backup"]["endpoint"] = "https://192.168.20.9:9000"
    values["machines"][0]["networks"] = [{"network": "storage", "address": "192.168.20.50/24"}]
    config.parse(values)
    values["machines"][0]["networks"][0]["address"] = "192.168.20.9/24"
    with pytest.raises(config.SettingsError, match="overlaps the backup storage"):
        config.parse(values)
