"""What the program changes of Pulumi's SDK to be quick.

Its quadratic wait for outputs (`wait_for_rpcs` in pulumi/runtime/stack.py) stays: made to wait for
its calls first, a program whose look-ups fail waits for ever for calls that stand on them.
"""

from __future__ import annotations

import gc
import os

from pulumi import log

DEBUG = "PLATFORM_DEBUG"
"""The variable that gives the SDK its debug messages back."""


def be_quick() -> None:
    """Spare what costs time and shows nobody anything; called before the first resource."""
    # The program makes thousands of objects and frees them at its end.
    gc.set_threshold(100_000, 50, 50)
    if not os.environ.get(DEBUG):
        _send_no_debug_messages()


def _send_no_debug_messages() -> None:
    """Keep the SDK from sending some 750 messages that the engine drops without `--debug`."""

    def debug(*_: object, **__: object) -> None:
        """Send nothing."""

    log.debug = debug
