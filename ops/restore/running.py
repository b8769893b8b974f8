"""Layer Restore: etcd's data on machines that run is replaced by that of a backup.

What `docs/procedures/restore-etcd.md` does by hand (Talos' own way:
https://www.talos.dev/v1.13/build-and-extend-talos/cluster-operations-and-maintenance/disaster-recovery/):
all control planes lose their data at once, one begins from the snapshot, the others join it. What
was done is seen on the machines, and a note says from when on data on them is the restored one, so
a run that was killed is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clients import restore_note
from clients.restore_note import Begun, Step
from clients.talosctl import TalosctlError
from components.talos.etcd import BOOTSTRAP_SECONDS, POLL_SECONDS, Member
from components.talos.health import GUARD_SECONDS, REBOOT_SECONDS, Observer

AGAIN = "then run the same command again: it goes on from here"


class RestoreError(Exception):
    """The restore stopped; the text says where and what to do."""


def restore(cluster: Observer, backup: str, snapshot: Path, note: Path) -> None:
    """Put a backup's data into the place of what is there. Raises RestoreError and HealthError."""
    begun = restore_note.read(note)
    if begun != Begun(backup, Step.RECOVERING):
        if begun != Begun(backup, Step.EMPTYING):  # else some are silent because they are wiped
            refuse_silent(cluster)
            refuse_unknown(cluster)
        restore_note.write(Begun(backup, Step.EMPTYING), note)
        empty(cluster)
        restore_note.write(Begun(backup, Step.RECOVERING), note)
    elif cluster.etcd_members(cluster.control_planes):
        cluster.clock.tell(
            f"etcd runs from {backup} since an earlier run, and only the rest is done now. To "
            f"replace its data once more, stop this, remove {note}, then run the same command again"
        )
    recover(cluster, snapshot, note)
    for member in cluster.members:
        if not member.control_plane:
            forget(cluster, member)
        cluster.wait_healthy(member, None, settle=False)
    restore_note.forget(note)


def forget(cluster: Observer, member: Member) -> None:
    """Let a worker forget what it knows, which is newer than what is restored.

    kubernetes.io, "Restoring an etcd cluster": restart what could rely on stale data.
    """

    def lacking() -> str:
        try:
            cluster.talos.restart_kubelet(member.address)
        except TalosctlError as error:
            return str(error)
        return ""

    _wait(cluster, f"{member} to start its kubelet again", lacking, GUARD_SECONDS)


def refuse_silent(cluster: Observer) -> None:
    """Refuse while a machine does not answer: a control plane would come back with old data."""
    silent = []
    for one in cluster.members:
        try:
            cluster.talos.boot_id(one.address)
        except TalosctlError as error:
            silent.append(f"{one}: {error}")
    if silent:
        raise RestoreError(
            f"nothing was changed. {'; '.join(silent)}. A control plane that comes back later "
            "would bring its old data: bring it back first, or replace it "
            f"(docs/procedures/replace-machine.md), {AGAIN}"
        )


def refuse_unknown(cluster: Observer) -> None:
    """Refuse while etcd has a member that is none of the settings' control planes."""
    known = {text for one in cluster.control_planes for text in (one.name, one.address)}
    unknown = [
        f"{one.name or one.id} ({one.address})"
        for one in cluster.etcd_members(cluster.control_planes)
        if not known & {one.name, one.address}
    ]
    if unknown:
        raise RestoreError(
            f"nothing was changed. etcd has a member that platform:machines does not name: "
            f"{', '.join(unknown)}. It would go on with the old data, as a cluster of its own: "
            f"take it out first (docs/procedures/remove-control-planes.md), {AGAIN}"
        )


def empty(cluster: Observer) -> None:
    """Wipe etcd's data on all control planes at once, and wait until none has any.

    One that comes back while others still run joins them again: it is wiped again.
    """
    ordered: dict[str, str] = {}

    def lacking() -> str:
        lacks = {one.name: _still_there(cluster, one, ordered) for one in cluster.control_planes}
        return "; ".join(f"{name}: {why}" for name, why in lacks.items() if why)

    _wait(cluster, "all control planes to be without data", lacking, REBOOT_SECONDS)


def _still_there(cluster: Observer, member: Member, ordered: dict[str, str]) -> str:
    """Say what the machine still has; it is told to wipe it once in each boot."""
    talos, address = cluster.talos, member.address
    try:
        if talos.etcd_is_empty(address):
            return "etcd still runs" if talos.etcd_runs(address) else ""
        boot = talos.boot_id(address)
        if ordered.get(member.name) != boot:
            talos.reset_data(address)
            ordered[member.name] = boot
    except TalosctlError as error:
        return str(error)
    return "is being wiped"


def recover(cluster: Observer, snapshot: Path, note: Path) -> None:
    """Begin etcd from the snapshot, on the first control plane, unless it has begun.

    Talos refuses until the machine's etcd waits for it.
    """
    first = cluster.control_planes[0]

    def lacking() -> str:
        if cluster.etcd_members(cluster.control_planes):
            return ""
        try:
            if not cluster.talos.etcd_is_empty(first.address):
                return "etcd is starting"
            cluster.talos.recover(first.address, snapshot)
        except TalosctlError as error:
            return f"not accepted yet: {error}"
        return "etcd is starting"

    _wait(
        cluster,
        f"{first} to run etcd from the backup",
        lacking,
        BOOTSTRAP_SECONDS,
        f"; without {note} it wipes all data once more first",
    )


def _wait(
    cluster: Observer, what: str, lacking: Callable[[], str], seconds: float, otherwise: str = ""
) -> None:
    if lacks := cluster.clock.wait(what, lacking, seconds=seconds, poll=POLL_SECONDS):
        raise RestoreError(
            f"waited {seconds:.0f} s for {what}; last seen: {lacks}. Fix it, {AGAIN}{otherwise}"
        )
