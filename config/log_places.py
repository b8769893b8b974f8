"""Configuration: where the machines send their logs, by the settings and by services.logging.

The address is one of the Services' network that never changes: Kubernetes keeps its first 256
addresses, or a sixteenth where that is less, for Services that ask for one (its page "ClusterIP
allocation"), and the tenth is the name service's.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import NetworkSettings

SERVICES_PORT, KERNEL_PORT = 5140, 5141
PLACE = 14
"""In the Services' network, counted from its first address."""


def address(network: NetworkSettings) -> IPv4Address:
    """Give the Service's address to which Talos sends its logs."""
    return network.services[PLACE]


def services(network: NetworkSettings) -> str:
    """Give where the logs of Talos' services go."""
    return f"tcp://{address(network)}:{SERVICES_PORT}"


def kernel(network: NetworkSettings) -> str:
    """Give where the kernel's log goes."""
    return f"tcp://{address(network)}:{KERNEL_PORT}"
