"""What hooks share: their work runs in a thread, beside the event loop that serves the engine.

It tells what it waits for on the resource that it holds up and in the run's log, and it ends soon
after a Ctrl-C. The engine asks the language host to cancel then, which sends this program a SIGINT;
but the engine itself goes on waiting for the hooks that run (pulumi/pkg, resource/deploy/
deployment_executor.go). The SDK's own thread pool would keep the program alive until the last of
them has timed out, so hooks have threads of their own.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import pulumi
from pulumi.resource import DependencyResource

from clients.waiting import STOP, Clock, Stop
from components import run_log
from config.problems import with_page

if TYPE_CHECKING:
    from types import FrameType

T = TypeVar("T")

Hook = Callable[[pulumi.ResourceHookArgs], Awaitable[None]]

GRACE_SECONDS = 2.0
"""A call that cannot be ended gets this; the language host kills the program after 5 s."""
POLL_SECONDS = 0.1

INTERRUPTED = "stopped by Ctrl-C"
PROGRAM_ENDED = "stopped, since the program ended"


def end_waits_on_interrupt() -> None:
    """Let the first Ctrl-C end all waits; a second one ends the program at once."""

    def handle(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        STOP.request(INTERRUPTED)

    signal.signal(signal.SIGINT, handle)


async def in_thread(
    args: pulumi.ResourceHookArgs, work: Callable[[Clock], T], stop: Stop = STOP
) -> T:
    """Run blocking work for a hook; it gets a clock that tells and that stops.

    Raises what the work raises; `StoppedError` when the run is asked to end and the work does not.
    """
    teller = Teller(args.urn, asyncio.get_running_loop())
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work(Clock(sleep=stop.sleep, tell=teller.tell)))
        except BaseException as error:  # noqa: BLE001 the hook raises it
            done.set_exception(told(error))

    # A daemon: a call that hangs must not keep the program from ending.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), daemon=True, name=args.name).start()
    try:
        return await _ended(done, stop)
    except asyncio.CancelledError:  # the SDK closes the door to its hooks: the program has failed
        stop.request(PROGRAM_ENDED)
        raise


def told(error: BaseException) -> BaseException:
    """Let an error whose class knows the page that helps name it."""
    if page := getattr(error, "page", ""):
        error.args = (with_page(str(error), page),)
    return error


async def resolved(output: pulumi.Output[T]) -> T:
    """Wait for an output's value; in a hook, what the resource depends on is there."""
    value = await output.future()
    if value is None:
        message = "a value that a hook needs is missing; this is a bug of the program"
        raise RuntimeError(message)
    return value


async def _ended(done: Future[T], stop: Stop) -> T:
    asked: float | None = None
    while not done.done():
        if stop.requested():
            asked = asked or time.monotonic()
            if time.monotonic() - asked >= GRACE_SECONDS:
                raise stop.error()
        await asyncio.sleep(POLL_SECONDS)
    return done.result()


class Teller:
    """Tells what is waited for: on the resource in the engine's display, and in the run's log."""

    def __init__(self, urn: str, loop: asyncio.AbstractEventLoop) -> None:
        self._urn = urn
        self._loop = loop
        self._context = contextvars.copy_context()

    def tell(self, text: str) -> None:
        """Tell it; from any thread."""
        name = self._urn.rsplit("::", 1)[-1]
        this_run().write(f"{name}: {text}")
        self._loop.call_soon_threadsafe(self._show, text, context=self._context)

    def _show(self, text: str) -> None:
        pulumi.log.info(text, resource=DependencyResource(self._urn), ephemeral=True)


@cache
def this_run() -> run_log.RunLog:
    """Give the log of this run."""
    return run_log.RunLog(run_log.folder(), pulumi.get_stack())
