"""What the machines share in vCenter, left there by an interrupted run.

The folder, the tags, the content library and the rules that keep machines apart are made within
milliseconds; a run that is killed just then leaves them in vCenter, but not in the stack's state,
and the next one fails on their names. What holds nothing is removed; what holds something stays,
and is told. Machines are in machines.py, the library's items in content_library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from clients.vcenter import pyvmomi
from clients.vcenter.connection import (
    VCenter,
    VCenterError,
    by_uuid,
    connected,
    finish,
    settle,
)
from clients.vcenter.content_library import ITEM_PATH, Session, session
from clients.waiting import Clock
from config.resource_types import (
    ANTI_AFFINITY_RULE,
    CONTENT_LIBRARY,
    FOLDER,
    IMAGE,
    MACHINE,
    TAG,
    TAG_CATEGORY,
)

TAGGING = "/rest/com/vmware/cis/tagging"
LIBRARY_PATH = "/rest/com/vmware/content/library"
LOCAL_LIBRARY_PATH = "/rest/com/vmware/content/local-library"

BY_REST = {
    TAG_CATEGORY: f"{TAGGING}/category",
    TAG: f"{TAGGING}/tag",
    CONTENT_LIBRARY: LIBRARY_PATH,
    IMAGE: ITEM_PATH,
}
"""What vCenter's REST API knows by its id, and where."""


Clear = Callable[[VCenter, str, str, Clock], bool]
"""Clears a place: vCenter, its password, and what names the place."""


def clear_folder(vcenter: VCenter, password: str, path: str, clock: Clock) -> bool:
    """Remove an empty folder for machines, by its path; tell whether it was there."""
    with connected(vcenter, password) as content:
        where = f"/{vcenter.datacenter}/vm/{path}"
        folder = content.searchIndex.FindByInventoryPath(where)
        if folder is None:
            return False
        # One with permissions of its own was made by an administrator, who would miss them.
        if folder.childEntity or folder.permission:
            raise VCenterError(_holds(vcenter, f"the folder {where}", FOLDER, "machines", where))
        finish(folder.Destroy_Task(), clock)
        return True


def clear_rule(vcenter: VCenter, password: str, place: str, clock: Clock) -> bool:
    """Remove a rule that keeps machines apart; `place` is the cluster's id, a colon, its name.

    Its name is the platform's own, and it holds nothing but references.
    """
    identity, _, name = place.partition(":")
    with connected(vcenter, password) as content:
        found = [one.key for one in _rules(content, identity) if one.name == name]
        if found:
            change = pyvmomi.MODEL.cluster.RuleSpec(operation="remove", removeKey=found[0])
            spec = pyvmomi.MODEL.cluster.ConfigSpecEx(rulesSpec=[change])
            cluster = _cluster(content, identity)
            task = cluster.ReconfigureComputeResource_Task(spec=spec, modify=True)
            finish(task, clock)
        return bool(found)


def clear_category(vcenter: VCenter, password: str, name: str, _clock: Clock) -> bool:
    """Remove a category, by its name, with tags that nothing has."""
    with session(vcenter, password) as rest:
        identity = _category(rest, name)
        if identity is None:
            return False
        for tag in _tags(rest, identity):
            _remove_tag(rest, vcenter, tag, name)
        rest.call("DELETE", f"{TAGGING}/category/id:{identity}")
        return True


def clear_tag(vcenter: VCenter, password: str, place: str, _clock: Clock) -> bool:
    """Remove a tag that nothing has; `place` is its category's id, a space, its name."""
    category, _, name = place.partition(" ")
    with session(vcenter, password) as rest:
        if not rest.exists(f"{TAGGING}/category/id:{category}"):
            return False
        for tag in _tags(rest, category):
            if rest.call("GET", f"{TAGGING}/tag/id:{tag}")["name"] == name:
                _remove_tag(rest, vcenter, tag, name)
                return True
        return False


