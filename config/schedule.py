"""Configuration: how often a schedule comes."""

from __future__ import annotations

import datetime as dt
import itertools

from config.values import cron_fields

CYCLE_DAYS = 8 * 366
"""Every day of the week has been every day of the year by then, the 29th of February too."""
BEGIN = dt.date(2000, 1, 1)
ANY = ("*", "?")


def longest_interval(schedule: str) -> dt.timedelta:
    """Give the longest time between two runs of a valid schedule, in UTC.

    Where a day of the month and one of the week are given, either is enough (robfig/cron v3).
    """
    minutes, hours, days, months, weekdays = cron_fields(schedule)
    _, _, day, _, weekday = schedule.split(" ")
    either = not day.startswith(ANY) and not weekday.startswith(ANY)
    times = sorted(60 * hour + minute for hour in hours for minute in minutes)
    longest = max((b - a for a, b in itertools.pairwise(times)), default=0)
    overnight = 24 * 60 + times[0] - times[-1]
    last = None
    for number in range(CYCLE_DAYS):
        date = BEGIN + dt.timedelta(days=number)
        fits = (date.day in days, date.isoweekday() % 7 in weekdays)
        if date.month not in months or not (any(fits) if either else all(fits)):
            continue
        if last is not None:
            longest = max(longest, overnight + 24 * 60 * (number - last - 1))
        last = number
    return dt.timedelta(minutes=longest)
