"""`python -m rehearsal`: the whole life of the stack file, in the world that it runs in.

Up, a look around, a preview that must be empty, destroy, and the deployment's timeline.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from config import load_file
from config.placeholders import operators_file, placeholders
from rehearsal import judgement, report
from rehearsal.recorder import Recorder
from rehearsal.timeline import Timeline
from rehearsal.tools import PROJECT, Engine, ToolError, world, write_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT = Path(os.environ.get("LAB_OUT") or PROJECT / ".lab" / "out")
"""What the run leaves; another world never writes there at the same time (`lab run --out`)."""


@contextmanager
def chapter(title: str, times: dict[str, float]) -> Iterator[None]:
    """Head a part of the rehearsal and keep its duration in seconds."""
    print(f"\n=== {title}", flush=True)
    begin = time.monotonic()
    yield
    times[title] = time.monotonic() - begin


def rehearse() -> None:
    """Walk through the stack's life; the first thing that fails ends it."""
    OUT.mkdir(parents=True, exist_ok=True)
    engine, times = Engine(), dict[str, float]()
    events = world() / "up.events"
    with chapter("pulumi up", times), Recorder(events):
        engine.up(events)
    with chapter("a look around", times):
        write_credentials(engine)
        print(report.look_around())
    with chapter("pulumi preview must be empty", times):
        judged = judgement.of(events, engine.preview_expecting_no_changes())
    state = engine.state()
    with chapter("pulumi destroy --exclude-protected", times):
        engine.destroy()
    timeline = Timeline.from_events(events, state)
    picture = OUT / "timeline.html"
    picture.write_text(timeline.html())
    shutil.copy(events, OUT / "up.events")
    (OUT / "times.json").write_text(json.dumps(times, indent=2) + "\n")
    print("\n=== summary")
    for title, seconds in times.items():
        print(f"{title:40} {seconds:7.1f} s")
    print(f"\n{judged}")
    print(f"\n{report.real_and_simulated()}")
    print(f"\n{stand_ins(operators_file())}")
    print(f"\n{report.pictures(OUT)}\n\n{report.what_next()}")


def stand_ins(file: Path | None) -> str:
    """Say which values of a stack file are placeholders, which the lab alone takes."""
    found = placeholders(load_file(file)) if file is not None else ()
    if not found:
        return "no value of the stack file is a placeholder"
    keys = "".join(f"\n  {each.key}" for each in found)
    return f"placeholders in the stack file, which `pulumi up` refuses outside of the lab:{keys}"


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m rehearsal", description=__doc__).parse_args()
    try:
        rehearse()
    except ToolError as error:
        sys.exit(f"\nthe rehearsal failed: {error}")
