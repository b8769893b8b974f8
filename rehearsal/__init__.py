"""The rehearsal layer: drives the stack through its life inside the lab, and measures it."""

from __future__ import annotations

import sys
from types import TracebackType


def _without_traceback(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Show an error that nobody caught; a Ctrl-C is none, at whatever moment it comes."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _without_traceback
