"""Layer Updates: whether a change may be merged, or deployed, without a person.

What is not known counts as no: an unknown age, an unknown effect, a file that nobody expected.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from config.settings import Updates
from ops.review.verdict import Verdict
from ops.updates.pins import Change, Moved, Pin

HARMLESS = (Verdict.SAFE, Verdict.RESTARTS, Verdict.REBOOTS)
"""Machines are rebooted one at a time, each seen healthy before the next."""
LOST = "IS LOST"
"""The review's words for a quorum that does not hold (ops/review/review.py)."""
FAR = {"off": (), "patch": ("patch",), "minor": ("patch", "minor")}


class Reviewed(BaseModel):
    """What is read of a review's JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    verdict: str
    quorum: str
    errors: tuple[str, ...]
    forbidden: tuple[str, ...]


def against(
    change: Change, policy: Updates, released: Mapping[Pin, dt.datetime | None], now: dt.datetime
) -> Iterator[str]:
    """Say what of a change the policy does not let through; nothing when it does.

    `released` says when each new version came out, `None` when nobody could tell.
    """
    if not change.moved and not change.others:
        yield "it moves no pinned version"
    if change.others:
        yield f"it changes more than pinned versions: {', '.join(change.others)}"
    for one in change.moved:
        yield from _of_pin(one, policy, released.get(one.new), now)


def _of_pin(
    one: Moved, policy: Updates, released: dt.datetime | None, now: dt.datetime
) -> Iterator[str]:
    if not one.layer:
        yield f"{one}: no layer of platform:updates stands for it"
        return
    allowed = policy.steps.get(one.layer, "off")
    if one.step not in FAR[allowed]:
        step = {None: "no step between exact versions", "back": "an older version"}
        what = step.get(one.step, f"a {one.step} step")
        yield f"{one}: {what}, and platform:updates.{one.layer} = {allowed}"
    if released is None:
        yield f"{one}: nobody could say when it was released"
        return
    age = (now - released).days
    if age < policy.minimum_age_days:
        yield (
            f"{one}: {max(age, 0)} days old, and platform:updates.minimumAgeDays = "
            f"{policy.minimum_age_days}"
        )


def against_effect(review: Reviewed) -> Iterator[str]:
    """Say what of a change's effect needs a person; nothing when nothing does."""
    if review.verdict not in [one.words for one in HARMLESS]:
        yield f"its review says: {review.verdict}"
    if LOST in review.quorum:
        yield f"its review says: {review.quorum}"
    if review.errors or review.forbidden:
        yield "its preview is refused, or a policy refuses it"
