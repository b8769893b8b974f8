"""Layer vSphere: a machine's disks are known by their names, and stay where they are.

The provider would move a disk to another unit of its controller with the machine off; the guest
then finds it under another device name, and may take it for another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pulumi

if TYPE_CHECKING:
    from components.hooks import Hook

SYSTEM = "system"
"""The name of the disk that Talos is installed to, at unit 0."""

Disks = Sequence[Mapping[str, Any]]


class MovedDiskError(Exception):
    """A change would move a disk."""


def moved(before: Disks, after: Disks) -> dict[str, tuple[int, int]]:
    """Give each disk, by its label, that would go from one unit of the controller to another."""
    old, new = units(before), units(after)
    return {
        label: (old[label], new[label])
        for label in old
        if label in new and old[label] != new[label]
    }


def units(disks: Disks) -> dict[str, int]:
    """Give the unit of each disk by its label; the provider's default is 0."""
    return {str(one.get("label")): int(one.get("unitNumber") or 0) for one in disks}


def stay(name: str) -> Hook:
    """Make the hook that refuses a change of a machine that moves one of its disks."""

    async def stay(args: pulumi.ResourceHookArgs) -> None:
        before = (args.old_inputs or {}).get("disks") or ()
        after = (args.new_inputs or {}).get("disks") or ()
        if found := moved(before, after):
            raise MovedDiskError(refusal(name, found))

    return stay


def refusal(name: str, found: Mapping[str, tuple[int, int]]) -> str:
    """Say which disks of a machine would move, and how they stay."""
    what = ", ".join(f"{label} from unit {old} to {new}" for label, (old, new) in found.items())
    fix = ", ".join(f"`unit: {old}` to {label}" for label, (old, _) in found.items())
    return (
        f"platform:machines, {name}: its disks would move ({what}), and the machine could take one "
        f"for another. Nothing was changed; add {fix} in dataDisks, then run `pulumi up` again"
    )
