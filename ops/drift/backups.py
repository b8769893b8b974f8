"""Layer Drift: how old the newest backup of etcd is, as its CronJob says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from clients.kubernetes_api import KubernetesApi
from components.kubernetes.backup import NAME, NAMESPACE

OLD = dt.timedelta(hours=2)
"""One is made every hour (kubernetes/backup.py): after this, one was missed and so was the next."""
CRONJOB = f"/apis/batch/v1/namespaces/{NAMESPACE}/cronjobs/{NAME}"
LOOK = f"`kubectl -n {NAMESPACE} get cronjobs,jobs` tells more"


def watch(api: KubernetesApi, now: dt.datetime) -> Iterator[str]:
    """Give a line when the newest backup is older than two hours. Raises `ApiError`.

    Nothing where no backup is set up; a job that somebody deleted is drift of its own.
    """
    job = api.find(CRONJOB)
    if job is None:
        return
    newest = (job.get("status") or {}).get("lastSuccessfulTime")
    age = now - dt.datetime.fromisoformat(newest or job["metadata"]["creationTimestamp"])
    if age <= OLD:
        return
    hours = int(age.total_seconds()) // 3600
    if newest:
        yield f"{NAME}: the newest backup is {hours} hours old ({newest}); {LOOK}"
    else:
        yield f"{NAME}: no backup has succeeded in the {hours} hours that the job exists; {LOOK}"
