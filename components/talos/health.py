"""Layer Talos: when a machine counts as healthy, and how long to wait until it does.

The rules that keep etcd's quorum: at most one machine is touched at a time, and none while
another member of etcd is unhealthy. All functions here are plain and blocking; rollout.py binds
them to the deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from clients.talosctl import TalosctlError
from components.talos import claims, growth, lockout, marks, refusals, volumes
from components.talos.etcd import POLL_SECONDS, Etcd, HealthError, Member, listed
from components.talos.growth import Size
from components.talos.marks import Marks

REBOOT_SECONDS = 600.0
"""From the order to reboot until the new boot answers; slow firmware takes minutes."""
HEALTHY_SECONDS = 900.0
"""Covers a first boot: installing to disk, rebooting, pulling the control plane's images."""
GUARD_SECONDS = 60.0
"""Patience with the other machines: each was healthy when it was left, only a blip is bridged."""
VOLUMES_SECONDS = 300.0
"""Partitions and formats new disks; Talos looks again every 30 seconds at what has failed."""
CAPACITY_SECONDS = 120.0
"""A kubelet writes its node's status every ten seconds, and at its start."""
SETTLE_SECONDS = 10.0
"""A change that needs no reboot restarts pods and services only some seconds after its apply;
health counts once it has lasted this long."""

REPLACE = "docs/procedures/replace-machine.md"

NO_ANSWER = "Talos API"
"""What a machine lacks that does not answer."""
RUNNING = "running"
NODE_READY = "nodeReady"
"""Talos' condition for the Node object; it cannot be met before the cluster has a CNI."""


@dataclass(frozen=True)
class Before:
    """What was seen of a machine before it was touched."""

    boot_id: str
    reboots: bool
    """The change that comes reboots the machine."""
    node_ready: bool


