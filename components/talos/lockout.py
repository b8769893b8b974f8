"""Layer Talos: a change of a machine's firewall must not lock out the one who makes it.

A machine that runs tries the new firewall for half a minute: Talos takes it back by itself unless
the program goes on, which it does only once this computer has come in again. Of a machine's first
configuration nothing can be tried; there this computer's own address is held against the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from clients.talosctl import TalosctlError, local_address
from components.talos import firewall

if TYPE_CHECKING:
    from clients.talosctl import Talosctl
    from clients.waiting import Clock

TRY_SECONDS = 30
"""How long a machine runs on a firewall that nobody has confirmed."""
REACH_SECONDS = 10.0
LASTING_SECONDS = 5.0
"""The kernel has the rules some moments after Talos has taken them."""
POLL_SECONDS = 1.0
NOT_RUN = "it does not run on it"
PAGE = "docs/procedures/firewall.md"
KEY = "platform:network.firewall.operators"


def tried(talos: Talosctl, clock: Clock, address: str, running: str, wanted: str) -> str:
    """Try the firewall of a wanted configuration on a machine; says what is wrong, "" if nothing.

    Takes whole configurations, the machine's present one and the wanted one. Only the firewall is
    tried, since other changes may restart things, or take a reboot. The machine stays on it for
    TRY_SECONDS, or until it gets the wanted configuration.
    """
    if firewall.of(running) == firewall.of(wanted):
        return ""
    mixed = firewall.with_firewall_of(wanted, running)
    refused = ""
    try:
        talos.try_configuration(address, mixed, TRY_SECONDS)
    except TalosctlError as error:  # or it is the first answer that does not come through
        refused = f" (Talos' answer: {error})"

    def lacking() -> str:
        """Say what is wrong; each call of talosctl makes a new connection."""
        try:
            runs = firewall.of(talos.configuration(address))
        except TalosctlError as error:
            return str(error)
        return "" if runs == firewall.of(mixed) else f"{NOT_RUN}{refused}"

    what = f"{address} to take new connections under its new firewall"
    told = clock.wait(
        what, lacking, seconds=REACH_SECONDS, poll=POLL_SECONDS, lasting=LASTING_SECONDS
    )
    if not told:
        return ""
    what = f"{address} to take its old firewall back"
    lost = clock.wait(
        what, lambda: _unreachable(talos, address), seconds=2.0 * TRY_SECONDS, poll=POLL_SECONDS
    )
    now = "It has its old one again, by itself"
    if lost:
        now = f"It should have its old one again by now, and does not answer ({lost})"
    if told.startswith(NOT_RUN):
        return (
            f"not changed. It was to try its new firewall first, and {told}; run `pulumi up` again"
        )
    return (
        "not changed. It tried its new firewall, and no longer let this computer in"
        f"{_seen(address)} ({told}). {now}. Give a network of this computer in {KEY}, then run "
        f"`pulumi up` again ({PAGE})"
    )


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
