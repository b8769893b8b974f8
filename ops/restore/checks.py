"""Layer Restore: a backup is fetched, decrypted and checked before anything is touched.

The decrypted file is in a temporary folder that only its owner can read, and goes with it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from clients import age_file, etcd_snapshot
from clients.backup_storage import Stored
from clients.progress import told
from config.schedule import longest_interval

if TYPE_CHECKING:
    from ops.restore.stack import Stack

PAGE = "docs/procedures/restore-backup.md"
CHECK = "`python -m ops restore check` lists the backups"
FUTURE = dt.timedelta(minutes=5)
"""Clocks differ."""


class RefusedError(Exception):
    """A backup is not restored; the text says why and what to do."""


@dataclass(frozen=True)
class Checked:
    """A decrypted backup that may be restored."""

    stored: Stored
    path: Path
    content: etcd_snapshot.Content

    def told(self, now: dt.datetime) -> str:
        """Say what it is."""
        content, newest = self.content, self.content.newest
        age = f"the newest was created {ago(now - newest)}" if newest else "none says its age"
        return (
            f"{self.stored.key}: taken {ago(now - self.stored.taken)}, whole, of this cluster; "
            f"revision {content.revision}, {sum(content.kinds.values())} objects of "
            f"{len(content.kinds)} kinds, {age}"
        )


def ago(time: dt.timedelta) -> str:
    """Say how long ago something was, in the unit that fits."""
    minutes = max(int(time.total_seconds()) // 60, 0)
    for name, size in (("days", 24 * 60), ("hours", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {name} ago"
    return f"{minutes} minutes ago"


def oldest_allowed(stack: Stack) -> dt.timedelta:
    """Give how old a backup may be: after two intervals one was missed, and so was the next."""
    return 2 * longest_interval(stack.backup.schedule)


def choose(stack: Stack, key: str | None) -> Stored:
    """Give the named backup, or the newest one. Raises StorageError and RefusedError."""
    found = stack.storage.snapshots()
    where = f"{stack.backup.bucket} at {stack.backup.endpoint}"
    if not found:
        raise RefusedError(
            f"no backup of the cluster {stack.settings.cluster.name} is in {where}; is "
            f"platform:services.backup that of the platform, and platform:cluster.name its name?"
        )
    if key is None:
        return found[-1]
    for one in found:
        if one.key == key:
            return one
    raise RefusedError(f"{key}: no backup of this cluster is called so in {where}; {CHECK}")


def refuse_old(
    stored: Stored, now: dt.datetime, allowed: dt.timedelta, accepted: float | None
) -> None:
    """Refuse a backup that is older than it should be, unless so many hours are accepted."""
    age = now - stored.taken
    hours = int(age.total_seconds()) // 3600 + 1
    if age < -FUTURE:
        raise RefusedError(
            f"{stored.key}: was taken in the future ({stored.taken:%Y-%m-%d %H:%M} UTC); set this "
            "computer's clock"
        )
    if accepted is not None:
        allowed = max(allowed, dt.timedelta(hours=accepted))
    if age > allowed:
        raise RefusedError(
            f"{stored.key}: outdated: it was taken {ago(age)}, and whatever was changed since "
            f"would be lost. Up to {allowed} is taken without a question. Take a newer one "
            f"({CHECK}), or accept its age: `--accept-age {hours}` (hours)"
        )


@contextmanager
def fetched(stack: Stack, stored: Stored, identity: Path) -> Iterator[Checked]:
    """Offer a backup, decrypted and checked: whole, and of this cluster.

    Raises StorageError, AgeError, EngineError and RefusedError.
    """
    keys = age_file.identities(identity)
    authority = stack.authority
    with TemporaryDirectory(prefix="restore-") as folder:
        encrypted, plain = Path(folder, "encrypted"), Path(folder, "db.snapshot")
        encrypted.touch(mode=0o600)
        with told(f"fetch {stored.key}"):
            stack.storage.download(stored.key, encrypted)
        age_file.decrypt(encrypted, plain, keys, stored.key)
        encrypted.unlink()
        yield Checked(stored, plain, checked(plain, stored.key, authority))


def checked(path: Path, name: str, authority: bytes) -> etcd_snapshot.Content:
    """Read a snapshot that is whole and of the cluster with this authority (PEM).

    Raises RefusedError.
    """
    try:
        content = etcd_snapshot.read(path)
    except etcd_snapshot.SnapshotError as error:
        raise RefusedError(f"{name}: damaged: {error}. Take another one: {CHECK}") from None
    if not content.trusts(authority):
        raise RefusedError(
            f"{name}: of another cluster: its pods trust another authority than the keys in this "
            "stack's state have, so its Secrets could not be read and its pods' accounts would be "
            "refused. Is this the right stack (`pulumi stack ls`)? If the keys were recreated, "
            "backups of before are lost, unless a copy of the state of then is kept "
            "(`python -m ops restore state`)"
        )
    return content
