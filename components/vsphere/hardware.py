"""Layer vSphere: what the other layers know of a virtual machine's hardware."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import Card, Machine

LINK = "eth0"
"""The interface in the machines' network; Talos' VMware image boots with net.ifnames=0."""
LINUX_START_MIB = 3072
"""vCenter gives a Linux machine that was started with at most so much nothing past it live."""


def further_cards(machine: Machine) -> Iterator[tuple[str, Card]]:
    """Give a machine's network cards beside the first, each with the name that its guest gives."""
    return ((f"eth{number}", card) for number, card in enumerate(machine.networks, 1))
