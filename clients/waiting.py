"""How everything here waits: it says what is lacking, ends in time, and stops when it is asked to.

Plain and blocking, without Pulumi: hooks.py runs such work beside the engine, and shows what is
told.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, NamedTuple, TypeVar

FIRST_SECONDS = 5.0
"""What ends sooner needs no words."""
REPORT_SECONDS = 15.0
"""A wait is told again after this, and not sooner."""
FIRST_POLL_SECONDS = 0.25
"""A wait looks again after this at first, then after half of the time it has taken so far."""
STOP_POLL_SECONDS = 0.2
"""How soon a program that runs is ended once the run is asked to stop."""


T = TypeVar("T")


class NotYetError(Exception):
    """What is waited for is not there yet; the text says what is lacking."""


class OverdueError(Exception):
    """It did not come in time; the text says what was lacking at the end."""


class StoppedError(Exception):
    """The run was asked to end while something waited; the text names why and what to do."""


class Stop:
    """Whether the run is asked to end. Every wait looks at it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._why = ""

    def request(self, why: str) -> None:
        """Ask all waits to end; `why` is told by each. The first reason stays."""
        if not self._event.is_set():
            self._why = why
            self._event.set()

    def requested(self) -> bool:
        """Whether the run is asked to end."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep, but raise `StoppedError` as soon as the run is asked to end."""
        if self._event.wait(seconds):
            raise self.error()

    def error(self) -> StoppedError:
        """Give the error that a wait ends with."""
        return StoppedError(f"{self._why}; `pulumi up` goes on from here")


STOP = Stop()
"""Of this process: a run has one end."""


def say_nothing(_: str) -> None:
    """Tell nobody what is waited for."""


@dataclass(frozen=True)
class Clock:
    """Time, and who is told what is waited for; tests need neither."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = STOP.sleep
    tell: Callable[[str], None] = say_nothing

    def wait(
        self,
        what: str,
        lacking: Callable[[], str],
        *,
        seconds: float,
        poll: float,
        lasting: float = 0.0,
    ) -> str:
        """Poll until nothing has been lacking for `lasting` seconds, for `seconds` at most.

        It looks every `poll` seconds, more often at first. `what` names what is waited for, as in
        "node01: healthy". `lacking` says what is missing now, "" when nothing is. Gives what was
        missing at the end, "" when all came. Raises `StoppedError` when the run is asked to end.
        """
        start = self.now()
        told = start - REPORT_SECONDS + FIRST_SECONDS
        said = False
        since: float | None = None
        while True:
            lacks, now = lacking(), self.now()
            since = None if lacks else (now if since is None else since)
            if since is not None and now - since >= lasting:
                if said:
                    self.tell(f"{what}: yes, after {now - start:.0f} s")
                return ""
            if lacks and now - start >= seconds:
                return lacks
            if now - told >= REPORT_SECONDS:
                told, said = now, True
                why = lacks or f"it is, and must stay so for {lasting:.0f} s"
                took = f"{now - start:.0f} s so far, at most {seconds:.0f} s"
                self.tell(f"waiting for {what}; {took}: {why}")
            self.sleep(min(poll, max(FIRST_POLL_SECONDS, (now - start) / 2)))

    def wait_for(
        self,
        what: str,
        look: Callable[[], T],
        *,
        seconds: float,
        poll: float,
        errors: type[Exception] | tuple[type[Exception], ...] = NotYetError,
    ) -> T:
        """Poll until `look` gives what it has seen, for `seconds` at most, and give that.

        One of `errors` says that it is not there yet, and what is lacking; every other one ends
        the wait. Raises `OverdueError` when the time is over, and else as `wait` does.
        """
        seen: list[T] = []

        def lacking() -> str:
            try:
                seen.append(look())
            except errors as error:
                return str(error) or type(error).__name__
            return ""

        if lacks := self.wait(what, lacking, seconds=seconds, poll=poll):
            raise OverdueError(lacks)
        return seen[-1]


class Result(NamedTuple):
    """What one run of a program left behind."""

    returncode: int
    stdout: str
    stderr: str


def follow_program(argv: Sequence[str], seconds: float, line: Callable[[str], None]) -> Result:
    """Run a program as `run_program` does, and give each line of its output as it comes."""
    lines: list[str] = []

    def read(stream: IO[str]) -> None:
        for text in stream:
            lines.append(text)
            line(text.rstrip("\n"))

    with (
        TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 it is a pipe
        reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reader.start()
        end = time.monotonic() + seconds
        while process.poll() is None:
            if STOP.requested() or time.monotonic() >= end:
                process.kill()
                break
            time.sleep(STOP_POLL_SECONDS)
        reader.join()
        returncode = process.wait()
        if STOP.requested():
            raise STOP.error()
        errors.seek(0)
        text = errors.read()
    if returncode < 0 and time.monotonic() >= end:
        return Result(TIMED_OUT, "".join(lines), f"not done within {seconds:.0f} s")
    return Result(returncode, "".join(lines), text)


TIMED_OUT = 124
"""The exit code of a program that was given up, as `timeout` has it."""


def run_program(argv: Sequence[str], seconds: float, stop: Stop = STOP) -> Result:
    """Run a program for at most so many seconds.

    Raises `StoppedError` when the run is asked to end meanwhile, `FileNotFoundError` when there is
    no such program.
    """
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        return _ended(process, seconds, stop, process.kill)


WATCHED = """
exec 3<&0
"$@" <&- 3<&- &
program=$!
{ cat <&3 > /dev/null; kill -9 "$program"; } 2> /dev/null > /dev/null &
watcher=$!
exec 3<&-
wait "$program"
code=$?
kill "$watcher" 2> /dev/null
exit "$code"
"""
"""Runs a program, and ends it when the other end of standard input is gone, as of a killed run."""


def run_group(
    argv: Sequence[str], seconds: float, env: Mapping[str, str], stop: Stop = STOP
) -> Result:
    """Run a program as `run_program` does, with this environment alone.

    It and all that it starts are one process group, which ends as a whole, also when this program
    is interrupted or killed meanwhile: what waits without an end must not outlive who asked it.
    """
    if shutil.which(argv[0], path=env.get("PATH")) is None:
        raise FileNotFoundError(argv[0])
    closes, held = os.pipe()
    try:
        with subprocess.Popen(
            ["/bin/sh", "-c", WATCHED, "sh", *argv],
            env=dict(env),
            stdin=closes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        ) as process:
            os.close(closes)

            def end() -> None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

            try:
                return _ended(process, seconds, stop, end)
            except BaseException:
                end()
                raise
    finally:
        os.close(held)


def _ended(
    process: subprocess.Popen[str], seconds: float, stop: Stop, kill: Callable[[], None]
) -> Result:
    """Wait until a program has ended, and end it by `kill` when its time or the run is over."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        try:
            stdout, stderr = process.communicate(timeout=max(min(left, STOP_POLL_SECONDS), 0.0))
        except subprocess.TimeoutExpired:
            if not stop.requested() and left > 0:
                continue
            kill()
            process.communicate()
            if stop.requested():
                raise stop.error() from None
            return Result(TIMED_OUT, "", f"no answer within {seconds:.0f} s")
        return Result(process.returncode, stdout, stderr)
