"""`python -m ops rehearse bench OUT.json`: measures the program and the lab; asserts nothing.

Times are wall seconds, and seconds of processor time with all the processes that a command starts:
those say the same on a busy machine. Memory is MiB (proportional set size, so that shared pages
count once).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import yaml

from clients.pulumi_cli import POLICIES
from config.resource_types import GATE
from ops.engine.urn import types_of
from ops.rehearsal.recorder import Recorder
from ops.rehearsal.timeline import Timeline
from ops.rehearsal.world import LAB, PROJECT, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PYTHON = PROJECT / ".venv" / "bin" / "python"
STACK_FILE = PROJECT / "Pulumi.prod.yaml"
WORLDS = PROJECT / ".lab" / "worlds"
SIZES = (3, 20, 100, 200)
ROUNDS = 5


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


class Cost(NamedTuple):
    """What a command takes, in seconds."""

    wall: float
    processor: float


def cost(action: Callable[[], object]) -> Cost:
    """Measure one call and the programs that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = seconds(action)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def medians(actions: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, Cost]:
    """Give each action's medians of several calls, in turns, after one that warms the caches."""
    for action in actions.values():
        action()
    seen = [{name: cost(action) for name, action in actions.items()} for _ in range(rounds)]
    return {
        name: Cost(
            *(statistics.median(part) for part in zip(*(one[name] for one in seen), strict=True))
        )
        for name in actions
    }


def python(code: str) -> Callable[[], object]:
    """Make an action that runs a line of Python in the project."""
    return lambda: subprocess.run([PYTHON, "-c", code], cwd=PROJECT, check=True)


def import_time() -> float:
    """Measure what importing the program's layers adds to a bare interpreter."""
    layers = "import config, components.layers, components.vsphere.machines"
    found = medians({"layers": python(layers), "nothing": python("pass")})
    return found["layers"].processor - found["nothing"].processor


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


def preview_at(machines: int) -> Cost:
    """Measure the first preview of that many machines: nothing exists yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = stack_of(machines, Path(folder))
        with started(f"preview-{machines}", file) as world:
            preview = {"first": lambda: world.run("pulumi", "preview", "--non-interactive")}
            return medians(preview, rounds=3)["first"]


EMPTY = """\
name: empty
runtime: { name: python, options: { virtualenv: .venv } }
"""


def previews(world: World) -> dict[str, Cost]:
    """Measure previews without a change, and of a program without a resource, on one engine."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "Pulumi.yaml").write_text(EMPTY)
        (project / "__main__.py").touch()
        (project / ".venv").symlink_to(PROJECT / ".venv")
        world.run("pulumi", "--cwd", folder, "stack", "init", "empty", "--non-interactive")
        empty = ("pulumi", "--cwd", folder, "--stack", "empty", "preview", "--non-interactive")
        return medians(
            {
                "noop_preview": world.expect_no_changes,
                "noop_preview_with_policies": lambda: world.expect_no_changes(*POLICIES),
                "empty_program_preview": lambda: world.run(*empty),
            }
        )


def life_of_prod() -> dict[str, Any]:
    """Build the production stack, and measure up, the empty preview after it, and memory."""
    with started("prod", STACK_FILE) as world, MemoryPeak(world.init_pid()) as memory:
        events = world.state / "up.events"
        with Recorder(events):
            up = cost(lambda: world.up("--event-log", str(events)))
        state = json.loads(world.run("pulumi", "stack", "export").stdout)
        timeline = Timeline.from_events(events, state)
        found = previews(world)
        destroy = seconds(world.destroy)
    noop, empty = found["noop_preview"], found["empty_program_preview"]
    return {
        "up_seconds": up.wall,
        "up_processor_seconds": up.processor,
        "up_critical_path_seconds": timeline.critical_seconds,
        "up_to_critical_path_ratio": up.wall / timeline.critical_seconds,
        "up_seconds_by_layer": seconds_by_layer(timeline),
        **{f"{name}_seconds": one.wall for name, one in found.items()},
        **{f"{name}_processor_seconds": one.processor for name, one in found.items()},
        "noop_to_empty_ratio": noop.wall / empty.wall,
        "noop_to_empty_processor_ratio": noop.processor / empty.processor,
        "state_kib": len(json.dumps(state)) / 1024,
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
    load = os.getloadavg()[1]
    cold = lab_start()
    lives = life_of_prod()
    first = {str(size): preview_at(size) for size in SIZES}
    return {
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "load_of_others": load,
        },
        "lab_start_first_seconds": cold,
        "lab_start_again_seconds": statistics.median(lab_start() for _ in range(3)),
        "program_import_seconds": import_time(),
        **lives,
        "first_preview_seconds_by_machines": {size: one.wall for size, one in first.items()},
        "first_preview_processor_seconds_by_machines": {
            size: one.processor for size, one in first.items()
        },
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
