"""Layer Drift: how old the newest backup of etcd is, and how its bucket keeps it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from clients.backup_storage import StorageError
from clients.kubernetes_api import KubernetesApi
from clients.pulumi_cli import EngineError
from components.kubernetes.backup import NAME, NAMESPACE
from ops.drift.finding import DriftError, Finding
from ops.restore.checks import ago, oldest_allowed
from ops.restore.stack import Stack

CRONJOB = f"/apis/batch/v1/namespaces/{NAMESPACE}/cronjobs/{NAME}"
SITE = "the site"
PAGE = "docs/site-requirements.md#storage-for-backups"
SHORTEST_DAYS = 7
"""What was damaged on a Friday evening is noticed on Monday."""


def findings(api: KubernetesApi, now: dt.datetime) -> Iterator[Finding]:
    """Look into the storage of the backups. Raises `ApiError` and `DriftError`.

    Nothing where no backup is set up; a job that somebody deleted is drift of its own.
    """
    job = api.find(CRONJOB)
    if job is None:
        return
    try:
        stack = Stack.read()
        yield from age(stack, now, dt.datetime.fromisoformat(job["metadata"]["creationTimestamp"]))
    except (EngineError, StorageError) as error:
        raise DriftError(str(error)) from None
    yield from retention(stack)


def age(stack: Stack, now: dt.datetime, since: dt.datetime) -> Iterator[Finding]:
    """Find a newest backup that is older than two intervals of the schedule.

    `since` is when the job was made: before it none was due.
    """
    found = stack.storage.snapshots()
    newest = found[-1].taken if found else since
    if now - max(newest, since) <= oldest_allowed(stack):
        return
    what = f"the newest backup was taken {ago(now - newest)} ({found[-1].key})" if found else (
        f"no backup was taken since the job was made {ago(now - since)}"
    )  # fmt: skip
    look = f"kubectl -n {NAMESPACE} get cronjobs,jobs,pods"
    yield _finding(what, f"`{look}`, and the log of the last job, say why")


def retention(stack: Stack) -> Iterator[Finding]:
    """Find a bucket that keeps its backups too short, for ever, or not from a stolen key."""
    try:
        kept = stack.storage.kept()
    except StorageError as error:
        yield _finding(
            f"how the bucket keeps its backups could not be read ({error})",
            "let the key read it: s3:GetBucketVersioning, s3:GetLifecycleConfiguration, "
            f"s3:GetBucketObjectLockConfiguration ({PAGE})",
        )
        return
    if not kept.versioned and not kept.locked_days:
        yield _finding(
            "the bucket has neither versions nor an object lock: whoever has the platform's key "
            "can delete every backup",
            f"switch versioning or object lock on ({PAGE})",
        )
    if not kept.expires_days:
        yield _finding(
            "the bucket deletes nothing, and the job does not either: it grows for ever",
            f"give it a lifecycle rule that expires objects, after 90 days for example ({PAGE})",
        )
    elif kept.expires_days < SHORTEST_DAYS:
        yield _finding(
            f"the bucket deletes backups after {kept.expires_days} days: damage that is noticed "
            "later has no way back",
            f"let them live for {SHORTEST_DAYS} days or more ({PAGE})",
        )


def _finding(what: str, fix: str) -> Finding:
    return Finding(place="storage", who="backups of etcd", owner=SITE, what=what, fix=fix)
