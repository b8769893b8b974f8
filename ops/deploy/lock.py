"""Layer Deployment: the stack's lock, freed when this run left it behind, and only then.

`pulumi cancel` frees the locks of everybody. So the run that is about to lock writes down who it
is, and its lock is freed only when the backend names exactly that process as the only holder.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import pydantic

from clients.pulumi_cli import EngineError, pulumi

HOLDER = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<at>\S+)")
LOCKED = "the stack is currently locked by"
NOWHERE = "no-such-resource"
"""The name of a resource that is in no stack."""


class Run(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A run that may hold the lock: a process on a host."""

    host: str
    pid: int

    @classmethod
    def this(cls) -> Run:
        """Give this process, which becomes the engine and keeps its number."""
        return cls(host=socket.gethostname(), pid=os.getpid())

    @property
    def alive(self) -> bool:
        """Whether it still runs, on this host."""
        return self.host == socket.gethostname() and Path(f"/proc/{self.pid}").exists()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, in the backend's words."""

    host: str
    pid: int
    text: str


def holders(said: str) -> list[Holder]:
    """Read the holders out of the engine's refusal."""
    return [Holder(one["host"], int(one["pid"]), one[0]) for one in HOLDER.finditer(said)]


def ask() -> list[Holder]:
    """Give who holds the stack's lock.

    No command of the engine lists locks; one that needs the lock and then finds nothing to do
    names them. This one would refresh a resource that is in no stack: it looks, and ends there.
    """
    target = f"urn:pulumi:{NOWHERE}::{NOWHERE}::pulumi:pulumi:Stack::{NOWHERE}"
    result = pulumi("refresh", "--yes", "--target", target, codes=())
    said = result.stdout + result.stderr
    if LOCKED in said:
        return holders(said)
    if result.returncode != 0 and NOWHERE in said:
        return []
    message = (
        "whether the stack is locked cannot be told here (Pulumi Cloud frees a lost run's lock by "
        f"itself); see who deploys before a `pulumi cancel`. The engine said:\n{said.strip()}"
    )
    raise EngineError(message)


def unlock(record: Path) -> str:
    """Free the lock that the recorded run left behind; gives what was done.

    Raises EngineError when the lock is another run's, or its own run is still alive.
    """
    if not record.exists():
        return "this run locked nothing"
    run = Run.model_validate_json(record.read_text(encoding="utf-8"))
    held = ask()
    if not held:
        record.unlink()
        return "the stack is not locked"
    theirs = [one for one in held if (one.host, one.pid) != (run.host, run.pid)]
    if theirs:
        names = "\n".join(f"  {one.text}" for one in theirs)
        message = (
            f"the lock is not this run's, and stays:\n{names}\nAsk them; then `pulumi cancel`."
        )
        raise EngineError(message)
    if run.alive:
        message = f"the run that holds the lock is still alive: process {run.pid} on {run.host}"
        raise EngineError(message)
    pulumi("cancel", "--yes")
    record.unlink()
    return f"freed the lock that process {run.pid} on {run.host} left behind"
