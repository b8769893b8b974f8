"""Layer Talos: the machines' ingress firewall, which drops what no rule lets in.

Talos' own firewall (NetworkDefaultActionConfig, NetworkRuleConfig): a chain of nftables at the hook
`input`, so it sees what is for the machine itself. Cilium takes packets for Services and pods at
the network card before that. Why each rule is as it is: docs/decisions/0021-machines-firewall.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import TYPE_CHECKING, Any, Literal

from config import plain_yaml

if TYPE_CHECKING:
    from components.talos.inputs import TalosInputs
    from config.settings import Machine

DEFAULT, RULE = "NetworkDefaultActionConfig", "NetworkRuleConfig"
KINDS = frozenset({DEFAULT, RULE})
"""Documents that make the firewall; Talos applies them live."""

APID, TRUSTD, API_SERVER, KUBELET = "50000", "50001", "6443", "10250"
ETCD = "2379-2380"
VXLAN_PORT = 8223
"""Not Cilium's 8472: ESXi 7 and NSX lose TCP on it, as vmxnet3's offload takes it for its own."""
TUNNELS = {"vxlan": str(VXLAN_PORT), "geneve": "6081"}
"""Cilium's port for Geneve is its own (tunnelPort of its chart)."""
CILIUM = ("4240", "4244")
"""Health checks between machines, and Hubble's agent, which its relay asks."""
CILIUM_METRICS = ("9962-9965",)
"""Agent, operator, Envoy, Hubble (values of the chart)."""
GATEWAYS = ("80", "443")
MEMBERLIST = "7946"
"""MetalLB's speakers elect who announces an address."""
METALLB_METRICS = ("9120",)
CONTROL_PLANE_METRICS = ("2381", "10257", "10259")
"""etcd, controller manager and scheduler, as clusters/prod/controlplane.yaml opens them."""
EVERYBODY = IPv4Network("0.0.0.0/0")
OPERATORS = "talos-api-operators"
"""The rule by which people come in."""

Protocol = Literal["tcp", "udp"]


@dataclass(frozen=True)
class Rule:
    """Who reaches some ports; its name is the document's."""

    name: str
    ports: tuple[str, ...]
    sources: tuple[IPv4Network, ...] = ()
    machines: bool = True
    """The machines are let in too."""
    protocol: Protocol = "tcp"


def numbers(*ports: str) -> list[int]:
    """Give the ports of texts that name one, or a range of them, as in `9962-9965`."""
    found: list[int] = []
    for port in ports:
        first, _, last = port.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def documents(inputs: TalosInputs, machine: Machine) -> list[dict[str, Any]]:
    """Give the documents of a machine's firewall; none where the settings have no firewall."""
    if inputs.network.firewall is None:
        return []
    made: list[dict[str, Any]] = [{"apiVersion": "v1alpha1", "kind": DEFAULT, "ingress": "block"}]
    # The machines' whole network, not each machine's address: else one that comes would need a
    # change of all others first, and be cut off until then. What a router hides behind its own
    # address is no machine.
    machines = {
        "subnet": str(inputs.network.cidr),
        "except": f"{inputs.network.gateway}/32",
    }
    for rule in rules(inputs, machine):
        sources = [{"subnet": str(one)} for one in rule.sources]
        # Numbers alone are numbers in Talos' schema, ranges are texts.
        ports = [int(one) if one.isdecimal() else one for one in rule.ports]
        made.append(
            {
                "apiVersion": "v1alpha1",
                "kind": RULE,
                "name": rule.name,
                "portSelector": {"ports": ports, "protocol": rule.protocol},
                "ingress": [machines, *sources] if rule.machines else sources,
            }
        )
    return made


