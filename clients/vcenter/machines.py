"""Machines in vCenter: what an interrupted run left behind.

A run that is killed while vCenter makes a machine leaves the machine in vCenter but not in the
stack's state; the next run would fail on its name. Such a leftover holds nothing yet: it was never
switched on, or its Talos waits for its first configuration. Only then is it removed, and only when
vCenter itself knows it for this stack's (evidence.py).

A destroy that is killed leaves a machine in the state that is off, or that vCenter has removed
meanwhile. The first is switched on when its turn comes; of the second nothing can be made before
the state has forgotten it (`make repair`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from clients.talosctl import Talosctl, TalosctlError
from clients.vcenter import evidence, pyvmomi
from clients.vcenter.connection import (
    VCenter,
    VCenterError,
    by_uuid,
    connected,
    finish,
    power_state,
    read,
    settle,
)
from clients.waiting import Clock
from config.resource_types import MACHINE

BOOT_SECONDS = 180.0
POLL_SECONDS = 1.0


class InTheWayError(VCenterError):
    """The stack does not know it, and it is not proven to be a killed run's leftover."""


@contextmanager
def ways_out(adopt: str, data_disks: int) -> Iterator[None]:
    """Say of a machine that is in the way what to do about it; `adopt` is the import's command."""
    try:
        yield
    except InTheWayError as error:
        # Of the disks only the first one's label can be left as the import gives it.
        loss = (
            ". An import does not know its data disks' names: `pulumi preview` shows that `up` "
            "would make them again, so copy away first what they hold"
        )
        message = (
            f"{error}. If it is this platform's, take it over with `{adopt}`"
            f"{loss if data_disks else ''}; if it is not, rename or delete it; then run "
            "`pulumi up` again, which leaves a machine that was taken over as it is"
        )
        raise VCenterError(message) from None


def import_command(name: str, path: str, *, parent: str, provider: str) -> str:
    """Give the command that takes a machine of vCenter over into the state, for a shell.

    With parent and provider the machine gets the URN that the program gives it; any other one
    would be a second machine to the engine. The program has its code already, and protects none.
    """
    return (
        f"pulumi import {MACHINE} {name} {shlex.quote(path)} "
        f"--parent {shlex.quote(f'machines={parent}')} "
        f"--provider {shlex.quote(f'vcenter={provider}')} --protect=false --generate-code=false"
    )


def switch_on(vcenter: VCenter, password: str, name: str, uuid: str, clock: Clock) -> bool:
    """Switch on the machine with this UUID; tell whether it was off.

    Fails with VCenterError when vCenter does not have it.
    """
    with connected(vcenter, password) as content:
        machine = by_uuid(content, uuid)
        if machine is not None:
            settle(machine, clock, "powerOff", "destroy")  # which a killed run began
            machine = by_uuid(content, uuid)
        if machine is None:
            raise VCenterError(_gone(vcenter, name))
        if power_state(content, machine) == pyvmomi.vim.VirtualMachine.PowerState.poweredOn:
            return False
        finish(machine.PowerOnVM_Task(), clock)
        return True


def told(
    vcenter: VCenter, password: str, names: Iterable[str], key: str
) -> dict[str, tuple[str, str]]:
    """Read what machines are told under a key of their extraConfig: each one's UUID, and the text.

    By name; "" for one that is told nothing. A machine that is not there is left out.
    """
    found = {}
    with connected(vcenter, password) as content:
        for name in names:
            machine = content.searchIndex.FindByInventoryPath(vcenter.path(name))
            if machine is not None:
                given = read(content, machine, "config.extraConfig") or ()
                values = [str(one.value) for one in given if one.key == key]
                found[name] = (str(read(content, machine, "config.uuid")), "".join(values[:1]))
    return found


def unconfigured(talos: Talosctl, address: str, clock: Clock) -> bool:
    """Tell whether a machine that runs waits for its first configuration.

    It may have been switched on a moment ago: only after BOOT_SECONDS does silence mean no.
    """
    configured = False

    def lacking() -> str:
        nonlocal configured
        if talos.in_maintenance(address):
            return ""
        try:
            talos.boot_id(address)
        except TalosctlError as error:
            return str(error)
        configured = True  # it takes our credentials: it has a configuration of this cluster
        return ""

    what = f"the machine at {address}, which this stack does not know, to say what it is"
    silent = clock.wait(what, lacking, seconds=BOOT_SECONDS, poll=POLL_SECONDS)
    return not silent and not configured


def remove_leftover(
    vcenter: VCenter,
    password: str,
    name: str,
    is_unconfigured: Callable[[str], bool],
    clock: Clock | None = None,
) -> bool:
    """Remove the leftover of this name; tell whether there was one.

    Of one that runs `is_unconfigured` is asked, by its UUID in vCenter. Fails with InTheWayError
    when it is not proven to hold nothing.
    """
    clock = clock or Clock()
    with connected(vcenter, password) as content:
        machine = content.searchIndex.FindByInventoryPath(vcenter.path(name))
        if machine is not None:
            settle(machine, clock)  # such as the killed run's own clone
            machine = content.searchIndex.FindByInventoryPath(vcenter.path(name))
        if machine is None:
            return False
        running = power_state(content, machine) == pyvmomi.vim.VirtualMachine.PowerState.poweredOn
        if reason := _against(content, machine, evidence.mark(vcenter.path(name)), running=running):
            raise InTheWayError(_in_the_way(vcenter, name, reason))
        if running and not is_unconfigured(str(read(content, machine, "config.uuid"))):
            reason = "it runs, and does not wait for its first configuration"
            raise InTheWayError(_in_the_way(vcenter, name, reason))
        if running:
            # Else a run that is killed just now would leave one that was on.
            going = pyvmomi.MODEL.vm.ConfigSpec(
                annotation=evidence.mark(vcenter.path(name)) + evidence.GOING
            )
            finish(machine.ReconfigVM_Task(going), clock)
            finish(machine.PowerOffVM_Task(), clock)
        finish(machine.Destroy_Task(), clock)
        return True


def _against(content: Any, machine: Any, mark: str, *, running: bool) -> str:  # noqa: ANN401
    """Say why a machine is no leftover of a killed run, by what vCenter knows; empty if it is."""
    return evidence.against_leftover(
        str(read(content, machine, "config.annotation") or ""),
        mark,
        evidence.events_of(content, machine),
        str(content.sessionManager.currentSession.userName),
        running=running,
    )


def _in_the_way(vcenter: VCenter, name: str, reason: str) -> str:
    return (
        f"{name}: vCenter has a machine {vcenter.path(name)} that this stack does not know, and it "
        f"may hold something: {reason}"
    )


def _gone(vcenter: VCenter, name: str) -> str:
    return (
        f"{name}: the stack's state has this machine, and {vcenter.server} does not: a killed "
        "`pulumi destroy` removed it, or somebody did. `make repair` takes it out of the state, "
        "then `pulumi up` makes it again (docs/procedures/failed-up.md)"
    )
