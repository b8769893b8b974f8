"""Layer Review: what is not part of the change and still must be seen in time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config.resource_types import MACHINE, MACHINE_SECRETS
from config.secret_keys import SECRET_NAMES
from config.support import ending
from ops.engine.preview import Change, Preview

EXPIRY_DAYS = 60
EXPIRES = "expires"
"""The stack's output that says when credentials end (components/talos/cluster.py)."""
FIXES = {
    "talosconfig": "`pulumi up` renews it within a month of its end; fetch it again then",
    "kubeconfig": "`pulumi up` renews it within a month of its end; fetch it again then",
} | dict.fromkeys(SECRET_NAMES, "docs/procedures/rotate-secret.md says how to renew it")


def watch(preview: Preview, today: dt.date) -> Iterator[str]:
    """Give what to watch, the most urgent first."""
    yield from expiry(preview, today)
    yield from ending(preview.settings, today)
    resources = [*preview.unchanged, *preview.changes]
    yield from _backups(resources, today)
    yield from unprotected(resources)


def expiry(preview: Preview, today: dt.date) -> Iterator[str]:
    """Give the credentials that end within 60 days, or have ended."""
    ends: Any = preview.stack_outputs.get(EXPIRES)
    if not isinstance(ends, Mapping):
        return
    dated = sorted((dt.date.fromisoformat(str(text)[:10]), name) for name, text in ends.items())
    for end, name in dated:
        days = (end - today).days
        if days <= EXPIRY_DAYS:
            state = f"ends in {days} days" if days >= 0 else f"ended {-days} days ago"
            yield f"{name} {state} ({end.isoformat()}): {FIXES.get(name, 'renew it')}"


def _backups(resources: list[Change], today: dt.date) -> Iterator[str]:
    for one in resources:
        if not one.type.endswith(":CronJob") or "backup" not in one.name or one.old is None:
            continue
        status = one.old.outputs.get("status")
        newest = status.get("lastSuccessfulTime") if isinstance(status, Mapping) else None
        if newest is None:
            yield (
                f"{one.name}: the age of the newest backup is not known here; "
                "`kubectl -n platform-backup get cronjob` tells"
            )
            continue
        day = dt.date.fromisoformat(str(newest)[:10])
        if (today - day).days >= 1:
            yield f"{one.name}: the newest backup that the state knows is of {newest}"


def unprotected(resources: Sequence[Change]) -> Iterator[str]:
    """Give what holds data and may be deleted."""
    for one in resources:
        state = one.new or one.old
        if state is None or state.protect or one.operation == "delete":
            continue
        if one.type == MACHINE and len(state.inputs.get("disks") or ()) > 1:
            yield f"{one.name} has data disks and is not protected"
        if one.type.endswith((":PersistentVolumeClaim", ":PersistentVolume")):
            yield f"{one.name} holds data and is not protected"
        if one.type == MACHINE_SECRETS:
            yield f"{one.name}: the machine secrets are not protected; every backup depends on them"
