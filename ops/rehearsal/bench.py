"""`python -m ops rehearse bench OUT.json`: measures the program and the lab; asserts nothing.

Times are wall seconds, memory is MiB (proportional set size, so that shared pages count once).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from clients.pulumi_cli import POLICIES
from components.resource_types import GATE
from ops.engine.urn import types_of
from ops.rehearsal.recorder import Recorder
from ops.rehearsal.timeline import Timeline
from ops.rehearsal.world import LAB, PROJECT, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PYTHON = PROJECT / ".venv" / "bin" / "python"
STACK_FILE = PROJECT / "Pulumi.prod.yaml"
WORLDS = PROJECT / ".lab" / "worlds"
SIZES = (3, 20, 100)


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def median(action: Callable[[], object], times: int = 5) -> float:
    """Give the median of several calls, after one that warms the caches."""
    action()
    return statistics.median(seconds(action) for _ in range(times))


def python(code: str) -> Callable[[], object]:
    """Make an action that runs a line of Python in the project."""
    return lambda: subprocess.run([PYTHON, "-c", code], cwd=PROJECT, check=True)


def import_time() -> float:
    """Measure what importing the program's layers adds to a bare interpreter."""
    return median(python("import config, components.layers, components.vsphere.machines")) - median(
        python("pass")
    )


class MemoryPeak:
    """Samples the memory of all processes of a world."""

    def __init__(self, init: int) -> None:
        self._namespace = Path(f"/proc/{init}/ns/net").readlink()
        self._user = Path(f"/proc/{init}/ns/user").readlink()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.peak = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self.peak = max(self.peak, sum(self._sizes()))

    def _sizes(self) -> Iterator[float]:
        """Give the size of each process of the world's user namespace."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (entry / "ns" / "user").readlink() != self._user:
                    continue
                for line in (entry / "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        yield int(line.split()[1]) / 1024
            except OSError:  # it has ended
                continue


@contextmanager
def started(name: str, stack_file: Path, *options: str) -> Iterator[World]:
    """Keep a world for the length of a block."""
    world = World(WORLDS / f"bench-{name}", stack_file, *options).start()
    try:
        yield world
    finally:
        world.stop()


def stack_of(machines: int, folder: Path) -> Path:
    """Write a stack file like the production one, with workers up to that many machines."""
    document = yaml.safe_load(STACK_FILE.read_text())
    settings = document["config"]
    # A wider network, so that there is room beside the pool.
    settings["platform:network"] |= {"cidr": "172.16.20.0/22"}
    settings["platform:machines"] += [
        {"name": f"worker{i:03}", "address": f"172.16.21.{i}", "role": "worker", "cpus": 4}
        | {"memoryMiB": 16384, "diskGiB": 100}
        for i in range(1, machines - 2)
    ]
    target = folder / "Pulumi.prod.yaml"
    target.write_text(yaml.safe_dump(document))
    return target


def preview_at(machines: int) -> float:
    """Measure the first preview of that many machines: nothing exists yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = stack_of(machines, Path(folder))
        with started(f"preview-{machines}", file) as world:
            return median(lambda: world.run("pulumi", "preview", "--non-interactive"), times=3)


EMPTY = """\
name: empty
runtime: { name: python, options: { virtualenv: .venv } }
"""


def empty_preview(world: World) -> float:
    """Measure the preview of a program without a resource, on the same engine and backend."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "Pulumi.yaml").write_text(EMPTY)
        (project / "__main__.py").touch()
        (project / ".venv").symlink_to(PROJECT / ".venv")
        world.run("pulumi", "--cwd", folder, "stack", "init", "empty", "--non-interactive")
        return median(
            lambda: world.run(
                "pulumi", "--cwd", folder, "--stack", "empty", "preview", "--non-interactive",
            )
        )  # fmt: skip


def life_of_prod() -> dict[str, Any]:
    """Build the production stack, and measure up, the empty preview after it, and memory."""
    with started("prod", STACK_FILE) as world, MemoryPeak(world.init_pid()) as memory:
        events = world.state / "up.events"
        with Recorder(events):
            wall = seconds(lambda: world.up("--event-log", str(events)))
        state = json.loads(world.run("pulumi", "stack", "export").stdout)
        timeline = Timeline.from_events(events, state)
        noop = median(world.expect_no_changes)
        judged = median(lambda: world.expect_no_changes(*POLICIES))
        empty = empty_preview(world)
        destroy = seconds(world.destroy)
    return {
        "up_seconds": wall,
        "up_critical_path_seconds": timeline.critical_seconds,
        "up_to_critical_path_ratio": wall / timeline.critical_seconds,
        "up_seconds_by_layer": seconds_by_layer(timeline),
        "noop_preview_seconds": noop,
        "noop_preview_with_policies_seconds": judged,
        "empty_program_preview_seconds": empty,
        "noop_to_empty_ratio": noop / empty,
        "destroy_seconds": destroy,
        "peak_memory_mib": memory.peak,
    }


def seconds_by_layer(timeline: Timeline) -> dict[str, float]:
    """Give the time from the first step of a layer to its last, by the layer's component."""
    spans: dict[str, tuple[float, float]] = {}
    for step in timeline.steps:
        layers = [one for one in types_of(step.urn) if one.startswith("platform:")]
        if layers and layers[0] != GATE:
            name = layers[0].rsplit(":", 1)[-1]
            start, end = spans.get(name, (step.start, step.end))
            spans[name] = min(start, step.start), max(end, step.end)
    return {name: round(end - start, 1) for name, (start, end) in spans.items()}


def lab_start() -> float:
    """Measure a world that runs `true`."""
    return seconds(
        lambda: subprocess.run(
            [LAB, "run", "--state", WORLDS / "bench-start", "--", "true"],
            cwd=PROJECT, check=True, capture_output=True,
        )
    )  # fmt: skip


def measure() -> dict[str, Any]:
    """Measure everything; takes minutes."""
    cold = lab_start()
    return {
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
        },
        "lab_start_first_seconds": cold,
        "lab_start_again_seconds": statistics.median(lab_start() for _ in range(3)),
        "program_import_seconds": import_time(),
        **life_of_prod(),
        "preview_seconds_by_machines": {str(n): preview_at(n) for n in SIZES},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write and show the result; gives the exit status."""
    out: Path = parser().parse_args(arguments).out
    result = json.dumps(measure(), indent=2)
    out.write_text(result + "\n")
    print(result)
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops rehearse bench", description=__doc__)
    made.add_argument("out", type=Path, metavar="OUT.json", help="where the result is written")
    return made
