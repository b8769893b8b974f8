"""What stops a run, told once: which setting it is about, what is wrong, and what to do.

The SDK shows what fails in a program as two tracebacks around the right sentence; and where a hook
runs meanwhile, often nothing at all: the SDK first cancels the hook, at which the engine ends the
run, and only then reports the cause, too late. So the cause is told here, before anything is
cancelled, and the program ends with the exit code that says so.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pulumi
from pulumi.runtime.settings import SETTINGS

from clients.waiting import STOP
from config.problems import Problem, listed, with_page

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

EXIT_CODE = 32
"""Tells the language host that the error has been shown (pulumi-language-python-exec)."""


PAGE = "docs/operations.md"
"""What messages mean, for those that name no page of their own."""

ASKED = "invoke of "
"""How the SDK begins the error of a provider's function."""


SHUT_DOWN = re.compile(r"client connection is closing|resource monitor shut down|context canceled")
"""What a call ends with that the engine cuts off because something else has failed."""


class ToldError(BaseException):
    """The run ends, and the user has been told why. No `Exception`: the SDK would tell it again."""


def tell(text: str) -> ToldError:
    """Show an error in the engine's display, and give what is to be raised."""
    pulumi.log.error(with_page(text, PAGE))
    return ToldError(text)


def exit_when_told() -> None:
    """Let a `ToldError` end the program without a traceback, and with its exit code."""
    shown = sys.excepthook
    told: list[BaseException] = []

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ToldError):
            told.append(error)
        else:
            shown(kind, error, traceback)

    def leave() -> None:
        if told:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_CODE)

    sys.excepthook = show
    # The first that is registered runs last: temporary files are gone by then.
    atexit.register(leave)


class _Answer(NamedTuple):
    """Everything that an output holds."""

    value: Any
    known: bool
    secret: bool
    resources: set[pulumi.Resource]


def _take_note(task: asyncio.Future[Any]) -> None:
    """Take a failure for seen: it is told by the group, and Python need not print it once more."""
    if not task.cancelled():
        task.exception()


class Questions:
    """Calls of provider functions that are asked together, and whose failures are told together."""

    def __init__(self) -> None:
        self._open = 0
        self._all = asyncio.Event()
        self._problems: list[Problem] = []
        self._told: ToldError | None = None

    def ask(
        self, question: Callable[[], pulumi.Output[T]], problem: Callable[[str], Problem]
    ) -> pulumi.Output[T]:
        """Give the answer, but one whose failure ends the run with all failures of the group.

        `problem` makes the provider's error message a problem of a setting.
        """
        self._open += 1
        answer = _unwatched(question)
        settled = asyncio.ensure_future(self._settle(answer, problem))

        async def part(number: int) -> Any:  # noqa: ANN401 the parts of an answer
            return (await settled)[number]

        # As futures: an output asks for the rest no more when the first of them fails.
        parts = [asyncio.ensure_future(part(n)) for n in range(len(_Answer._fields))]
        for one in parts:
            one.add_done_callback(_take_note)
        value, known, secret, resources = parts
        return pulumi.Output(resources, value, known, secret)

    async def _settle(self, answer: pulumi.Output[T], problem: Callable[[str], Problem]) -> _Answer:
        try:
            found = _Answer(
                await answer.future(with_unknowns=True),
                await answer.is_known(),
                await answer.is_secret(),
                await answer.resources(),
            )
        except Exception as error:
            if SHUT_DOWN.search(str(error)):  # the engine ends, and has told why
                self._settled()
                raise ToldError(str(error)) from None
            if not str(error).startswith(ASKED) or STOP.requested():
                self._settled()  # it was never asked, or is not waited for any more
                raise
            self._problems.append(problem(cause(str(error))))
            self._settled()
            await self._all.wait()
            if self._told is None:
                self._told = tell(listed(self._problems))
            raise self._told from None
        except BaseException:  # an earlier question failed, and this one was never asked
            self._settled()
            raise
        self._settled()
        return found

    def _settled(self) -> None:
        self._open -= 1
        if not self._open:
            self._all.set()


def _unwatched(question: Callable[[], pulumi.Output[T]]) -> pulumi.Output[T]:
    """Make outputs that the SDK does not watch: it would end the run at the first that fails."""
    before = set(SETTINGS.outputs)
    answer = question()
    with SETTINGS.lock:
        SETTINGS.outputs.intersection_update(before)
    return answer


def cause(error: str) -> str:
    """Leave out what the SDK and the engine put before a provider's own words."""
    for mark in ("returned an error: ", " failed: "):
        _, found, rest = error.partition(mark)
        if found and error.startswith(ASKED):
            error = rest
            break
    text = " ".join(error.split())
    if text.startswith("invoking ") and ": " in text:
        text = text.split(": ", 1)[1]
    return text
