"""Layer vSphere: vCenter's own evidence of what a machine is that the state does not know.

A machine that is off may be the half of a killed run, which holds nothing; or one that was restored
from an image backup; or one of an older state that somebody imported. Only the first may be
removed. It carries this stack's mark, which the deployment gives it with its name; vCenter's events
go back to its making by this stack's user; and they know of no start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clients.vcenter import pyvmomi

if TYPE_CHECKING:
    from collections.abc import Iterable

# vSphere's types of events, by their names.
MADE = (
    "VmBeingCreatedEvent",
    "VmCreatedEvent",
    "VmBeingDeployedEvent",
    "VmDeployedEvent",
    "VmClonedEvent",
)
FOUND = ("VmRegisteredEvent", "VmDiscoveredEvent")
"""Made from files that were there before: a restore, or a machine that was taken out and in."""
POWERED = ("VmPoweredOnEvent",)
STARTING = ("VmStartingEvent", *POWERED)
"""The second also stands for a start by DRS, and for one by HA on another host."""
ENDED = (
    "VmStoppingEvent",
    "VmPoweredOffEvent",
    "VmSuspendedEvent",
    "VmResettingEvent",
    "VmGuestShutdownEvent",
    "VmGuestRebootEvent",
)
CHANGED = ("VmReconfiguredEvent",)

GOING = " A killed run left it; it is being removed."
"""Written behind the mark before a leftover is switched off: from then on it looks like one that
ran and was stopped."""


def mark(path: str) -> str:
    """Give the annotation of a machine of the stack; `path` is its place in the inventory."""
    return f"Made by the platform's Pulumi stack as {path}."


def events_of(content: Any, machine: Any) -> list[Any]:  # noqa: ANN401 pyVmomi has no types
    """Read what vCenter still knows to have happened to a machine, oldest first."""
    wanted = pyvmomi.MODEL.event.EventFilterSpec
    entity = wanted.ByEntity(entity=machine, recursion="self")
    found = content.eventManager.QueryEvents(wanted(entity=entity)) or []
    return sorted(
        (one for one in found if one.vm is not None and one.vm.vm == machine),
        key=lambda one: (one.createdTime, one.key),
    )


def against_leftover(
    annotation: str, mark_of_it: str, events: Sequence[Any], user: str, *, running: bool
) -> str:
    """Say why a machine is no leftover of a killed run; empty when all evidence says it is one.

    `user` is this stack's own, as vCenter writes it in events. One that runs has been started once,
    and nothing else: whether it was configured since, only its Talos can tell.
    """
    if annotation.startswith(mark_of_it + GOING):
        return ""
    if not annotation.startswith(mark_of_it):
        return "it does not carry the mark that this stack gives a machine when it makes it"
    return _against_origin(events, user) or _against_unused(events, running=running)


def _against_origin(events: Sequence[Any], user: str) -> str:
    made = [one for one in events if _is(one, MADE)]
    found = [one for one in events if _is(one, FOUND)]
    if found:
        return f"it was registered from files that were there before, {_told(found[0])}"
    if not made:
        return (
            "vCenter no longer has the event of its creation: nobody can tell whether it ever ran"
        )
    if strangers := _not_by(made, user):
        return f"it was made {_told(strangers[0])}, not by this stack's user {user}"
    if strangers := _not_by((one for one in events if _is(one, CHANGED)), user):
        return f"it was changed {_told(strangers[0])}, not by this stack's user {user}"
    return ""


def _against_unused(events: Sequence[Any], *, running: bool) -> str:
    starts = [one for one in events if _is(one, STARTING)]
    ends = [one for one in events if _is(one, ENDED)]
    if starts and not running:
        return f"it is off, and was switched on {_told(starts[-1])}"
    if ends:
        return f"it was switched off or restarted {_told(ends[-1])}"
    powered = [one for one in starts if _is(one, POWERED)]
    if len(powered) > 1:
        return f"it was switched on more than once, at last {_told(powered[-1])}"
    return ""


def _is(event: Any, kinds: Sequence[str]) -> bool:  # noqa: ANN401 pyVmomi has no types
    """Tell whether an event is of one of these types, or of one below it."""
    return isinstance(event, tuple(getattr(pyvmomi.MODEL.event, kind) for kind in kinds))


def _not_by(events: Iterable[Any], user: str) -> list[Any]:
    """Leave out what this user did, and what vCenter did of itself."""
    return [one for one in events if one.userName and one.userName.lower() != user.lower()]


def _told(event: Any) -> str:  # noqa: ANN401 pyVmomi has no types
    return f"by {event.userName or 'vCenter itself'} at {event.createdTime:%Y-%m-%d %H:%M:%S} UTC"
