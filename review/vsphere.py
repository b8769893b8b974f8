"""Layer Review: what changes of vSphere resources do.

Sources: the schema and the update code of terraform-provider-vsphere 2.16 (resource
virtual_machine, `ForceNew` and `rebootRequired`), which pulumi-vsphere 4.18 wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.tokens import MACHINE
from review.preview import Change
from review.verdict import Effect, Verdict, worst

SOURCE = "terraform-provider-vsphere, resource virtual_machine"
PREFIX = "vsphere:index/"
CYCLE = "is off while it is stopped and started, 1-2 minutes"

LIVE = frozenset(
    [
        "annotation",
        "bootDelay",
        "bootRetryDelay",
        "bootRetryEnabled",
        "customAttributes",
        "folder",
        "latencySensitivity",
        "migrateWaitTimeout",
        "name",
        "resourcePoolId",
        "shutdownWaitTimeout",
        "syncTimeWithHost",
        "syncTimeWithHostPeriodically",
        "tags",
        "waitForGuestIpTimeout",
        "waitForGuestNetTimeout",
        "waitForGuestNetRoutable",
        "ignoredGuestIps",
        "extraConfigRebootRequired",
        "forcePowerOff",
        "cpuShareLevel",
        "cpuShareCount",
        "cpuLimit",
        "cpuReservation",
        "memoryShareLevel",
        "memoryShareCount",
        "memoryLimit",
        "memoryReservation",
        "memoryReservationLockedToMax",
    ]
)
"""Change while the machine runs."""
OFFLINE = frozenset(
    [
        "alternateGuestName",
        "cpuHotAddEnabled",
        "cpuHotRemoveEnabled",
        "cpuPerformanceCountersEnabled",
        "efiSecureBootEnabled",
        "enableDiskUuid",
        "enableLogging",
        "eptRviMode",
        "firmware",
        "guestId",
        "hardwareVersion",
        "hvMode",
        "memoryHotAddEnabled",
        "nestedHvEnabled",
        "numCoresPerSocket",
        "runToolsScriptsAfterPowerOn",
        "runToolsScriptsAfterResume",
        "runToolsScriptsBeforeGuestReboot",
        "runToolsScriptsBeforeGuestShutdown",
        "runToolsScriptsBeforeGuestStandby",
        "swapPlacementPolicy",
        "toolsUpgradePolicy",
        "vbsEnabled",
        "vvtdEnabled",
    ]
)
"""The provider turns the machine off for these."""


def machine(change: Change) -> Effect:
    """Judge a virtual machine."""
    match change.operation:
        case "create":
            return Effect(Verdict.SAFE, "is made new")
        case "delete":
            return _gone(change, "is removed for good, with its disks")
        case "replace":
            reasons = ", ".join(change.replacing) or "its provider is replaced"
            return _gone(change, f"is deleted and made anew ({reasons}); its disks are lost")
    keys = sorted({path.split(".")[0].split("[")[0] for path in change.paths})
    if not keys:
        return Effect(Verdict.UNKNOWN, "changes, and the preview does not say what")
    return worst([_field(key, change) for key in keys])


def _gone(change: Change, what: str) -> Effect:
    disks = change.before("disks") or []
    if len(disks) > 1:
        labels = ", ".join(str(one.get("label", "?")) for one in disks[1:])
        return Effect(Verdict.LOSES, f"{what}: data disks too ({labels})", "its data", SOURCE)
    away = "about 3 minutes" if change.operation == "replace" else "for good"
    return Effect(Verdict.REPLACES, what, f"the machine, {away}", SOURCE)


def _field(key: str, change: Change) -> Effect:
    old, new = change.before(key), change.after(key)
    if key in ("memory", "numCpus"):
        return _size(key, old, new, change)
    if key == "disks":
        return _disks(old, new)
    if key == "extraConfig" and change.after("extraConfigRebootRequired") is not False:
        source = "terraform-provider-vsphere #1070"
        return Effect(Verdict.REBOOTS, "gets other guestinfo", CYCLE, source)
    if key in OFFLINE:
        return Effect(Verdict.REBOOTS, f"gets another {key}", CYCLE, SOURCE)
    if key in LIVE or key == "extraConfig":
        return Effect(Verdict.SAFE, f"gets another {key}, live", source=SOURCE)
    return Effect(Verdict.UNKNOWN, f"gets another {key}: review/vsphere.py has no rule for it")


def _size(key: str, old: Any, new: Any, change: Change) -> Effect:  # noqa: ANN401 JSON
    what, unit = ("memory", " MiB") if key == "memory" else ("CPUs", "")
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return Effect(Verdict.UNKNOWN, f"gets other {what}; how many is not known yet")
    text = f"gets {'more' if new > old else 'less'} {what}: {old:g} to {new:g}{unit}"
    hot = change.before("memoryHotAddEnabled" if key == "memory" else "cpuHotAddEnabled")
    if new > old and hot:
        return Effect(Verdict.SAFE, f"{text}, live", source=f"{SOURCE}: hot add is on")
    return Effect(Verdict.REBOOTS, text, CYCLE, f"{SOURCE}: only growing is possible live")


def _disks(old: Any, new: Any) -> Effect:  # noqa: ANN401 JSON
    before, after = sizes(old), sizes(new)
    lost = sorted(before.keys() - after.keys())
    if lost:
        return Effect(Verdict.LOSES, f"loses its disks {', '.join(lost)}", "their data", SOURCE)
    shrunk = [one for one in before if less(after[one], before[one])]
    if shrunk:
        return Effect(
            Verdict.REFUSED,
            f"gets smaller disks ({', '.join(shrunk)}), which vSphere refuses",
            source="terraform-provider-vsphere, virtual_machine: disks can only grow",
        )
    parts = [f"{one} {before.get(one, 0)} to {after[one]} GiB" for one in after]
    changed = [
        part for part, one in zip(parts, after, strict=True) if before.get(one) != after[one]
    ]
    return Effect(
        Verdict.SAFE, f"gets larger or more disks, live: {', '.join(changed)}", source=SOURCE
    )


def less(new: Any, old: Any) -> bool:  # noqa: ANN401 JSON
    """Say whether both are numbers, and the new one is smaller."""
    return isinstance(new, int | float) and isinstance(old, int | float) and new < old


def sizes(disks: Any) -> dict[str, Any]:  # noqa: ANN401 JSON
    """Give the size of each disk in GiB, by its label."""
    return {str(one.get("label")): one.get("size") for one in disks or []}


def _shared(what: str, *, replaced: str | None = None) -> Callable[[Change], Effect]:
    """Make a rule for what the machines share: running machines do not notice its changes."""

    def rule(change: Change) -> Effect:
        words = {"create": "is made", "update": "changes", "delete": "goes"}
        if change.operation == "replace":
            return Effect(Verdict.SAFE, replaced or f"{what} is made anew; machines run on")
        return Effect(Verdict.SAFE, f"{what} {words[change.operation]}; machines run on")

    return rule


RULES: Mapping[str, Callable[[Change], Effect]] = {
    MACHINE: machine,
    f"{PREFIX}contentLibrary:ContentLibrary": _shared("the library of images"),
    f"{PREFIX}contentLibraryItem:ContentLibraryItem": _shared(
        "the image", replaced="the image is imported anew; machines keep the one they have"
    ),
    f"{PREFIX}folder:Folder": _shared("the folder"),
    f"{PREFIX}tagCategory:TagCategory": _shared("a category of tags"),
    f"{PREFIX}tag:Tag": _shared("a tag"),
    f"{PREFIX}computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule": _shared(
        "the rule that keeps machines on different hosts",
        replaced="the rule that keeps machines on different hosts is away for seconds",
    ),
}
