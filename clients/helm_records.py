"""Helm's own records of releases, fixed where a killed run left them broken.

Helm keeps each revision of a release in a Secret. A run that is killed with its plugin leaves a
`pending-...` revision, at which every later operation stops with "another operation is in
progress", with `atomic` as well; a killed installation, or an etcd that was restored, leaves a
release that the state does not know, and the next one stops with "cannot re-use a name that is
still in use". Both are fixed right before the engine touches the release. Objects stay as they
are: Helm adopts those that carry the release's own annotations (helm/pkg/action/validate.go,
existingResourceConflict).
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clients.kubernetes_api import KubernetesApi
from clients.waiting import Clock

if TYPE_CHECKING:
    from config.charts import ChartPlan

PENDING = "pending-"
PATIENCE_SECONDS = 15.0
"""The plugin of a killed engine may live on and finish what it began."""
POLL_SECONDS = 1.0


class RecordError(Exception):
    """A release of the same name is somebody else's."""

    page = "docs/procedures/failed-up.md"


@dataclass(frozen=True)
class Record:
    """One revision of a release, as Helm's Secret says."""

    secret: str
    revision: int
    status: str
    chart: str

    @property
    def pending(self) -> bool:
        """Whether an operation on it has begun and not ended."""
        return self.status.startswith(PENDING)


def forget_unknown(api: KubernetesApi, plan: ChartPlan, clock: Clock) -> list[str]:
    """Remove all records of a release that is about to be installed; says what it did.

    Raises `RecordError` when the release is of another chart.
    """
    found = _settled(api, plan, clock)
    strangers = {one.chart for one in found} - {plan.chart}
    if strangers:
        message = (
            f"{plan.namespace}/{plan.release}: a Helm release of that name is there, of the chart "
            f"{', '.join(sorted(strangers))}; remove it: `helm uninstall --namespace "
            f"{plan.namespace} {plan.release}`"
        )
        raise RecordError(message)
    return [
        _forget(api, plan, one, "the state does not know it, as after a killed run or a restore")
        for one in found
    ]


def forget_pending(api: KubernetesApi, plan: ChartPlan, clock: Clock) -> list[str]:
    """Remove the pending records of a release that is about to be upgraded; says what it did."""
    pending = [one for one in _settled(api, plan, clock) if one.pending]
    return [_forget(api, plan, one, f"a killed run left it {one.status}") for one in pending]


def _settled(api: KubernetesApi, plan: ChartPlan, clock: Clock) -> list[Record]:
    """Read the records, giving a pending operation a while to end by itself."""
    found: list[Record] = []

    def lacking() -> str:
        found[:] = records(api, plan)
        pending = [f"revision {one.revision} is {one.status}" for one in found if one.pending]
        return ", ".join(pending)

    what = f"the work of a killed run to end on the release {plan.namespace}/{plan.release}"
    clock.wait(what, lacking, seconds=PATIENCE_SECONDS, poll=POLL_SECONDS)
    return found


def _forget(api: KubernetesApi, plan: ChartPlan, record: Record, why: str) -> str:
    api.delete(f"{_secrets(plan)}/{record.secret}")
    return (
        f"{plan.namespace}/{plan.release}: Helm's record of revision {record.revision} is removed: "
        f"{why}"
    )


def records(api: KubernetesApi, plan: ChartPlan) -> list[Record]:
    """Read all records of a release, oldest first."""
    selector = quote(f"owner=helm,name={plan.release}")
    items = api.get(f"{_secrets(plan)}?labelSelector={selector}")["items"]
    return sorted((_record(item) for item in items), key=lambda one: one.revision)


def manifests(api: KubernetesApi) -> dict[tuple[str, str], str]:
    """Give what each deployed release last rendered, by namespace and name.

    Raises `ApiError`. A manifest may hold secrets.
    """
    items = api.get(f"/api/v1/secrets?labelSelector={quote('owner=helm,status=deployed')}")["items"]
    newest = {
        (one["metadata"]["namespace"], one["metadata"]["labels"]["name"]): one
        for one in sorted(items, key=lambda each: int(each["metadata"]["labels"]["version"]))
    }
    return {key: str(_unpacked(one)["manifest"]) for key, one in newest.items()}


def _secrets(plan: ChartPlan) -> str:
    return f"/api/v1/namespaces/{plan.namespace}/secrets"


def _record(item: dict[str, Any]) -> Record:
    """Read a record. Its text holds the values, secrets too: nothing else of it is kept."""
    labels = item["metadata"]["labels"]
    release = _unpacked(item)
    return Record(
        secret=item["metadata"]["name"],
        revision=int(labels["version"]),
        status=str(labels["status"]),
        chart=str(release["chart"]["metadata"]["name"]),
    )


def _unpacked(item: dict[str, Any]) -> dict[str, Any]:
    # The Secret's own base64 is around Helm's.
    packed = base64.b64decode(base64.b64decode(item["data"]["release"]))
    found: dict[str, Any] = json.loads(gzip.decompress(packed))
    return found
