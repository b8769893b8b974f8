"""A Ctrl-C ends a command within seconds, without a traceback, as a shell expects it (code 130).

A program that it runs gets the terminal's Ctrl-C too and ends by itself: the engine frees its lock
then. One that does not is asked again, and killed in the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

PATIENCE = ((2.5, signal.SIGINT), (1.0, signal.SIGINT), (0.5, signal.SIGKILL))
"""Seconds that a program gets after a Ctrl-C, and what it is sent when they are over. The engine
takes the second one as the order to end at once."""


def quiet() -> None:
    """Let a Ctrl-C that nobody catches end this process at once, without a traceback."""
    sys.excepthook = _without_traceback


def _without_traceback(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stderr.write("\ninterrupted\n")
    sys.stderr.flush()
    # All context managers have ended. Threads that hang in a call must not keep the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def run(
    argv: Sequence[str], folder: Path | None = None, show: Callable[[str], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it says; at a Ctrl-C it gets the time to end by itself.

    `folder` is where it runs; None for this process's own. `show` gets each line of its output as
    it comes, without its end; errors go to the terminal then, and are not kept.

    Raises `FileNotFoundError` when there is no such program.
    """
    process = subprocess.Popen(
        argv,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
    )
    try:
        shown = _followed(process, show) if show else ""
        stdout, stderr = process.communicate()
    except BaseException:
        _end(process)
        raise
    return subprocess.CompletedProcess(argv, process.returncode, shown + stdout, stderr or "")


def attached(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a program on this terminal; at a Ctrl-C it gets the time to end by itself.

    Gives its exit code. Raises `FileNotFoundError` when there is no such program.
    """
    process = subprocess.Popen(argv, env=dict(env), text=True)
    try:
        return process.wait()
    except BaseException:
        _end(process)
        raise


@contextmanager
def unwound() -> Iterator[None]:
    """Let SIGTERM and a lost terminal end what runs here as a Ctrl-C does, not at once.

    What is decrypted lies in temporary folders, which are removed only then.
    """

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    # One that is ignored, as under nohup, stays so.
    orders = (signal.SIGTERM, signal.SIGHUP)
    before = {one: had for one in orders if (had := signal.getsignal(one)) != signal.SIG_IGN}
    for one in before:
        signal.signal(one, interrupt)
    try:
        yield
    finally:
        for one, had in before.items():
            signal.signal(one, had)


def _followed(process: subprocess.Popen[str], show: Callable[[str], None]) -> str:
    """Show a program's output line by line, to its end."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        show(line.rstrip("\n"))
    return "".join(lines)


def _end(process: subprocess.Popen[str]) -> None:
    for seconds, following in PATIENCE:
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(following)
        except KeyboardInterrupt:  # an impatient one
            process.send_signal(signal.SIGINT)
        else:
            return
    process.wait()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads for calls; whoever leaves early does not wait for those that hang."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
