"""Layer Review: what changes of vSphere resources do.

Sources: the schema and the update code of terraform-provider-vsphere 2.16 (resource
virtual_machine, `ForceNew` and `rebootRequired`), which pulumi-vsphere 4.18 wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.vsphere.disks import moved
from components.vsphere.hardware import LINUX_START_MIB
from config.resource_types import MACHINE
from ops.engine.operations import WORDS
from ops.engine.preview import Change
from ops.review.verdict import Effect, Verdict, worst

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
        "storagePolicyId",
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
        "videoCard",
        "vvtdEnabled",
    ]
)
"""The provider turns the machine off for these."""


def machine(change: Change) -> Effect:
    """Judge a virtual machine."""
    match change.operation:
        case "create":
            return Effect(Verdict.SAFE, "is created")
        case "delete":
            return _gone(change, "is removed for good, with its disks")
        case "replace":
            reasons = ", ".join(change.replacing) or "its provider is replaced"
            return _gone(change, f"is deleted and recreated ({reasons}); its disks are lost")
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


DISK_OFFLINE = frozenset(["controllerType", "diskMode", "diskSharing", "writeThrough"])
"""Of a disk: the provider turns the machine off for these (its `SetRestart`)."""
DISK_FIXED = frozenset(["attach", "eagerlyScrub", "thinProvisioned"])
"""Of a disk: the provider refuses another value (its `GetWithVeto`)."""
DISK_LIVE = frozenset(
    [
        "datastoreId",
        "ioLimit",
        "ioReservation",
        "ioShareCount",
        "ioShareLevel",
        "keepOnRemove",
        "storagePolicyId",
    ]
)
DISK_JUDGED = frozenset(["label", "size", "unitNumber"])
DISK_READ = frozenset(["deviceAddress", "key", "path", "uuid"])
"""Of a disk: what vCenter says of it, never what is asked for."""
DISK_SOURCE = "terraform-provider-vsphere, virtual_machine_disk_subresource.go"
NIC_SOURCE = "terraform-provider-vsphere, virtual_machine_network_interface_subresource.go"

MOST_TIMES = 16
"""vCenter adds memory live up to so many times what the machine was started with."""
REBOOT = "about 2 minutes, while it reboots"


def _field(key: str, change: Change) -> Effect:
    old, new = change.before(key), change.after(key)
    match key:
        case "memory" | "numCpus":
            return _size(key, old, new, change)
        case "disks":
            return _disks(old or [], new or [])
        case "networkInterfaces":
            return _interfaces(old or [], new or [])
        case "datastoreId":
            why = "moves to another datastore, live; its disks are slower meanwhile, etcd's too"
            return Effect(Verdict.SAFE, why, source=f"{SOURCE}: Storage vMotion")
    return _setting(key, change)


def _setting(key: str, change: Change) -> Effect:
    if key == "extraConfig" and change.after("extraConfigRebootRequired") is not False:
        source = "terraform-provider-vsphere #1070"
        return Effect(Verdict.REBOOTS, "gets other guestinfo", CYCLE, source)
    if key in OFFLINE:
        return Effect(Verdict.REBOOTS, f"gets another {key}", CYCLE, SOURCE)
    if key in LIVE or key == "extraConfig":
        return Effect(Verdict.SAFE, f"gets another {key}, live", source=SOURCE)
    return Effect(Verdict.UNKNOWN, f"gets another {key}: ops/review/vsphere.py has no rule for it")


def _size(key: str, old: Any, new: Any, change: Change) -> Effect:  # noqa: ANN401 JSON
    what, unit = ("memory", " MiB") if key == "memory" else ("CPUs", "")
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return Effect(Verdict.UNKNOWN, f"gets other {what}; how many is not known yet")
    text = f"gets {'more' if new > old else 'less'} {what}: {old:g} to {new:g}{unit}"
    if new <= old or _turned_off(change):
        return Effect(Verdict.REBOOTS, text, CYCLE, f"{SOURCE}: only growing is possible live")
    if key == "numCpus":
        why = f"{text}; Talos sees them after a reboot, which `pulumi up` makes"
        return Effect(Verdict.REBOOTS, why, REBOOT, "siderolabs/talos #12260")
    if old <= LINUX_START_MIB < new:
        why = f"{text}: vCenter adds none past {LINUX_START_MIB} MiB to a Linux machine that runs"
        return Effect(Verdict.REFUSED, why, source="vSphere: hot add of memory")
    if new > MOST_TIMES * old:
        why = f"{text}: vCenter adds at most {MOST_TIMES} times as much to a machine that runs"
        return Effect(Verdict.REFUSED, why, source="vSphere: hot add of memory")
    why = f"{text}, live; its kubelet restarts to see them, pods run on"
    return Effect(Verdict.SAFE, why, source="kubernetes/kubernetes #62355")


def _turned_off(change: Change) -> bool:
    """Say whether the provider turns the machine off for this change, whatever else is in it."""
    keys = {path.split(".")[0].split("[")[0] for path in change.paths}
    if keys & OFFLINE:
        return True
    for key, hot in (("memory", "memoryHotAddEnabled"), ("numCpus", "cpuHotAddEnabled")):
        old, new = change.before(key), change.after(key)
        if less(new, old) or (less(old, new) and not change.before(hot)):
            return True
    return False


def _disks(old: list[Any], new: list[Any]) -> Effect:
    before, after = sizes(old), sizes(new)
    lost = sorted(before.keys() - after.keys())
    if lost:
        return Effect(Verdict.LOSES, f"loses its disks {', '.join(lost)}", "their data", SOURCE)
    if moves := moved(old, new):
        told = ", ".join(f"{one} from unit {a} to {b}" for one, (a, b) in moves.items())
        why = f"its disks would move ({told}), which the program refuses: the machine would be "
        why += "turned off, and could take one for another"
        return Effect(Verdict.REFUSED, why, source=f'{DISK_SOURCE}: SetRestart("unit_number")')
    shrunk = [one for one in before if less(after[one], before[one])]
    if shrunk:
        return Effect(
            Verdict.REFUSED,
            f"gets smaller disks ({', '.join(shrunk)}), which vSphere refuses",
            source="terraform-provider-vsphere, virtual_machine: disks can only grow",
        )
    return worst([_grown(before, after), *_other_fields(old, new)])


def _grown(before: Mapping[str, Any], after: Mapping[str, Any]) -> Effect:
    changed = [
        f"{one} {before.get(one, 0)} to {size} GiB"
        for one, size in after.items()
        if before.get(one) != size
    ]
    if not changed:
        return Effect(
            Verdict.SAFE, "its disks are listed in another order, and stay", source=SOURCE
        )
    text = f"gets larger or more disks: {', '.join(changed)}"
    if any(one in before and before[one] != after[one] for one in after):
        why = f"{text}; Talos takes up more of a disk at a start, so `pulumi up` reboots it"
        return Effect(Verdict.REBOOTS, why, REBOOT, "Talos 1.13: volumes grow when they are found")
    return Effect(Verdict.SAFE, f"{text}, live", source=SOURCE)


def _other_fields(old: list[Any], new: list[Any]) -> Iterator[Effect]:
    """Judge what else changes of disks that were there before."""
    before = {str(one.get("label")): one for one in old}
    for disk in new:
        label = str(disk.get("label"))
        was = before.get(label, disk)
        differs = {key for key in disk.keys() & was.keys() if disk[key] != was[key]}
        for key in sorted(differs - DISK_JUDGED - DISK_READ):
            text = f"its disk {label} gets another {key}"
            if key in DISK_OFFLINE:
                yield Effect(Verdict.REBOOTS, text, CYCLE, f"{DISK_SOURCE}: SetRestart")
            elif key in DISK_FIXED:
                why = f"{text}, which the provider refuses"
                yield Effect(Verdict.REFUSED, why, source=DISK_SOURCE)
            elif key in DISK_LIVE:
                yield Effect(Verdict.SAFE, f"{text}, live", source=DISK_SOURCE)
            else:
                yield Effect(Verdict.UNKNOWN, f"{text}: ops/review/vsphere.py has no rule for it")


def _interfaces(old: list[Any], new: list[Any]) -> Effect:
    """Judge network cards, which have no names: by their place."""
    if len(new) < len(old):
        return Effect(Verdict.REBOOTS, "loses a network card", CYCLE, f"{NIC_SOURCE}: SetRestart")
    kinds = ("adapterType", "physicalFunction")
    for was, now in zip(old, new, strict=False):
        if any(was.get(key) != now.get(key) for key in kinds if key in was and key in now):
            why = "gets another kind of network card"
            return Effect(Verdict.REBOOTS, why, CYCLE, f"{NIC_SOURCE}: SetRestart")
    if any(
        was.get("networkId") != now.get("networkId") for was, now in zip(old, new, strict=False)
    ):
        why = "its network card goes to another port group, live"
        return Effect(Verdict.UNKNOWN, f"{why}; it may not be reached there", source=NIC_SOURCE)
    if len(new) > len(old):
        return Effect(Verdict.SAFE, "gets another network card, live", source=NIC_SOURCE)
    why = "gets other network settings: ops/review/vsphere.py has no rule for it"
    return Effect(Verdict.UNKNOWN, why)


def less(new: Any, old: Any) -> bool:  # noqa: ANN401 JSON
    """Say whether both are numbers, and the new one is smaller."""
    return isinstance(new, int | float) and isinstance(old, int | float) and new < old


def sizes(disks: Any) -> dict[str, Any]:  # noqa: ANN401 JSON
    """Give the size of each disk in GiB, by its label."""
    return {str(one.get("label")): one.get("size") for one in disks or []}


def _shared(
    what: str, *, replaced: str | None = None, takes: str | None = None
) -> Callable[[Change], Effect]:
    """Make a rule for what the machines share: running machines do not notice its changes.

    `takes` is what goes with it when it is removed.
    """

    def rule(change: Change) -> Effect:
        if takes is not None and change.operation == "delete":
            stay = "`pulumi state delete` first where it is to stay (site.existing)"
            return Effect(Verdict.LOSES, f"{what} is removed with {takes}; {stay}", takes)
        told = f"{what} {WORDS[change.operation]}; machines run on"
        return Effect(Verdict.SAFE, (change.operation == "replace" and replaced) or told)

    return rule


RULES: Mapping[str, Callable[[Change], Effect]] = {
    MACHINE: machine,
    f"{PREFIX}contentLibrary:ContentLibrary": _shared("the library of images", takes="its images"),
    f"{PREFIX}contentLibraryItem:ContentLibraryItem": _shared(
        "the image", replaced="the image is imported again; machines keep the one they have"
    ),
    f"{PREFIX}folder:Folder": _shared("the folder"),
    f"{PREFIX}tagCategory:TagCategory": _shared("a category of tags"),
    f"{PREFIX}tag:Tag": _shared("a tag"),
    f"{PREFIX}computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule": _shared(
        "the rule that keeps machines on different hosts",
        replaced="the rule that keeps machines on different hosts is missing for seconds",
    ),
}
