"""`python -m ops rehearse`: the whole life of the stack file, in the world that it runs in.

Up, a look around, a preview that must be empty, what watches the platform, destroy, and the
deployment's timeline.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clients.waiting import Clock
from config import load_file
from config.placeholders import operators_file, placeholders
from ops.rehearsal import (
    alerts,
    applications,
    dashboards,
    dashboards_page,
    flows,
    judgement,
    platform,
    report,
    run_page,
    timeline_page,
    victoria_metrics,
)
from ops.rehearsal.recorder import Recorder
from ops.rehearsal.timeline import Timeline
from ops.rehearsal.tools import PROJECT, Engine, spec, status_of, world, write_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops.rehearsal.victoria_metrics import VictoriaMetrics

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
    events = world() / "up.events"
    OUT.mkdir(parents=True, exist_ok=True)
    engine, times = Engine(), dict[str, float]()
    began = dt.datetime.now(dt.UTC)
    with chapter("pulumi up", times), Recorder(events):
        engine.up(events)
    write_credentials(engine)
    if applications.followed():
        with chapter("Argo CD takes over, and brings the applications", times):
            print(applications.wait())
    with chapter("a look around", times):
        layers, found = platform.layers(), report.entrances()
        print(report.look_around(layers, found))
    with chapter("pulumi preview must be empty", times):
        judged = judgement.of(events, engine.preview_expecting_no_changes())
    shown = ""
    told = "nobody watches: its programs are simulated (`make watching` builds them)"
    if alerts.watched(world()):
        # Last: until all targets were read and all rules looked at, much of a minute has passed.
        with chapter("the platform watches itself", times):
            clock = Clock(tell=lambda line: print(line, flush=True))
            alerts.wait_heard(clock)
            with victoria_metrics.forwarded() as metrics:
                told = alerts.fires(metrics, clock)
                print(told)
                shown = draw_dashboards(metrics, began)
    state = engine.state()
    with chapter("pulumi destroy --exclude-protected", times):
        engine.destroy()
    timeline = Timeline.from_events(events, state)
    picture = OUT / "timeline.html"
    picture.write_text(timeline_page.render(timeline))
    seen = flows.read(world())
    placed = stand_ins(operators_file())
    page = run_page.Run(
        stack=spec()["stack"],
        began=f"{began:%Y-%m-%d %H:%M:%S %Z}",
        chapters=times,
        parts=report.parts(),
        layers=layers,
        addresses=found,
        seen=seen,
        notes=(told, str(judged), placed),
        timeline=picture.name,
        dashboards=shown,
    )
    (OUT / "run.html").write_text(run_page.render(page))
    shutil.copy(events, OUT / "up.events")
    (OUT / "times.json").write_text(json.dumps(times, indent=2) + "\n")
    print("\n=== summary")
    for title, seconds in times.items():
        print(f"{title:40} {seconds:7.1f} s")
    print(f"\n{told}")
    print(f"\n{judged}")
    print(f"\n{report.real_and_simulated()}")
    print(f"\n{flows.summary(seen)}")
    print(f"\n{placed}")
    print(f"\n{report.pictures(OUT)}\n\n{report.what_next()}")


def draw_dashboards(metrics: VictoriaMetrics, began: dt.datetime) -> str:
    """Leave a page with the dashboards' numbers since a rehearsal began; gives its name."""
    now = dt.datetime.now(dt.UTC)
    found = dashboards.read(partial(metrics.between, began.timestamp(), now.timestamp()))
    page = OUT / "dashboards.html"
    when = f"{began:%Y-%m-%d %H:%M:%S} to {now:%H:%M:%S %Z}"
    page.write_text(dashboards_page.render(found, spec()["stack"], when))
    return page.name


def stand_ins(file: Path | None) -> str:
    """Say which values of a stack file are placeholders, which the lab alone takes."""
    found = placeholders(load_file(file)) if file is not None else ()
    if not found:
        return "no value of the stack file is a placeholder"
    keys = "".join(f"\n  {each.key}" for each in found)
    return f"placeholders in the stack file, which `pulumi up` refuses outside of the lab:{keys}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse; gives the exit status."""
    parser().parse_args(arguments)
    return status_of("rehearsal", rehearse)


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    return argparse.ArgumentParser(prog="python -m ops rehearse", description=__doc__)