def clear_library(vcenter: VCenter, password: str, name: str, _clock: Clock) -> bool:
    """Remove an empty content library, by its name."""
    with session(vcenter, password) as rest:
        found = rest.call("POST", f"{LIBRARY_PATH}?~action=find", {"spec": {"name": name}}) or []
        for identity in found:
            if rest.call("GET", f"{ITEM_PATH}?library_id={quote(identity)}"):
                what = f"the content library {name}"
                raise VCenterError(_holds(vcenter, what, CONTENT_LIBRARY, "images", identity))
            rest.call("DELETE", f"{LOCAL_LIBRARY_PATH}/id:{identity}")
        return bool(found)


def exists(
    content: Any,  # noqa: ANN401
    rest: Session,
    kind: str,
    identity: str,
    clock: Clock,
) -> bool:
    """Tell whether vCenter has what a resource of this type and id stands for.

    Only vCenter's own "there is none" counts as no; whatever else goes wrong is an error. A machine
    whose removal somebody has begun, such as a killed run, is looked for when vCenter is done.
    """
    if kind == MACHINE:
        machine = by_uuid(content, identity)
        if machine is None:
            return False
        settle(machine, clock, "powerOff", "destroy")
        return by_uuid(content, identity) is not None
    if kind == FOLDER:
        return _named(_object(content, "Folder", identity))
    if kind == ANTI_AFFINITY_RULE:
        cluster, _, key = identity.partition(":")
        try:
            return any(str(one.key) == key for one in _rules(content, cluster))
        except pyvmomi.vmodl.fault.ManagedObjectNotFound:  # the cluster, and its rules with it
            return False
    return kind not in BY_REST or rest.exists(f"{BY_REST[kind]}/id:{identity}")


def _named(managed: Any) -> bool:  # noqa: ANN401 pyVmomi has no types
    try:
        return bool(managed.name)
    except pyvmomi.vmodl.fault.ManagedObjectNotFound:
        return False


def _cluster(content: Any, identity: str) -> Any:  # noqa: ANN401 pyVmomi has no types
    return _object(content, "ClusterComputeResource", identity)


def _object(content: Any, kind: str, identity: str) -> Any:  # noqa: ANN401 pyVmomi has no types
    stub = content.searchIndex._stub  # noqa: SLF001 pyVmomi's way
    return getattr(pyvmomi.MODEL, kind)(identity, stub)


def _rules(content: Any, cluster: str) -> list[Any]:  # noqa: ANN401 pyVmomi has no types
    return list(_cluster(content, cluster).configurationEx.rule)


def _category(rest: Session, name: str) -> str | None:
    for identity in rest.call("GET", f"{TAGGING}/category") or []:
        if rest.call("GET", f"{TAGGING}/category/id:{identity}")["name"] == name:
            return str(identity)
    return None


def _tags(rest: Session, category: str) -> list[str]:
    path = f"{TAGGING}/tag/id:{category}?~action=list-tags-for-category"
    return rest.call("POST", path, {}) or []


def _remove_tag(rest: Session, vcenter: VCenter, tag: str, name: str) -> None:
    path = f"{TAGGING}/tag-association/id:{tag}?~action=list-attached-objects"
    if rest.call("POST", path, {}):
        raise VCenterError(
            f"{vcenter.server} has a tag of {name} that this stack does not know, and it is "
            "attached to objects; detach or rename it, then run `pulumi up` again"
        )
    rest.call("DELETE", f"{TAGGING}/tag/id:{tag}")


def _holds(vcenter: VCenter, what: str, kind: str, name: str, identity: str) -> str:
    return (
        f"{vcenter.server} has {what} that this stack does not know, and it is not as empty as a "
        "killed run leaves it. If it is this platform's, take it over with "
        f"`pulumi import {kind} {name} {identity}`; if not, rename it; then run `pulumi up` again"
    )
