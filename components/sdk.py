"""What the program changes of Pulumi's SDK to be quick.

Each change touches a private part of the SDK; tests/unit/test_sdk.py fails when one is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os

from pulumi import log
from pulumi.runtime import settings

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


def wait_for_registrations_first() -> None:
    """Let the SDK wait for its calls before it waits for outputs; called after the last resource.

    `wait_for_rpcs` (pulumi/runtime/stack.py) looks at its list of calls before any registration has
    begun, finds none, and then waits for all outputs anew after each of them: time grows with the
    square of the resources. One call in the list makes it wait for the calls, one by one.
    """
    calls = settings._get_rpc_manager().rpcs  # noqa: SLF001 there is no other way in
    calls.append(asyncio.ensure_future(asyncio.sleep(0)))
