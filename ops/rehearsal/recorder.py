"""Rehearsal: gives the engine's event log precise times.

The engine stamps its events with whole seconds (pulumi/pkg, backend/display/display.go), too
coarse for a picture. It writes each event at once, so whoever reads the log as it grows knows
better.
"""

from __future__ import annotations

import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

POLL_SECONDS = 0.01


class Recorder:
    """Watches an event log: `with Recorder(log): ...` around `pulumi up --event-log LOG`.

    At its end each line has a `time`, in seconds since the epoch. A run that is killed before
    leaves the log as the engine wrote it.
    """

    def __init__(self, log: Path) -> None:
        """Take the log's path; a log of an earlier run is removed at the start."""
        self._log = log
        self._position = 0
        self._times: list[float] = []
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="event-log", daemon=True)
        # Monotonic from here on: a clock set during the run must not bend the picture.
        self._epoch = time.time() - time.monotonic()

    def __enter__(self) -> Self:
        self._log.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        self._write()

    @property
    def seen(self) -> int:
        """The number of lines that have their time."""
        return len(self._times)

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._read()

    def _read(self) -> None:
        """Note the present as the time of each line that is new."""
        if not self._log.exists():
            return
        now = self._epoch + time.monotonic()
        with self._log.open("rb") as log:
            # The engine starts the log again between the preview and the update of one `up`.
            if log.seek(0, 2) < self._position:
                self._position, self._times = 0, []
            log.seek(self._position)
            new = log.read()
        complete = new.rfind(b"\n") + 1
        self._position += complete
        self._times += [now] * new.count(b"\n")

    def _write(self) -> None:
        if not self._times:
            return
        lines = self._log.read_bytes().splitlines(keepends=True)
        timed = [
            b'{"time":%.3f,' % moment + line.removeprefix(b"{")
            for moment, line in zip(self._times, lines, strict=False)
        ]
        self._log.write_bytes(b"".join(timed))
