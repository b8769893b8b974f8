"""Layer vSphere: hooks that clear what a killed run left in vCenter, and switch machines on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from clients.talosctl import connect
from clients.vcenter.connection import VCenter
from clients.vcenter.content_library import remove_items
from clients.vcenter.machines import (
    import_command,
    remove_leftover,
    switch_on,
    unconfigured,
    ways_out,
)
from clients.waiting import Clock
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from clients.vcenter.leftovers import Clear
    from components.hooks import Hook
    from config.settings import Machine


@dataclass(frozen=True)
class Owner:
    """Where the stack keeps its machines: what an import has to name."""

    parent: pulumi.Output[str]
    """URN of their component."""
    provider: pulumi.Output[str]
    """URN of their provider."""


Question = Callable[[str, Clock], bool]
"""Whether the machine with this UUID waits for its first configuration; asked in a thread."""


def asks_talos(talosconfig: pulumi.Output[str], machine: Machine) -> pulumi.Output[Question]:
    """Make the question that the machine itself answers; `talosconfig` is a secret."""

    def made(credentials: str) -> Question:
        def waits(_: str, clock: Clock) -> bool:
            with connect(credentials) as talos:
                return unconfigured(talos, str(machine.address), clock)

        return waits

    return talosconfig.apply(made)


def no_leftover(
    vcenter: VCenter,
    password: pulumi.Output[str],
    question: pulumi.Output[Question],
    machine: Machine,
    owner: Owner,
) -> Hook:
    """Make the hook that clears a machine's place in vCenter before the machine is made.

    `question` is asked of a machine that runs there, and that the stack does not know.
    """

    async def no_leftover(args: pulumi.ResourceHookArgs) -> None:
        secret, waits = await resolved(password), await resolved(question)
        parent, provider = await resolved(owner.parent), await resolved(owner.provider)

        def run(clock: Clock) -> None:
            adopt = import_command(
                machine.name, vcenter.path(machine.name), parent=parent, provider=provider
            )
            with ways_out(adopt, len(machine.data_disks)):
                remove_leftover(
                    vcenter, secret, machine.name, lambda uuid: waits(uuid, clock), clock
                )

        await in_thread(args, run)

    return no_leftover


def awake(
    vcenter: VCenter, password: pulumi.Output[str], name: str, uuid: pulumi.Output[str]
) -> Hook:
    """Make the hook that switches a machine of the stack (its UUID) on, if it is off."""

    async def awake(args: pulumi.ResourceHookArgs) -> None:
        secret, identity = await resolved(password), await resolved(uuid)
        await in_thread(args, lambda clock: switch_on(vcenter, secret, name, identity, clock))

    return awake


def cleared(
    vcenter: VCenter, password: pulumi.Output[str], clear: Clear, place: pulumi.Input[str]
) -> Hook:
    """Make the hook that clears a place in vCenter before something is made there."""

    async def cleared(args: pulumi.ResourceHookArgs) -> None:
        secret = await resolved(password)
        where = await resolved(pulumi.Output.from_input(place))
        await in_thread(args, lambda clock: clear(vcenter, secret, where, clock))

    return cleared


def no_leftover_item(
    vcenter: VCenter,
    password: pulumi.Output[str],
    library: pulumi.Output[str],
    name: str,
) -> Hook:
    """Make the hook that clears an item's place in the library (its id) before the item is made."""

    async def no_leftover_item(args: pulumi.ResourceHookArgs) -> None:
        secret, identity = await resolved(password), await resolved(library)
        await in_thread(args, lambda _: remove_items(vcenter, secret, identity, name))

    return no_leftover_item
