"""Layer Policies: machines, addresses and control planes are those of the settings.

The program builds all of it from one address plan; these rules hold what reaches the providers
against that plan, so that an address typed in somewhere else is found before it is in use twice.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

from config.resource_types import CONFIGURATION, GATE, KUBECONFIG, MACHINE, RELEASE
from config.values import as_address
from ops.engine.values import Leaf, Resource, leaves, mapping, sequence
from ops.policies.known import Known
from ops.policies.model import Level, Rule

if TYPE_CHECKING:
    from config.settings import Settings

MEMBERS_GATE = "etcd-members"
API_GATE = "kubernetes-api"
ASKED = ("metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs")
"""Annotations of a Service that ask MetalLB for addresses."""
WAIT = "let it depend on the other's health (components.talos.nodes.Nodes)"
USE_PLAN = "take it from the settings, platform:{section} (`python -m ops show` has the plan)"


def check_addresses(resource: Resource, known: Known) -> Iterator[str]:
    """Hold every address that machines, Talos and load balancers are told against the plan."""
    looks = LOOKS.get(resource.type) or LOOKS_OF_KINDS.get(resource.kind)
    if looks is None:
        return
    if known.settings is None:
        yield (
            "the address plan cannot be read from the stack's settings; run "
            f"`python -m ops check` ({known.settings_fault.splitlines()[0]})"
        )
        return
    yield from looks(resource, known.settings)


# --- Machines and Talos --------------------------------------------------------------------------


def _machine(resource: Resource, settings: Settings) -> Iterator[str]:
    """Look at the address seeded into a machine.

    Only at that: the rest of it is read once and ignored after, and may be older than the plan.
    """
    planned = {one.name: str(one.address) for one in settings.machines}.get(resource.name)
    fix = USE_PLAN.format(section="machines")
    if planned is None:
        yield f"no machine of that name is in the plan; {fix}"
        return
    encoded = mapping(resource.inputs.get("extraConfig")).get("guestinfo.metadata")
    if not isinstance(encoded, str):
        return
    try:
        metadata = json.loads(base64.b64decode(encoded))
    except (binascii.Error, ValueError):
        yield "guestinfo.metadata is not JSON in base64; make it with vsphere.machines.guestinfo"
        return
    for card in mapping(mapping(mapping(metadata).get("network")).get("ethernets")).values():
        for address in sequence(mapping(card).get("addresses")):
            if str(address).partition("/")[0] != planned:
                yield (
                    f"guestinfo.metadata gives it {address}, and the plan {planned}; {fix}, and "
                    "add a machine under another name to change an address"
                )


def _apply(resource: Resource, settings: Settings) -> Iterator[str]:
    planned = {one.name: str(one.address) for one in settings.machines}.get(resource.name)
    yield from _told(resource, ("node", "endpoint"), {planned} - {None})


def _kubeconfig(resource: Resource, settings: Settings) -> Iterator[str]:
    planned = {str(one.address) for one in settings.control_planes}
    yield from _told(resource, ("node", "endpoint"), planned)


def _told(resource: Resource, names: Sequence[str], planned: set[Any]) -> Iterator[str]:
    for name in names:
        value = resource.inputs.get(name)
        if isinstance(value, str) and value not in planned:
            there = ", ".join(sorted(planned)) or "no machine of that name"
            fix = USE_PLAN.format(section="machines")
            yield f"{name} is {value}, and the plan has {there}; {fix}"


def _gate(resource: Resource, settings: Settings) -> Iterator[str]:
    endpoint, planned_url = resource.inputs.get("endpoint"), settings.access_url
    if resource.name == API_GATE and isinstance(endpoint, str) and endpoint != planned_url:
        section = "network.vip" if settings.omni is None else "omni.kubernetesProxy"
        fix = USE_PLAN.format(section=section)
        yield f"the API is awaited at {endpoint}, and the plan has {planned_url}; {fix}"
    if resource.name == MEMBERS_GATE:
        planned = {one.name: str(one.address) for one in settings.control_planes}
        if (members := _members(resource)) != planned:
            fix = USE_PLAN.format(section="machines")
            there = f"etcd's members are {_listed(members)}, and the plan's {_listed(planned)}"
            yield f"{there}; {fix}"


def _listed(members: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {address}" for name, address in members.items()) or "none"


def _members(gate: Resource) -> dict[str, Any]:
    return dict(mapping(gate.inputs.get("controlPlanes")))


# --- Load balancers ------------------------------------------------------------------------------


def _service(resource: Resource, settings: Settings) -> Iterator[str]:
    yield from _in_pools(leaves(mapping(resource.metadata.get("annotations"))), settings)
    address = resource.spec.get("loadBalancerIP")
    if isinstance(address, str):
        yield from _pooled(address, "spec.loadBalancerIP", settings)


def _release(resource: Resource, settings: Settings) -> Iterator[str]:
    yield from _in_pools(leaves(resource.inputs.get("values")), settings)


def _in_pools(found: Iterator[Leaf], settings: Settings) -> Iterator[str]:
    for leaf in found:
        if leaf.key in ASKED and isinstance(leaf.value, str):
            for address in leaf.value.split(","):
                yield from _pooled(address.strip(), leaf.key, settings)


def _pooled(text: str, where: str, settings: Settings) -> Iterator[str]:
    address = as_address(text)
    pools = settings.network.pools
    if address is None or not any(address in pool.addresses for pool in pools):
        there = ", ".join(str(pool.addresses) for pool in pools) or "none"
        fix = USE_PLAN.format(section="network.pools")
        yield f"{where} asks for {text}, which is in no pool of the plan ({there}); {fix}"


def _pool(resource: Resource, settings: Settings) -> Iterator[str]:
    if not resource.type.startswith("kubernetes:metallb.io/"):
        return
    planned = {str(pool.addresses) for pool in settings.network.pools}
    for text in sequence(resource.spec.get("addresses")):
        if isinstance(text, str) and text not in planned:
            there = ", ".join(sorted(planned)) or "none"
            fix = USE_PLAN.format(section="network.pools")
            yield f"its addresses {text} are not a pool of the plan ({there}); {fix}"


LOOKS = {
    MACHINE: _machine,
    CONFIGURATION: _apply,
    KUBECONFIG: _kubeconfig,
    GATE: _gate,
    RELEASE: _release,
}
LOOKS_OF_KINDS = {"Service": _service, "IPAddressPool": _pool}


# --- Control planes ------------------------------------------------------------------------------


def check_count(resource: Resource, _: Known) -> Iterator[str]:
    """Ask for an odd number of control planes."""
    if resource.type == GATE and resource.name == MEMBERS_GATE:
        count = len(_members(resource))
        if count % 2 == 0:
            fewer, more = (count - 1, count + 1) if count else (1, 3)
            yield (
                f"{count} control planes, which is not odd: etcd survives no more failures than "
                f"with one fewer; make it {fewer} or {more} in platform:machines"
            )


def check_order(resources: Sequence[Resource], known: Known) -> Iterator[tuple[Resource, str]]:
    """Ask that of any two control planes one waits for the other.

    The engine deletes and makes machines along these dependencies: without one, both could be gone
    at a time, and etcd's quorum with them. At a first creation no machine waits for another: there
    is none that could be gone. Then it is their configurations that wait. Whether there is none,
    the engine tells no pack: the rule on a plan asks that (ops/policies/steps.py).
    """
    if known.settings is None:
        return  # said by check_addresses, at each machine
    names = {one.name for one in known.settings.control_planes}
    after = _closure(resources)

    def alone(type_: str) -> list[tuple[Resource, Resource]]:
        members = [one for one in resources if one.type == type_ and one.name in names]
        return [
            (one, other)
            for one, other in combinations(members, 2)
            if one.urn not in after[other.urn] and other.urn not in after[one.urn]
        ]

    machines = [one for one in resources if one.type == MACHINE and one.name in names]
    apart = alone(MACHINE)
    configured = sum(one.type == CONFIGURATION and one.name in names for one in resources)
    if len(apart) == comb(len(machines), 2):
        if known.settings.omni is not None:
            return  # Omni takes them in, one after the other
        if configured == len(machines):
            apart = alone(CONFIGURATION)
    for one, other in apart:
        text = f"nothing keeps it and {one.name} from being replaced at the same time"
        yield other, f"{text}; {WAIT}"


def _closure(resources: Sequence[Resource]) -> dict[str, set[str]]:
    """Give, for each resource, all that it waits for."""
    direct = {one.urn: set(one.dependencies) for one in resources}
    found: dict[str, set[str]] = {}

    def of(urn: str) -> set[str]:
        if urn not in found:
            found[urn] = set()  # the engine's graph has no circles
            for below in direct.get(urn, ()):
                found[urn] |= {below} | of(below)
        return found[urn]

    for one in resources:
        of(one.urn)
    return found


RULES = (
    Rule(
        "addresses-are-planned",
        Level.MANDATORY,
        "Every address of machines, of the API and of load balancers comes from the address plan.",
        check=check_addresses,
    ),
    Rule(
        "control-planes-are-odd",
        Level.MANDATORY,
        "The number of control planes is odd.",
        check=check_count,
    ),
    Rule(
        "control-planes-wait",
        Level.MANDATORY,
        "Control planes are changed one after the other.",
        check_stack=check_order,
    ),
)
