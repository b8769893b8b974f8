"""Layer Omni: what Omni calls a machine.

Omni knows a machine by the UUID that its firmware tells the guest. A virtual machine of the
hardware version of Talos' OVA (15) tells the first three groups of it in the other byte order than
vCenter does; newer ones tell it as it is. So each UUID of vCenter has two forms, and only the
machine itself says which one is its own.
"""

from __future__ import annotations

from uuid import UUID


def swapped(uuid: str) -> str:
    """Give a UUID with the bytes of its first three groups in the other order."""
    return str(UUID(bytes_le=UUID(uuid).bytes))


def forms(uuid: str) -> tuple[str, ...]:
    """Give the names that Omni may know a machine by, whose UUID in vCenter this is."""
    own = str(UUID(uuid))
    return tuple(dict.fromkeys((own, swapped(own))))
