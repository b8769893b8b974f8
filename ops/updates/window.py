"""Layer Updates: whether the maintenance window is open."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from config.settings import Window

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def is_open(window: Window, now: dt.datetime) -> bool:
    """Say whether a deployment may begin; `now` has a time zone."""
    return any(begin <= now < end for begin, end in _around(window, now))


def closed(window: Window | None, now: dt.datetime) -> list[str]:
    """Say why no deployment may begin; nothing when one may."""
    if window is None:
        return ["platform:updates has no window"]
    if is_open(window, now):
        return []
    return [f"the window opens {next_opening(window, now):%A %d %B %H:%M %Z}"]


def next_opening(window: Window, now: dt.datetime) -> dt.datetime:
    """Say when it opens next, in its own zone."""
    return min(begin for begin, _ in _around(window, now) if begin > now)


def _around(window: Window, now: dt.datetime) -> list[tuple[dt.datetime, dt.datetime]]:
    """Give the openings from a day before now to more than a week after it."""
    zone = ZoneInfo(window.zone)
    today = now.astimezone(zone).date()
    opens, closes = (dt.time.fromisoformat(text) for text in (window.opens, window.closes))
    # By the clock on the wall: on a night when the clocks change it is an hour longer or shorter.
    over_midnight = dt.timedelta(days=closes <= opens)
    return [
        (
            dt.datetime.combine(day, opens, zone),
            dt.datetime.combine(day + over_midnight, closes, zone),
        )
        for day in (today + dt.timedelta(days=number) for number in range(-1, 9))
        if DAYS[day.weekday()] in window.days
    ]