class Observer(Etcd):
    """Watches the machines of one cluster through their Talos API."""

    def missing(self, member: Member) -> dict[str, str]:
        """Name what the machine lacks to be healthy, with reasons; empty when it is."""
        try:
            status = self.talos.machine_status(member.address)
            lacks = dict(status.unmet)
            if status.stage != RUNNING:
                lacks["stage"] = f"{status.stage}, not {RUNNING}"
            if member.control_plane and not lacks.keys() - {NODE_READY}:
                lacks |= self._missing_in_control_plane(member)
        except TalosctlError as error:
            return {NO_ANSWER: str(error)}
        return lacks

    def newly_missing(self, member: Member) -> Callable[[], str]:
        """Make a check that names what the machine lacks and does not lack now."""
        before = self.missing(member)

        def look() -> str:
            lacks = self.missing(member)
            return listed({name: why for name, why in lacks.items() if name not in before})

        return look

    def _missing_in_control_plane(self, member: Member) -> dict[str, str]:
        lacks = {}
        try:
            own = [
                known
                for known in self.talos.etcd_members(member.address)
                if member.name == known.name or member.address == known.address
            ]
        except TalosctlError as error:
            lacks["etcd"] = str(error)
        else:
            if not own:
                lacks["etcd"] = "the machine is not a member"
            elif own[0].learner:
                lacks["etcd"] = "the machine is still a learner, without a vote"
        if pods := self.talos.pods_not_ready(member.address):
            lacks["static pods"] = f"{', '.join(pods)} not running and ready"
        return lacks

    def guard(self, member: Member) -> None:
        """Refuse to touch a machine while another member of etcd is unhealthy.

        With its quorum lost etcd lists nobody: then nothing is touched either, since what the
        last machines hold may be all that is left. Before the bootstrap nothing is to be guarded.
        """
        self._refuse_while_unhealthy(member, lambda: self.others(member), self.quorum_watch())

    def _refuse_while_unhealthy(
        self,
        member: Member,
        others: Callable[[], Sequence[Member]],
        no_majority: Callable[[], bool],
    ) -> None:
        def lacking() -> str:
            lacking_of = {str(one): self.missing(one) for one in others()}
            if not lacking_of and no_majority():
                return "etcd runs, and finds no majority of its members"
            if all(lacking_of.values()):  # no other node is Ready: the cluster has no CNI yet
                lacking_of = {name: _without_node(lacks) for name, lacks in lacking_of.items()}
            unhealthy = {name: lacks for name, lacks in lacking_of.items() if lacks}
            return ". ".join(f"{name} lacks {listed(lacks)}" for name, lacks in unhealthy.items())

        what = f"the rest of etcd to be healthy, before {member} is touched"
        if states := self.clock.wait(what, lacking, seconds=GUARD_SECONDS, poll=POLL_SECONDS):
            raise HealthError(_refusal(member, states))

    def before_configuration(self, member: Member, configuration: str) -> Before | None:
        """Remember what the machine is like before a new configuration reaches it.

        None when it waits in maintenance mode: the configuration is its first.
        """
        seen: list[Before | None] = []
        refused: list[str] = []
        running = ""

        def lacking() -> str:
            nonlocal running
            try:
                running = self.talos.configuration(member.address)
                talos = self.talos.version(member.address)
                refused[:] = refusals.of(running, configuration, talos)
                if refused:  # Talos is not asked: its own refusal would hide the reason
                    return ""
                before = Before(
                    boot_id=self.talos.boot_id(member.address),
                    reboots=self.talos.needs_reboot(member.address, configuration),
                    node_ready=NODE_READY not in self.talos.machine_status(member.address).unmet,
                )
            except TalosctlError as error:
                if not self.talos.in_maintenance(member.address):
                    return str(error)
                before = None
            seen.append(before)
            return ""

        what = f"{member} to say what its new configuration would do"
        if error := self.clock.wait(what, lacking, seconds=GUARD_SECONDS, poll=POLL_SECONDS):
            message = (
                f"{member}: refuses or cannot take its new configuration: {error}. "
                f"Nothing was changed on it; see `talosctl -n {member.address} dmesg`, "
                "fix it, then run `pulumi up` again"
            )
            raise HealthError(message)
        if refused:
            message = f"{member}: not touched. {'. '.join(refused)}"
            raise HealthError(message)
        if seen[0] is not None:
            self.refuse_claimed(member, volumes.named(running) - volumes.named(configuration))
        # Last of all: whatever is asked of the machine's configuration afterwards ends the try.
        if seen[0] is not None and (
            fault := lockout.tried(
                self.talos,
                self.clock,
                member.address,
                running,
                configuration,
                self.newly_missing(member),
            )
        ):
            message = f"{member}: {fault}"
            raise HealthError(message)
        return seen[0]

    def refuse_claimed(self, member: Member, disks: Iterable[str]) -> None:
        """Refuse to take away data disks of the machine that a pod's volume lies on."""
        addresses = [one.address for one in self.control_planes]
        going = set(disks)
        if going and (fault := claims.fault(self.talos, addresses, member, going)):
            message = f"{member}: not touched. {fault}. Then run `pulumi up` again"
            raise HealthError(message)

    def first_configuration(self, member: Member, configuration: str) -> None:
        """Refuse a machine's first configuration if its firewall would keep this computer out."""
        others = [one.address for one in self.members if one.name != member.name]
        if fault := lockout.foreseen(self.talos, member.address, others, configuration):
            message = f"{member}: not touched. {fault}"
            raise HealthError(message)

    def wait_rebooted(self, member: Member, before: Before) -> None:
        """Wait until the machine runs another boot than before."""

        def pending() -> dict[str, str]:
            try:
                same = self.talos.boot_id(member.address) == before.boot_id
            except TalosctlError as error:
                return {NO_ANSWER: str(error)}
            return {"reboot": "not begun"} if same else {}

        self.wait(member, "rebooted", pending, REBOOT_SECONDS)

    def wait_healthy(self, member: Member, before: Before | None, *, settle: bool) -> None:
        """Wait until the machine is healthy and, to settle, has stayed so for some seconds."""
        was_ready = before is not None and before.node_ready
        quorum, data = self.quorum_watch(), self.data_watch(member)

        def pending() -> dict[str, str]:
            lacks = self.missing(member)
            if lacks.keys() == {NODE_READY} and not was_ready and not self._cni_beside(member):
                return {}
            if lacks:
                quorum()
                data()
            return lacks

        lasting = SETTLE_SECONDS if settle else 0.0
        self.wait(member, "healthy", pending, HEALTHY_SECONDS, lasting)

    def boot_id(self, member: Member) -> str | None:
        """Read the machine's boot; None when it does not answer."""
        try:
            return self.talos.boot_id(member.address)
        except TalosctlError:
            return None

    def take_up(self, member: Member, old: Size, new: Size, boot: str | None) -> None:
        """Let a healthy machine of a new size use it, and see its node have it.

        `boot` is that before the change, if known: one that has booted since needs nothing.
        """
        now = self.boot_id(member)
        booted = boot is not None and now is not None and now != boot
        if old.boots_for(new) and not booted:
            self._refuse_while_unhealthy(member, lambda: self.others(member), self.quorum_watch())
            # It is healthy: what its node may lack is a CNI, and that it will lack afterwards, too.
            ready = NODE_READY not in self.missing(member)
            self.talos.reboot(member.address)
            before = Before(now or "", reboots=True, node_ready=ready)
            self.wait_rebooted(member, before)
            self.wait_healthy(member, before, settle=False)
        elif new.memory_mib > old.memory_mib and not booted:
            self.talos.restart_kubelet(member.address)
            self.wait_healthy(member, None, settle=True)
        addresses = [one.address for one in self.control_planes]

        def pending() -> dict[str, str]:
            size = growth.of_node(self.talos, addresses, member.name)
            lacks = size if isinstance(size, str) else growth.lacking(size, new)
            return {"capacity": lacks} if lacks else {}

        self.wait(member, "of its new size", pending, CAPACITY_SECONDS)

    def wait_marked(self, member: Member, wanted: Marks) -> None:
        """Wait until the machine's node has the labels and taints of its configuration."""
        if not wanted:
            return
        addresses = [one.address for one in self.control_planes]

        def pending() -> dict[str, str]:
            node = growth.node_of(self.talos, addresses, member.name)
            lacks = node if isinstance(node, str) else marks.lacking(node, wanted)
            return {"labels and taints": lacks} if lacks else {}

        self.wait(member, "with its labels and taints", pending, CAPACITY_SECONDS)

    def wait_volumes(self, member: Member, size: Size) -> None:
        """Wait until Talos has made the volumes of the machine's data disks, of their sizes."""
        wanted = {name: size.data_gib.get(name, 0.0) for name in member.volumes}
        if not wanted:
            return

        def pending() -> dict[str, str]:
            try:
                return volumes.lacking(self.talos.volumes(member.address), wanted)
            except TalosctlError as error:
                return {NO_ANSWER: str(error)}

        self.wait(member, "done with its data disks", pending, VOLUMES_SECONDS)

    def _cni_beside(self, member: Member) -> bool:
        """Tell whether another machine's node is Ready: then the cluster has a CNI."""
        return any(not self.missing(one) for one in self.others(member))

    def retire(self, old: Mapping[str, str]) -> None:
        """Take out of etcd those control planes that the settings name no longer.

        Takes the earlier control planes as name -> address. Their machines still run: they leave
        by themselves, or are removed by another one when they do not answer. A member that the
        platform never had is left alone. None leaves while one that stays is unhealthy: those have
        the quorum alone afterwards.
        """
        staying = {one.name for one in self.control_planes}
        going = {name: address for name, address in old.items() if name not in staying}
        present = {one.name: one.id for one in self.etcd_members(self.control_planes)}
        for name, address in going.items():
            if name not in present:
                continue
            leaving = Member(name, address, control_plane=True)
            self._refuse_while_unhealthy(leaving, lambda: self.control_planes, self.quorum_watch())
            self.remove(leaving, present[name])


def _without_node(lacks: Mapping[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in lacks.items() if name != NODE_READY}


def _refusal(member: Member, states: str) -> str:
    return (
        f"{member}: not touched, since etcd could lose its quorum. {states}. Bring that machine "
        f"back (if it is gone for good: {REPLACE}), then run `pulumi up` again"
    )
