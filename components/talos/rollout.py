"""Layer Talos: the hooks that let at most one machine be touched at a time.

Binds the rules of health.py to the deployment. Hooks run only in a real update, never in a
preview; each may run again after a failure or a kill, and does no harm then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import pulumi

from clients import restore_note
from clients.talosctl import Talosctl, connect
from clients.waiting import Clock
from components.hooks import Hook, in_thread, resolved
from components.talos.etcd import Member
from components.talos.growth import Size
from components.talos.health import Before, Observer
from components.talos.marks import Marks
from components.talos.snapshots import Snapshots, folder
from components.talos.upgrade import Target, Upgrade

T = TypeVar("T")
Connect = Callable[[str], AbstractContextManager[Talosctl]]


def _disks(machine: Mapping[str, Any] | None) -> set[str]:
    """Name the disks of a virtual machine's inputs."""
    return {str(one.get("label")) for one in (machine or {}).get("disks") or ()}


def _see_settings(cluster: Observer, member: Member, gate: Mapping[str, Any] | None) -> None:
    """Wait until a healthy machine has its data disks, labels and taints, as its gate says them."""
    size = Size.of_gate(gate)
    if size is not None:
        cluster.wait_volumes(member, size)
    cluster.wait_marked(member, Marks.of_gate(gate))


class Rollout:
    """Hooks for the machines of one cluster."""

    def __init__(
        self,
        members: Sequence[Member],
        talosconfig: pulumi.Output[str],
        *,
        connector: Connect = connect,
        clock: Clock | None = None,
    ) -> None:
        """Take all machines, and the credentials for their Talos API (a secret).

        `clock` is for tests: a hook has its own.
        """
        self._members = tuple(members)
        self._talosconfig = talosconfig
        self._connect = connector
        self._clock = clock
        self._before: dict[str, Before] = {}
        self._boots: dict[str, str | None] = {}
        """Each changed machine's boot before its change."""
        self._made: set[str] = set()
        """Machines that this run has made."""
        self._snapshots = Snapshots(folder(), pulumi.get_stack())

    def guard(self, member: Member) -> Hook:
        """Make the hook that refuses to touch the machine while another one is unhealthy."""

        async def guard(args: pulumi.ResourceHookArgs) -> None:
            old, new = (_disks(one) for one in (args.old_inputs, args.new_inputs))

            def look(cluster: Observer) -> str | None:
                cluster.guard(member)
                cluster.refuse_claimed(member, old - new)
                return cluster.boot_id(member)

            self._boots[member.name] = await self._observe(args, look)

        return guard

    def made(self, member: Member) -> Hook:
        """Make the hook that remembers a machine as made by this run, from its newest image."""

        async def made(_: pulumi.ResourceHookArgs) -> None:
            self._made.add(member.name)

        return made

    def upgrade(self, member: Member, configuration: pulumi.Output[str], target: Target) -> Hook:
        """Make the hook that brings a machine to its release of Talos, unless it runs that."""

        async def upgrade(args: pulumi.ResourceHookArgs) -> None:
            if member.name in self._made:
                return
            wanted = await resolved(configuration)
            await self._observe(
                args, lambda one: Upgrade(one, member, target, wanted, self._snapshots).run()
            )

        return upgrade

    def before_configuration(self, member: Member, configuration: pulumi.Output[str]) -> Hook:
        """Make the hook that guards a new configuration and remembers the machine as it was."""

        async def before_configuration(args: pulumi.ResourceHookArgs) -> None:
            wanted = await resolved(configuration)

            def look(cluster: Observer) -> Before | None:
                cluster.guard(member)
                return cluster.before_configuration(member, wanted)

            before = await self._observe(args, look)
            if before is not None:
                self._before[member.name] = before

        return before_configuration

    def first_configuration(self, member: Member, configuration: pulumi.Output[str]) -> Hook:
        """Make the hook that refuses a first configuration that would keep this computer out."""

        async def first_configuration(args: pulumi.ResourceHookArgs) -> None:
            wanted = await resolved(configuration)
            await self._observe(args, lambda one: one.first_configuration(member, wanted))

        return first_configuration

    def bootstrap(self, member: Member) -> Hook:
        """Make the hook that starts etcd, on this machine, unless it runs somewhere.

        From a backup, when `python -m ops restore rebuild` runs the program.
        """

        async def bootstrap(args: pulumi.ResourceHookArgs) -> None:
            snapshot = restore_note.asked_for()
            await self._observe(args, lambda cluster: cluster.bootstrap(member, snapshot))

        return bootstrap

    def first_health(self, member: Member) -> Hook:
        """Make the hook that waits until a new machine is healthy."""

        async def first_health(args: pulumi.ResourceHookArgs) -> None:
            def wait(cluster: Observer) -> None:
                cluster.wait_healthy(member, None, settle=False)
                _see_settings(cluster, member, args.new_inputs)

            await self._observe(args, wait)

        return first_health

    def health_again(self, member: Member) -> Hook:
        """Make the hook that sees a changed machine go, if it has to, and come back healthy."""

        async def health_again(args: pulumi.ResourceHookArgs) -> None:
            # None after a changed VM, and when an earlier run was killed between change and gate.
            before = self._before.pop(member.name, None)
            boot = self._boots.pop(member.name, None)
            old, new = Size.of_gate(args.old_inputs), Size.of_gate(args.new_inputs)

            def wait(cluster: Observer) -> None:
                reboots = before is not None and before.reboots
                if before is not None and reboots:
                    cluster.wait_rebooted(member, before)
                cluster.wait_healthy(member, before, settle=not reboots)
                if old is not None and new is not None and old != new:
                    cluster.take_up(member, old, new, boot)
                _see_settings(cluster, member, args.new_inputs)

            await self._observe(args, wait)

        return health_again

    def retire(self) -> Hook:
        """Make the hook that takes removed control planes out of etcd, before their VMs go."""

        async def retire(args: pulumi.ResourceHookArgs) -> None:
            old = (args.old_inputs or {}).get("controlPlanes") or {}
            await self._observe(args, lambda cluster: cluster.retire(old))

        return retire

    async def _observe(self, args: pulumi.ResourceHookArgs, look: Callable[[Observer], T]) -> T:
        """Look at the machines in a thread: the event loop serves the engine meanwhile."""
        talosconfig = await resolved(self._talosconfig)

        def run(clock: Clock) -> T:
            with self._connect(talosconfig) as talos:
                return look(Observer(talos, self._members, self._clock or clock))

        return await in_thread(args, run)
