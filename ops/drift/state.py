"""Layer Drift: the stack's state against what vCenter and the cluster say, as a refresh sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from config.resource_types import GATE, RELEASE
from ops.drift.fields import told
from ops.drift.finding import PULUMI, Field, Finding
from ops.drift.ownership import Thing, owner_of
from ops.engine.preview import SECRET, Change, Preview
from ops.review import kubernetes, vsphere
from ops.review.difference import CHANGED_TEXT, SECRET_TEXT, Leaf, leaves

MOST = 20
"""So many fields of one resource are told."""
PUT_BACK = "`pulumi up --refresh` puts it back"
VOLATILE = frozenset(
    [
        "changeVersion",
        "defaultIpAddress",
        "guestIpAddresses",
        "moid",
        "powerState",
        "rebootRequired",
        "status",
        "vmwareToolsStatus",
        "vmxPath",
    ]
)
"""Outputs that say how a thing is, not how it should be."""
METADATA = frozenset(("generation", "managedFields", "resourceVersion", "uid", "creationTimestamp"))


def findings(preview: Preview) -> Iterator[Finding]:
    """Give what a refresh would take into the state."""
    for change in preview.changes:
        if change.type == GATE or change.type.startswith(("platform:", "pulumi:")):
            continue
        fields = tuple(_fields(change))
        if change.operation == "delete":
            yield _finding(change, "gone", ())
        elif fields:
            yield _finding(change, "changed", fields)


def _finding(change: Change, what: str, fields: tuple[Field, ...]) -> Finding:
    owner, who = PULUMI, change.name
    if change.type.startswith(kubernetes.PREFIX):
        thing = _thing(change)
        owner, who = owner_of(thing), f"{thing.kind} {thing.namespace}/{thing.name}"
        place = "cluster"
    else:
        place = "vCenter" if change.type.startswith(vsphere.PREFIX) else change.type
        who = f"{change.type.rsplit(':', 1)[-1]} {change.name}"
    fix = PUT_BACK if owner == PULUMI else f"{owner} puts it back, or `argocd app sync`"
    return Finding(place=place, who=who, owner=owner, what=what, fields=fields, fix=fix)


def _thing(change: Change) -> Thing:
    state = change.old or change.new
    inputs: Mapping[str, Any] = state.inputs if state else {}
    metadata = inputs if change.type == RELEASE else inputs.get("metadata") or {}
    group = change.type.split(":")[1].partition("/")[0]
    return Thing(
        "" if group == "core" else group,
        kubernetes.kind_of(change),
        str(metadata.get("namespace") or "-"),
        str(metadata.get("name") or change.name),
    )


def _fields(change: Change) -> Iterator[Field]:
    """Give the fields in which wanted and found differ: of the inputs, else of the outputs."""
    old, new = change.old, change.new
    if old is None or new is None:
        return
    found = list(_told(leaves(old.inputs, new.inputs))) or [
        one for one in _told(leaves(old.outputs, new.outputs)) if _concerns(one, change)
    ]
    kind = kubernetes.kind_of(change) if change.type.startswith(kubernetes.PREFIX) else ""
    for leaf in found[:MOST]:
        yield told(kind, leaf)
    if not found:
        # The engine hides both values of a secret: only the provider says that they differ.
        for path in change.paths[:MOST]:
            top = path.split(".")[0].split("[")[0]
            if SECRET in json.dumps([old.inputs.get(top), new.outputs.get(top)]):
                yield Field(where=path, wanted=SECRET_TEXT, found=CHANGED_TEXT)


def _told(found: Iterator[Leaf]) -> Iterator[Leaf]:
    for leaf in found:
        hidden = any(part.startswith("__") for part in leaf.path)
        noise = leaf.path[0] in VOLATILE or (
            leaf.path[0] == "metadata" and len(leaf.path) > 1 and leaf.path[1] in METADATA
        )
        if not hidden and not noise:
            yield leaf


def _concerns(leaf: Leaf, change: Change) -> bool:
    """Say whether the provider calls this field a difference; without a list all are."""
    tops = {path.split(".")[0].split("[")[0] for path in change.paths}
    return not tops or leaf.path[0] in tops
