"""Layer Omni: the hooks that see machines join, and Omni make a cluster of them.

Binds observer.py to the deployment. Hooks run only in a real update, never in a preview; each may
run again after a failure or a kill, and does no harm then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import pulumi

from clients.omnictl import Account, Omnictl, connect
from clients.waiting import Clock
from components.hooks import Hook, in_thread, resolved
from components.omni.observer import Made, Observer, OmniError, Wanted

if TYPE_CHECKING:
    from components.vsphere.leftovers import Question
    from components.vsphere.machines import Uuids
    from config.settings import Machine, Omni

T = TypeVar("T")
Connect = Callable[[Account], AbstractContextManager[Omnictl]]
Render = Callable[[Mapping[str, str]], str]
"""Writes the template, for machines that are called so."""


@dataclass(frozen=True)
class Joining:
    """With what machines join."""

    token: pulumi.Output[str]
    """That of the settings; a secret."""
    made: pulumi.Output[Callable[[], Mapping[str, Made]]]
    """Looks, in a thread, with what those that are there were made."""


@dataclass(frozen=True)
class Way:
    """How hooks ask Omni, and the cluster."""

    account: pulumi.Output[Account]
    earlier: pulumi.Output[str | None]
    """The kubeconfig of an earlier run; a secret."""
    connector: Connect = connect
    clock: Clock | None = None
    """For tests: a hook has its own."""


class Rollout:
    """Hooks for the machines of one cluster."""

    def __init__(self, cluster: str, omni: Omni, way: Way) -> None:
        self._cluster = cluster
        self._omni = omni
        self._way = way
        self._boots: dict[str, str | None] = {}
        """Each changed machine's boot before its change."""

    def question(self) -> pulumi.Output[Question]:
        """Make the question whether a machine of vCenter's waits for its first configuration."""

        def made(account: Account) -> Question:
            def waits(uuid: str, clock: Clock) -> bool:
                with self._way.connector(account) as omni:
                    return Observer(omni, self._cluster, self._way.clock or clock).waits(uuid)

            return waits

        return self._way.account.apply(made)

    def answers(self) -> Hook:
        """Make the hook that sees Omni answer, and have no such cluster, before all else."""

        async def answers(args: pulumi.ResourceHookArgs) -> None:
            await self._observe(args, Observer.answers)

        return answers

    def guard(self, machine: Machine) -> Hook:
        """Make the hook that refuses to touch a machine while another one is unhealthy."""

        async def guard(args: pulumi.ResourceHookArgs) -> None:
            old, new = (_disks(one) for one in (args.old_inputs, args.new_inputs))
            if lost := sorted(old - new):
                raise OmniError(
                    f"platform:machines, {machine.name}: the data disk {', '.join(lost)} would be "
                    "deleted, and nobody looks yet whether a pod's volume lies on it in a cluster "
                    "that Omni manages. Nothing was changed; add it again"
                )
            uuid = args.id or str((args.old_outputs or {})["uuid"])
            boot = await self._observe(args, lambda one: one.guard(machine.name, uuid))
            self._boots[machine.name] = boot

        return guard

    def token_taken(self, token: pulumi.Output[str]) -> Hook:
        """Make the hook that sees that Omni lets machines join with the token of the settings."""

        async def token_taken(args: pulumi.ResourceHookArgs) -> None:
            given = await resolved(token)
            await self._observe(args, lambda one: one.token_taken(given))

        return token_taken

    def joined(self, machine: Machine, uuid: pulumi.Output[str], joining: Joining) -> Hook:
        """Make the hook that waits until Omni has a new machine."""

        async def joined(args: pulumi.ResourceHookArgs) -> None:
            identity, token = await resolved(uuid), await resolved(joining.token)
            made = await resolved(joining.made)

            def look(one: Observer) -> str:
                never = partial(one.hopeless, machine.name, token, cache(made))
                return one.joined(_wanted(machine), identity, never)

            await self._observe(args, look)

        return joined

    def back(self, machine: Machine, uuid: pulumi.Output[str]) -> Hook:
        """Make the hook that sees a changed machine come back; another one joins as a new one."""

        async def back(args: pulumi.ResourceHookArgs) -> None:
            identity = await resolved(uuid)
            old, new = args.old_inputs or {}, args.new_inputs or {}
            boot = self._boots.pop(machine.name, None)
            off = turned_off(old, new)
            await self._observe(
                args, lambda one: one.back(_wanted(machine), identity, boot, restarted=off)
            )

        return back

    def sync(self, uuids: Uuids, render: Render) -> Hook:
        """Make the hook that tells Omni of the cluster, and waits until it is made so."""

        async def sync(args: pulumi.ResourceHookArgs) -> None:
            now = {name: await resolved(uuid) for name, uuid in uuids.items()}
            before = {str(k): str(v) for k, v in _mapping(args.old_inputs, "machines").items()}
            await self._observe(args, lambda one: one.sync(render, now, before, self._omni.lost))

        return sync

    def healthy(self, uuids: Uuids, render: Render) -> Hook:
        """Make the hook that waits until Omni calls the cluster healthy."""

        async def healthy(args: pulumi.ResourceHookArgs) -> None:
            now = {name: await resolved(uuid) for name, uuid in uuids.items()}
            await self._observe(args, lambda one: one.healthy(render(one.ids(now))))

        return healthy

    async def _observe(self, args: pulumi.ResourceHookArgs, look: Callable[[Observer], T]) -> T:
        """Look at Omni in a thread: the event loop serves the engine meanwhile."""
        account = await resolved(self._way.account)
        kubeconfig = await self._way.earlier.future()

        def run(clock: Clock) -> T:
            with self._way.connector(account) as omni:
                return look(Observer(omni, self._cluster, self._way.clock or clock, kubeconfig))

        return await in_thread(args, run)


def turned_off(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Say whether vCenter turned a machine off for a change, by its gate's inputs.

    It does for other CPUs and memory (components/omni/nodes.py), and to take a network card away.
    """
    sizes = any(old.get(key) != new.get(key) for key in ("cpus", "memoryMiB"))
    before, after = (list(one.get("networks") or ()) for one in (old, new))
    return sizes or after[: len(before)] != before


def _wanted(machine: Machine) -> Wanted:
    return Wanted(machine.name, str(machine.address))


def _disks(machine: Mapping[str, Any] | None) -> set[str]:
    """Name the disks of a virtual machine's inputs."""
    return {str(one.get("label")) for one in (machine or {}).get("disks") or ()}


def _mapping(inputs: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    return (inputs or {}).get(key) or {}
