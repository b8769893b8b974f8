"""Layer Talos: when a machine counts as healthy, and how long to wait until it does.

The rules that keep etcd's quorum: at most one machine is touched at a time, and none while
another member of etcd is unhealthy. All functions here are plain and blocking; rollout.py binds
them to the deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from clients.talosctl import EtcdMember, Talosctl, TalosctlError
from clients.waiting import Clock
from components.talos import growth, lockout, refusals
from components.talos.growth import Size

POLL_SECONDS = 2.0
REBOOT_SECONDS = 600.0
"""From the order to reboot until the new boot answers; slow firmware takes minutes."""
HEALTHY_SECONDS = 900.0
"""Covers a first boot: installing to disk, rebooting, pulling the control plane's images."""
BOOTSTRAP_SECONDS = 600.0
GUARD_SECONDS = 60.0
"""Patience with the other machines: each was healthy when it was left, only a blip is bridged."""
QUORUM_SECONDS = 30.0
"""Patience with an etcd that runs and finds no majority: an election takes a second or two."""
CAPACITY_SECONDS = 120.0
"""A kubelet writes its node's status every ten seconds, and at its start."""
SETTLE_SECONDS = 10.0
"""A change that needs no reboot restarts pods and services only some seconds after its apply;
health counts once it has lasted this long."""

REPLACE = "docs/procedures/replace-machine.md"
LOST_QUORUM = "docs/procedures/lost-quorum.md"
LOST_DATA = f"{LOST_QUORUM}#no-machine-has-etcds-data"

NO_ANSWER = "Talos API"
"""What a machine lacks that does not answer."""
RUNNING = "running"
NODE_READY = "nodeReady"
"""Talos' condition for the Node object; it cannot be met before the cluster has a CNI."""


@dataclass(frozen=True)
class Member:
    """A machine of the platform, as its Talos API knows it."""

    name: str
    address: str
    control_plane: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


class HealthError(Exception):
    """A machine is not as it must be; the text names it, what was awaited and how to fix it."""

    page = "docs/operations.md"


@dataclass(frozen=True)
class Before:
    """What was seen of a machine before it was touched."""

    boot_id: str
    reboots: bool
    """The change that comes reboots the machine."""
    node_ready: bool


