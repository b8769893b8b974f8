"""Layer Talos: a change of a machine's network must not cut it off.

A machine that runs tries its new network and its new firewall for half a minute: Talos takes them
back by itself unless the program goes on, which it does only once this computer has come in again
and the machine still works with the others. So no console is needed, which Talos does not have. Of
a machine's first configuration nothing can be tried; there this computer's own address is held
against the firewall's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.talosctl import TalosctlError, local_address
from components.talos import firewall

if TYPE_CHECKING:
    from clients.talosctl import Talosctl
    from clients.waiting import Clock

NETWORK = frozenset(
    {
        *(
            "BlackholeRouteConfig",
            "BondConfig",
            "BridgeConfig",
            "DHCPv4Config",
            "DHCPv6Config",
            "DummyLinkConfig",
        ),
        *("EthernetConfig", "HCloudVIPConfig", "HostnameConfig", "Layer2VIPConfig"),
        *("LinkAliasConfig", "LinkConfig", "ResolverConfig", "RoutingRuleConfig"),
        *("StaticHostConfig", "VLANConfig", "VRFConfig", "WireguardConfig"),
    }
)
"""Documents that make a machine's network; Talos applies them live (machinery's
config/types/network)."""
TRY_SECONDS = 30
"""How long a machine runs on what nobody has confirmed."""
REACH_SECONDS = 10.0
LASTING_SECONDS = 5.0
"""The kernel has the rules some moments after Talos has taken them."""
POLL_SECONDS = 1.0
NOT_RUN = "it does not run on it"
PAGE = "docs/procedures/firewall.md"
KEY = "platform:network.firewall.operators"


@dataclass(frozen=True)
class Part:
    """What of a configuration is tried: what messages call it, its documents, how to fix it."""

    name: str
    kinds: frozenset[str]
    fix: str


FIREWALL = Part("firewall", firewall.KINDS, f"Give a network of this computer in {KEY}")
NET = Part("network", NETWORK, "Correct platform:network, or the patches in clusters/")
PARTS = (NET, FIREWALL)
"""The network's fix comes first: with a wrong route no firewall lets anybody in."""


def tried(  # noqa: PLR0913, PLR0917 two configurations, and how to look at the machine
    talos: Talosctl,
    clock: Clock,
    address: str,
    running: str,
    wanted: str,
    unhealthy: Callable[[], str] = str,
) -> str:
    """Try a wanted configuration's network and firewall; says what is wrong, "" if nothing.

    Takes whole configurations, the machine's present one and the wanted one. Nothing else is tried,
    since other changes may restart things, or take a reboot. `unhealthy` says what the machine
    lacks that it had before. The machine stays on what it tries for TRY_SECONDS, or until it gets
    the wanted configuration.
    """
    changed = [one for one in PARTS if _of(running, one) != _of(wanted, one)]
    if not changed:
        return ""
    name = " and ".join(one.name for one in changed)
    mixed = with_parts_of(wanted, running, [kind for one in changed for kind in one.kinds])
    refused = ""
    try:
        talos.try_configuration(address, mixed, TRY_SECONDS)
    except TalosctlError as error:  # or it is the first answer that does not come through
        refused = f" (Talos' answer: {error})"

    def lacking() -> str:
        """Say what is wrong; each call of talosctl makes a new connection."""
        try:
            runs = talos.configuration(address)
        except TalosctlError as error:
            return str(error)
        if any(_of(runs, one) != _of(mixed, one) for one in changed):
            return f"{NOT_RUN}{refused}"
        return unhealthy() if NET in changed else ""

    what = f"{address} to take new connections under its new {name}"
    told = clock.wait(
        what, lacking, seconds=REACH_SECONDS, poll=POLL_SECONDS, lasting=LASTING_SECONDS
    )
    if not told:
        return ""
    what = f"{address} to take its old {name} back"
    lost = clock.wait(
        what, lambda: _unreachable(talos, address), seconds=2.0 * TRY_SECONDS, poll=POLL_SECONDS
    )
    now = "It has its old one again, by itself"
    if lost:
        now = f"It should have its old one again by now, and does not answer ({lost})"
    if told.startswith(NOT_RUN):
        return f"not changed. It was to try its new {name} first, and {told}; run `pulumi up` again"
    return (
        f"not changed. It tried its new {name}, and no longer let this computer in"
        f"{_seen(address)}, or no longer worked with the other machines ({told}). {now}. "
        f"{' '.join(f'{one.fix}.' for one in changed)} Then run `pulumi up` again ({PAGE})"
    )


def with_parts_of(wanted: str, running: str, kinds: Sequence[str]) -> str:
    """Give the running configuration with the wanted one's documents of these kinds."""
    parts = [one for one in _texts(running) if not _is_one_of(one, kinds)]
    parts += [one for one in _texts(wanted) if _is_one_of(one, kinds)]
    return "---\n".join(part for part in parts if part.strip())


def _of(configuration: str, part: Part) -> list[dict[str, Any]]:
    return firewall.of_kinds(configuration, part.kinds)


def _texts(configuration: str) -> Iterator[str]:
    """Take a configuration apart into its documents, each as it is written."""
    part: list[str] = []
    for line in configuration.splitlines(keepends=True):
        if line.rstrip() == "---":
            yield "".join(part)
            part = []
        else:
            part.append(line if line.endswith("\n") else line + "\n")
    yield "".join(part)


def _is_one_of(document: str, kinds: Sequence[str]) -> bool:
    lines = {line.rstrip() for line in document.splitlines()}
    return any(f"kind: {kind}" in lines for kind in kinds)


def foreseen(talos: Talosctl, address: str, others: Sequence[str], wanted: str) -> str:
    """Say why a machine's first configuration would keep this computer out; "" if it would not.

    Another machine that answers under the same rules proves more than an address does, which a NAT
    may change on the way.
    """
    own = local_address(address)
    if own is None or firewall.lets_in(wanted, own):
        return ""
    for other in others:
        with suppress(TalosctlError):
            if firewall.of_operators(talos.configuration(other)) == firewall.of_operators(wanted):
                return ""
    return (
        f"Its firewall would keep this computer out, which reaches it from {own}. Give that "
        f"address, or its network, in {KEY}; behind a NAT, that which the machines see too ({PAGE})"
    )


def _unreachable(talos: Talosctl, address: str) -> str:
    """Say why the machine takes no new connection."""
    try:
        talos.boot_id(address)
    except TalosctlError as error:
        return str(error)
    return ""


def _seen(address: str) -> str:
    own = local_address(address)
    return "" if own is None else f", which reaches it from {own}"
