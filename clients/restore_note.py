"""What a restore leaves for the run after it, and tells the program that it starts.

A note in `private/`, beside the operator's credentials: which backup, and how far. It holds no
secret. Without it a killed restore could be gone on with as if nothing had been begun.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTE = ROOT / "private" / "restore.json"
SNAPSHOT = "PLATFORM_RESTORE_FROM"
"""The variable with which `python -m ops restore rebuild` gives the program the snapshot's file."""


class Step(StrEnum):
    """How far a restore is."""

    EMPTYING = "old data is being wiped"
    RECOVERING = "what data there is now is the backup's"
    REBUILDING = "etcd is to begin with the backup"


class NoteError(Exception):
    """A note cannot be read; the text says what to do."""


@dataclass(frozen=True)
class Begun:
    """A restore that is not at its end."""

    backup: str
    step: Step


def read(path: Path = NOTE) -> Begun | None:
    """Give what was begun; None when nothing was. Raises NoteError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Begun(str(found["backup"]), Step(found["step"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise NoteError(f"{path}: not a note of a restore; remove it, and begin again") from None


def age(now: dt.datetime, path: Path = NOTE) -> dt.timedelta:
    """Give how long ago the note was written. Raises OSError."""
    return now - dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.UTC)


def write(begun: Begun, path: Path = NOTE) -> None:
    """Remember it; the file is put in place as a whole, so that a kill leaves no half of one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(begun)) + "\n", encoding="utf-8")
    new.replace(path)


def forget(path: Path = NOTE) -> None:
    """Remove it: all is done."""
    path.unlink(missing_ok=True)


def asked_for(path: Path = NOTE) -> Path | None:
    """Give the snapshot that etcd is to begin with; None for an empty one. Raises NoteError.

    A rebuild that was stopped before etcd had begun must not go on with an empty one.
    """
    if given := os.environ.get(SNAPSHOT):
        return Path(given)
    begun = read(path)
    if begun is not None and begun.step is Step.REBUILDING:
        raise NoteError(
            f"etcd: not begun. A rebuild with the backup {begun.backup} was stopped before this: "
            "go on with `python -m ops restore rebuild`. To begin with an empty etcd instead, "
            f"remove {path}, then run `pulumi up` again"
        )
    return None
