"""Layer Updates: when a version was released, by those who released it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from http.client import HTTPException

from clients import chart_repositories
from ops.report.api import GitHub, RefusedError
from ops.updates.pins import Pin


def dates(pins: Iterable[Pin], github: GitHub) -> dict[Pin, dt.datetime | None]:
    """Say when the version of each pin came out; `None` when nobody tells."""
    return {pin: _date(pin, github) for pin in pins}


def _date(pin: Pin, github: GitHub) -> dt.datetime | None:
    if pin.datasource == "github-releases":
        try:
            release = github.release(pin.package, pin.tag.format(pin.version))
            return dt.datetime.fromisoformat(str(release.get("published_at")))
        except (RefusedError, ValueError):
            return None
    if pin.datasource == "helm":
        try:
            index = chart_repositories.index_of(pin.registry)
        except (OSError, HTTPException, EOFError, UnicodeDecodeError):
            return None
        return chart_repositories.created(index, pin.package, pin.version)
    return None