@dataclass(frozen=True)
class Observer:
    """Watches the machines of one cluster through their Talos API."""

    talos: Talosctl
    members: Sequence[Member]
    clock: Clock = field(default_factory=Clock)

    @property
    def control_planes(self) -> list[Member]:
        """The machines that run etcd and the Kubernetes API."""
        return [one for one in self.members if one.control_plane]

    def etcd_members(self, ask: Iterable[Member]) -> list[EtcdMember]:
        """List etcd's members as the first of these machines that answers knows them."""
        for machine in ask:
            try:
                return self.talos.etcd_members(machine.address)
            except TalosctlError:
                continue
        return []

    def _reachable(self, machines: Sequence[Member]) -> list[Member]:
        """Pick those that take a connection, dialed at once: one that is away takes seconds."""
        with ThreadPoolExecutor() as pool:
            reached = pool.map(lambda one: self.talos.reachable(one.address), machines)
            return [one for one, answers in zip(machines, reached, strict=True) if answers]

    def others(self, member: Member) -> list[Member]:
        """List the members of etcd apart from this machine.

        What etcd lists counts, not the settings: before the bootstrap it lists none, and a member
        that the settings name no longer still has its vote.
        """
        ask = [member] if member.control_plane else []
        ask += [one for one in self.control_planes if one.name != member.name]
        return [
            Member(other.name or other.id, other.address, control_plane=True)
            for other in self.etcd_members(ask)
            if member.name != other.name and member.address != other.address
        ]

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
        self._refuse_while_ill(member, lambda: self.others(member), self.quorum_watch())

    def quorum_watch(self) -> Callable[[], bool]:
        """Make a check, to be repeated in a wait, that tells whether etcd lacks its majority.

        It fails with HealthError once that has lasted QUORUM_SECONDS: no waiting fixes it. An etcd
        has lost it when it runs on a control plane, and none of them can list its members.
        """
        since: float | None = None

        def look() -> bool:
            nonlocal since
            alone = self._without_majority()
            since = None if not alone else (self.clock.now() if since is None else since)
            if since is not None and self.clock.now() - since >= QUORUM_SECONDS:
                raise HealthError(self._lost_quorum(alone))
            return since is not None

        return look

    def data_watch(self, member: Member) -> Callable[[], None]:
        """Make a check, to be repeated in a wait, that etcd's data is somewhere.

        It fails with HealthError once a control plane has had none for QUORUM_SECONDS, and no etcd
        runs that it could join: it has been bootstrapped before, and will not be again by itself.
        """
        since: float | None = None

        def look() -> None:
            nonlocal since
            empty = member.control_plane and self._nothing_to_join(member)
            since = None if not empty else (self.clock.now() if since is None else since)
            if since is not None and self.clock.now() - since >= QUORUM_SECONDS:
                raise HealthError(self._lost_data(member))

        return look

    def _nothing_to_join(self, member: Member) -> bool:
        try:
            if not self.talos.etcd_is_empty(member.address):
                return False
        except TalosctlError:
            return False
        runs = any(self._etcd_runs(one) for one in self.control_planes)
        return not runs and not self.etcd_members(self.control_planes)

    def _lost_data(self, member: Member) -> str:
        others = [one for one in self.control_planes if one != member]
        states = "".join(f" {one}: {self._without_etcd(one)}." for one in others)
        return (
            f"etcd's data is lost: {member} has none, and no control plane runs an etcd that it "
            f"could join.{states} This cluster was bootstrapped before, and an empty etcd in its "
            "place would look like success: nothing more is touched. A person must decide between "
            f"a backup and a new beginning: {LOST_DATA}"
        )

    def _without_majority(self) -> list[Member]:
        """List the control planes whose etcd runs, if none of them finds a majority."""
        if self.etcd_members(self.control_planes):
            return []
        return [one for one in self.control_planes if self._etcd_runs(one)]

    def _etcd_runs(self, member: Member) -> bool:
        try:
            return self.talos.etcd_runs(member.address)
        except TalosctlError:
            return False

    def _lost_quorum(self, alone: Sequence[Member]) -> str:
        others = [one for one in self.control_planes if one not in alone]
        states = "".join(f" {one}: {self._without_etcd(one)}." for one in others)
        return (
            f"etcd has lost its quorum: it runs on {', '.join(map(str, alone))}, and finds no "
            f"majority of its members there.{states} Nothing more is touched. Bring back what is "
            "only off or cut off, then run `pulumi up` again; when machines are gone for good, as "
            f"after a killed `pulumi destroy`, a person must decide: {LOST_QUORUM}"
        )

    def _without_etcd(self, member: Member) -> str:
        """Say why a machine is no member of etcd."""
        try:
            self.talos.boot_id(member.address)
        except TalosctlError as error:
            if self.talos.in_maintenance(member.address):
                return "new, it waits for its configuration"
            return str(error)
        return "it waits for an etcd to join"

    def _refuse_while_ill(
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
            return ". ".join(f"{name} lacks {_listed(lacks)}" for name, lacks in unhealthy.items())

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
        # Last of all: whatever is asked of the machine's configuration afterwards ends the try.
        if seen[0] is not None and (
            fault := lockout.tried(self.talos, self.clock, member.address, running, configuration)
        ):
            message = f"{member}: {fault}"
            raise HealthError(message)
        return seen[0]

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

        self._wait(member, "rebooted", pending, REBOOT_SECONDS)

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
        self._wait(member, "healthy", pending, HEALTHY_SECONDS, lasting)

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
            self._refuse_while_ill(member, lambda: self.others(member), self.quorum_watch())
            self.talos.reboot(member.address)
            before = Before(now or "", reboots=True, node_ready=True)
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

        self._wait(member, "of its new size", pending, CAPACITY_SECONDS)

    def _cni_beside(self, member: Member) -> bool:
        """Tell whether another machine's node is Ready: then the cluster has a CNI."""
        return any(not self.missing(one) for one in self.others(member))

    def bootstrap(self, member: Member, snapshot: Path | None = None) -> None:
        """Start etcd's first member here, unless etcd runs on any control plane already.

        It is empty, or has the data of a snapshot.
        Talos answers FailedPrecondition until the machine is installed and its time is in sync.
        """
        others = [one for one in self.control_planes if one.name != member.name]
        if self.etcd_members(self._reachable(others)):
            return
        quorum, begun = self.quorum_watch(), False

        def pending() -> dict[str, str]:
            nonlocal begun
            if self.etcd_members([member]):
                return {}
            # One that this run has begun is only starting. Else it ran before, with others.
            if not begun and self._etcd_runs(member) and quorum():
                return {"etcd": "runs, and finds no majority of its members"}
            try:
                if snapshot is None:
                    self.talos.bootstrap(member.address)
                else:
                    self.talos.recover(member.address, snapshot)
            except TalosctlError as error:
                return {"bootstrap": f"not accepted yet: {error}"}
            begun = True
            return {"etcd": "not started yet"}

        self._wait(member, "running etcd", pending, BOOTSTRAP_SECONDS)

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
            self._refuse_while_ill(leaving, lambda: self.control_planes, self.quorum_watch())
            try:
                self.talos.leave_etcd(address)
            except TalosctlError:
                self._remove_member(leaving, present[name])

    def _remove_member(self, member: Member, identity: str) -> None:
        errors = []
        for asked in self.control_planes:
            try:
                self.talos.remove_etcd_member(asked.address, identity)
            except TalosctlError as error:
                errors.append(f"{asked.name}: {error}")
            else:
                return
        message = (
            f"{member}: cannot be taken out of etcd ({'; '.join(errors)}). Its machine still "
            f"exists; run `talosctl -n {self.control_planes[0].address} etcd remove-member "
            f"{identity}`, then `pulumi up` again"
        )
        raise HealthError(message)

    def _wait(
        self,
        member: Member,
        state: str,
        pending: Callable[[], dict[str, str]],
        seconds: float,
        lasting: float = 0.0,
    ) -> None:
        """Poll until nothing has been pending for `lasting` seconds; fail after `seconds`."""
        lacks = self.clock.wait(
            f"{member} to be {state}",
            lambda: _listed(pending()),
            seconds=seconds,
            poll=POLL_SECONDS,
            lasting=lasting,
        )
        if lacks:
            message = (
                f"{member}: not {state} after {seconds:.0f} s; last seen: {lacks}. "
                f"See `talosctl -n {member.address} dmesg` and `talosctl -n {member.address} "
                "service`, fix it, then run `pulumi up` again: it goes on from here"
            )
            raise HealthError(message)


def _without_node(lacks: Mapping[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in lacks.items() if name != NODE_READY}


def _listed(lacks: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in lacks.items())


def _refusal(member: Member, states: str) -> str:
    return (
        f"{member}: not touched, since etcd could lose its quorum. {states}. Bring that machine "
        f"back (if it is gone for good: {REPLACE}), then run `pulumi up` again"
    )
