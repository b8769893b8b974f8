"""Layer Drift: a cluster that Omni manages, against what Omni was told of it.

What was told is in the state: the gate `omni-cluster` has the template and the machines' UUIDs
(components/omni/cluster.py). Omni itself says what differs (`omnictl cluster template diff`).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clients.omnictl import Account, Omnictl, OmnictlError, connect
from components.omni import template
from components.omni.machine_ids import forms
from config import plain_yaml
from config.resource_types import GATE, JOINED
from ops.drift.finding import PULUMI, DriftError, Finding
from ops.drift.machines import Machine, Resources
from ops.engine.urn import name_of
from ops.restore.checks import ago

KEY = "platform:omniServiceAccountKey"
PLACE = "Omni"
JITTER = dt.timedelta(minutes=10)
"""Omni takes backups up to so much later, so that not all are taken at once."""
PAGE = "docs/procedures/omni.md"
MOST_LINES = 12
"""Of a difference; it holds machines' configuration, and no secret: patches have none."""


@dataclass(frozen=True)
class Told:
    """What Omni was told of the cluster."""

    endpoint: str
    cluster: str
    text: str
    """The template, with the machines' names in place of their ids."""
    machines: Mapping[str, str]
    """UUIDs in vCenter, by name."""
    interval: dt.timedelta
    """Of the backups."""
    made: bool
    """Whether a run has got so far."""


def of_state(resources: Resources) -> Told | None:
    """Read it from an exported state; None for a cluster that the stack itself manages."""
    # A gate that waits for nothing of its own has no inputs.
    gates = {name_of(one["urn"]): one.get("inputs", {}) for one in resources if one["type"] == GATE}
    if "omni" not in gates:
        return None
    seen = gates.get("omni-cluster", {})
    text = str(seen.get("template", ""))
    cluster = next(iter(plain_yaml.read_all(text)), None) or {}
    return Told(
        str(gates["omni"]["endpoint"]),
        str(cluster.get("name", "")),
        text,
        {str(name): str(uuid) for name, uuid in (seen.get("machines") or {}).items()},
        _interval(cluster),
        made=bool(text),
    )


def machines(resources: Resources) -> list[Machine]:
    """Give the machines of an exported state; what was applied to them Omni knows."""
    return [
        Machine(str(one["urn"]), name.removesuffix(JOINED), str(one["inputs"]["address"]), None)
        for one in resources
        if one["type"] == GATE and (name := name_of(one["urn"])).endswith(JOINED)
    ]


def findings(told: Told, key: str, now: dt.datetime) -> list[Finding]:
    """Ask Omni; `key` is the service account's. Raises `DriftError`."""
    if not told.made:
        raise DriftError("Omni was not told of the cluster yet: run `pulumi up` first")
    try:
        with connect(Account(told.endpoint, key)) as omni:
            return list(look(omni, told, now))
    except OmnictlError as error:
        raise DriftError(f"{error}; more: {PAGE}") from None


def look(omni: Omnictl, told: Told, now: dt.datetime) -> Iterator[Finding]:
    """Compare the machines, the template and the age of the backups. Raises `OmnictlError`."""
    ids = {}
    for name, uuid in told.machines.items():
        known = omni.machines(forms(uuid))
        if not known:
            yield _finding(name, "Omni does not know it", "restart it, so that it joins again")
            continue
        ids[name] = known[0].id
        if not known[0].connected:
            why = known[0].error or "it does not answer"
            yield _finding(name, f"not connected to Omni: {why}", "look at its console")
    if ids.keys() == told.machines.keys():
        yield from _difference(omni, told, ids)
    yield from _backups(omni, told, now)


def _difference(omni: Omnictl, told: Told, ids: Mapping[str, str]) -> Iterator[Finding]:
    text = template.begun_with(template.with_ids(told.text, ids), omni.begun_with(told.cluster))
    difference = omni.difference(text)
    lines = [one for one in difference.splitlines() if re.match(r"[-+](?![-+])", one)]
    if lines:
        shown = "; ".join(lines[:MOST_LINES])
        more = f"; and {len(lines) - MOST_LINES} lines more" if len(lines) > MOST_LINES else ""
        yield _finding(
            told.cluster,
            f"changed in Omni: {shown}{more}",
            "undo it in Omni, or write it into the settings or a patch: the next change of the "
            f"cluster takes back what the template does not say ({PAGE})",
        )


def _backups(omni: Omnictl, told: Told, now: dt.datetime) -> Iterator[Finding]:
    taken = omni.backups(told.cluster)
    if not taken:
        yield _finding(told.cluster, "Omni has no backup of it", _LOOK)
        return
    age = now - dt.datetime.fromtimestamp(taken[-1], dt.UTC)
    if age > 2 * told.interval + JITTER:
        yield _finding(told.cluster, f"Omni's newest backup was taken {ago(age)}", _LOOK)


_LOOK = "`omnictl get etcdbackupstatus` says why; is a storage for backups set in Omni?"


def _interval(cluster: Mapping[str, Any]) -> dt.timedelta:
    features = cluster.get("features") or {}
    text = str((features.get("backupConfiguration") or {}).get("interval", "1h"))
    unit = "hours" if text.endswith("h") else "minutes"
    return dt.timedelta(**{unit: int(text[:-1])})


def _finding(who: str, what: str, fix: str) -> Finding:
    return Finding(place=PLACE, who=who, owner=PULUMI, what=what, fix=fix)
