"""What takes its time says so: how long it has run, and how long it took the last time.

In a terminal one line that changes, in a log a line now and then; on stderr, so that a command's
output stays as it is.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

FIRST_SECONDS = 10.0
"""What ends sooner needs no words."""
TERMINAL_SECONDS, LOG_SECONDS = 1.0, 15.0
"""How often it is told."""
LAST = Path(__file__).resolve().parents[1] / ".lab" / "durations.json"
"""Seconds that each took the last time, by its words."""


@contextmanager
def told(what: str, stream: TextIO | None = None, last: Path = LAST) -> Iterator[None]:
    """Tell of work that lasts longer than `FIRST_SECONDS`; `what` is what it does."""
    out = stream or sys.stderr
    known = _read(last)
    began, ended = time.monotonic(), threading.Event()
    teller = threading.Thread(
        target=_tell, args=(what, known.get(what), out, began, ended), daemon=True
    )
    teller.start()
    try:
        yield
        _write(last, known | {what: round(time.monotonic() - began, 1)})
    finally:
        ended.set()
        teller.join()


def text(what: str, seconds: float, expected: float | None) -> str:
    """Say how far it is, in a line."""
    usual = "" if expected is None else f" (the last time it took {expected:.0f} s)"
    return f"{what}: {seconds:.0f} s{usual}"


def _tell(
    what: str, expected: float | None, out: TextIO, began: float, ended: threading.Event
) -> None:
    if ended.wait(FIRST_SECONDS):
        return
    terminal = out.isatty()
    while True:
        line = text(what, time.monotonic() - began, expected)
        out.write(f"\r{line}" if terminal else f"{line}\n")
        out.flush()
        if ended.wait(TERMINAL_SECONDS if terminal else LOG_SECONDS):
            if terminal:
                out.write(f"\r{' ' * len(line)}\r")
                out.flush()
            return


def _read(last: Path) -> dict[str, float]:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads(last.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    return {}


def _write(last: Path, durations: dict[str, float]) -> None:
    """Remember them; where nothing can be written, as in a world of the lab, that is no failure."""
    with suppress(OSError):
        last.write_text(json.dumps(durations, indent=2) + "\n", encoding="utf-8")