def rules(inputs: TalosInputs, machine: Machine) -> Iterator[Rule]:
    """Give the rules of a machine: what the platform needs, and the settings' networks.

    Ports of services are open whether they are installed or not: one that comes or goes is no
    change of the machines, and where nothing listens an open port is nothing.
    People have rules of their own: what one part of a rule excepts, no other part of it lets in.
    """
    firewall = inputs.network.firewall
    if firewall is None:
        return
    # Cilium does not hide pods behind their machine's address towards machines.
    pods = (inputs.network.pods,)
    # The backup's job asks etcd for snapshots by the Talos API.
    asks = pods if machine.is_control_plane and inputs.backup else ()
    yield Rule("talos-api", (APID,), asks)
    yield Rule(OPERATORS, (APID,), firewall.operators, machines=False)
    yield Rule("kubelet", (KUBELET,), pods)
    if machine.is_control_plane:
        yield Rule("kubernetes-api", (API_SERVER,), pods)
        yield Rule("kubernetes-api-operators", (API_SERVER,), firewall.operators, machines=False)
        if firewall.kubernetes:
            yield Rule("kubernetes-api-people", (API_SERVER,), firewall.kubernetes, machines=False)
        yield Rule("talos-trust", (TRUSTD,))
        yield Rule("etcd", (ETCD,))
        yield Rule("control-plane-metrics", CONTROL_PLANE_METRICS, pods)
    yield Rule("cilium", CILIUM, pods)
    yield Rule("cilium-metrics", CILIUM_METRICS, pods)
    # A gateway's packets come to Envoy through `input`, under the ports of its listeners.
    yield Rule("cilium-gateways", GATEWAYS, (EVERYBODY,), machines=False)
    if inputs.routing in TUNNELS:
        yield Rule("cilium-tunnel", (TUNNELS[inputs.routing],), protocol="udp")
    yield Rule("metallb", (MEMBERLIST,))
    yield Rule("metallb-udp", (MEMBERLIST,), protocol="udp")
    yield Rule("metallb-metrics", METALLB_METRICS, pods)


# --- What a configuration does to who reaches a machine -----------------------------------------


def of(configuration: str) -> list[dict[str, Any]]:
    """Read the firewall's documents in a machine's whole configuration, in a fixed order."""
    return of_kinds(configuration, KINDS)


def of_kinds(configuration: str, kinds: Collection[str]) -> list[dict[str, Any]]:
    """Read the documents of some kinds in a machine's whole configuration, in a fixed order."""
    parts = [
        dict(document)
        for document in plain_yaml.read_all(configuration)
        if isinstance(document, Mapping) and document.get("kind") in kinds
    ]
    return sorted(parts, key=lambda one: (str(one["kind"]), str(one.get("name"))))


def of_operators(configuration: str) -> list[dict[str, Any]]:
    """Read the part of the firewall that is for operators, the same on all machines."""
    return [one for one in of(configuration) if one.get("name") in (None, OPERATORS)]


def lets_in(configuration: str, address: str) -> bool:
    """Say whether a new connection from this address reaches the Talos API, as Talos decides it.

    A rule names who is let in, where the default is to block, or who is not kept out. With several
    rules for the port any of them lets in; each of them keeps out.
    """
    own = IPv4Address(address)
    parts = of(configuration)
    blocks = any(one["kind"] == DEFAULT and one.get("ingress") == "block" for one in parts)
    named = [_names(one, own) for one in parts if one["kind"] == RULE and _is_apids(one)]
    return any(named) if blocks else all(named)


def _is_apids(rule: Mapping[str, Any]) -> bool:
    selector = rule.get("portSelector") or {}
    if selector.get("protocol") != "tcp":
        return False
    ranges = (str(one).partition("-") for one in selector.get("ports") or ())
    return any(int(low) <= int(APID) <= int(high or low) for low, _, high in ranges)


def _names(rule: Mapping[str, Any], address: IPv4Address) -> bool:
    """Say whether a rule names an address; what one part excepts, no other part lets in."""
    sources = rule.get("ingress") or ()
    excepted = [one["except"] for one in sources if one.get("except")]
    return not _within(address, excepted) and _within(address, [one["subnet"] for one in sources])


def _within(address: IPv4Address, networks: Iterable[str]) -> bool:
    """Say whether one of these networks, as Talos takes them, has the address."""
    return any(address in ip_network(str(one), strict=False) for one in networks)
