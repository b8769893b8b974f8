"""Layer Talos: etcd's members: who has a vote, and whether a majority and its data are there.

As the Talos API of the control planes tells it. All functions here are plain and blocking, as those
of health.py, which says when a machine may be touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from clients.talosctl import EtcdMember, Talosctl, TalosctlError
from clients.waiting import Clock

POLL_SECONDS = 2.0
BOOTSTRAP_SECONDS = 600.0
QUORUM_SECONDS = 30.0
"""Patience with an etcd that runs and finds no majority: an election takes a second or two."""

LOST_QUORUM = "docs/procedures/lost-quorum.md"
LOST_DATA = f"{LOST_QUORUM}#no-machine-has-etcds-data"


@dataclass(frozen=True)
class Member:
    """A machine of the platform, as its Talos API knows it."""

    name: str
    address: str
    control_plane: bool
    volumes: tuple[str, ...] = ()
    """Its data disks of which Talos makes volumes."""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


class HealthError(Exception):
    """A machine is not as it must be; the text names it, what was awaited and how to fix it."""

    page = "docs/operations.md"


@dataclass(frozen=True)
class Etcd:
    """etcd of one cluster, which runs on its control planes."""

    talos: Talosctl
    members: Sequence[Member]
    """All machines, those that run no etcd too."""
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

        self.wait(member, "running etcd", pending, BOOTSTRAP_SECONDS)

    def remove(self, member: Member, identity: str) -> None:
        """Take a member, by its id, out of etcd: it leaves by itself, or another one removes it."""
        try:
            self.talos.leave_etcd(member.address)
        except TalosctlError:
            self._remove_by_another(member, identity)

    def _remove_by_another(self, member: Member, identity: str) -> None:
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

    def wait(
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
            lambda: listed(pending()),
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


def listed(lacks: Mapping[str, str]) -> str:
    """Write what a machine lacks, by name and reason, on one line."""
    return "; ".join(f"{name}: {reason}" for name, reason in lacks.items())
