"""`python -m ops rehearse bench OUT.json`: measures the program and the lab; asserts nothing.

Times are wall seconds, and seconds of processor time with all the processes that a command starts:
those say the same on a busy machine. Memory is MiB (proportional set size, so that shared pages
count once). Figures are medians of rounds; `table` has the few that are to be reached, as ratios
where a machine's speed would tell nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
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
WORKERS = IPv4Address("172.16.21.0")
"""The workers' addresses are those that follow."""
ROUNDS = 5
LIVES = 3
"""Rounds of a whole `up`, which takes minutes."""
REAL_DELAYS = {"clone-delay": "60s", "boot-delay": "75s", "install-delay": "40s"}
"""What cloning, booting and installing took at a site."""


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
    """Samples the memory of a world: of its first process, and of all that descend from it."""

    def __init__(self, init: int) -> None:
        self._init = init
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
        # To read it holds a process up: at every half second it took a tenth of a processor.
        while not self._stop.wait(2):
            self.peak = max(self.peak, sum(map(_size, descendants(self._init))))


def _size(process: int) -> float:
    """Give the MiB of a process; 0 of one that has ended."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def descendants(first: int) -> set[int]:
    """Give a process and all that it has started, and those in turn.

    Pods have user namespaces of their own, so a namespace does not tell who belongs to a world.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name before it, in brackets, may hold anything.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, left = {first}, [first]
    while left:
        more = children.get(left.pop(), [])
        found.update(more)
        left += more
    return found


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
    # Wider networks: room beside the pool, and pods for as many machines as a cluster may have.
    settings["platform:network"] |= {"cidr": "172.16.16.0/20", "pods": "10.244.0.0/15"}
    settings["platform:machines"] += [
        {"name": f"worker{i:03}", "address": str(WORKERS + i), "role": "worker", "cpus": 4}
        | {"memoryMiB": 16384, "diskGiB": 100}
        for i in range(1, machines - 2)
    ]
    target = folder / "Pulumi.prod.yaml"
    target.write_text(yaml.safe_dump(document))
    return target


def preview_at(machines: int, rounds: int) -> Cost:
    """Measure the first preview of that many machines: nothing exists yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = stack_of(machines, Path(folder))
        with started(f"preview-{machines}", file) as world:
            command = ("pulumi", "preview", "--non-interactive")
            preview = {"first": lambda: world.run(*command, timeout=3600)}
            return medians(preview, rounds=rounds)["first"]


EMPTY = """\
name: empty
runtime: { name: python, options: { virtualenv: .venv } }
"""


def previews(world: World, rounds: int) -> dict[str, Cost]:
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
            },
            rounds,
        )


class Up(NamedTuple):
    """One `up` of the production stack on an empty site."""

    cost: Cost
    timeline: Timeline
    state_kib: float

    @property
    def to_critical_path(self) -> float:
        """How much longer it takes than the work on its critical path."""
        return self.cost.wall / self.timeline.critical_seconds


def first_up(world: World) -> Up:
    """Build what the world's stack file says, and measure it."""
    events = world.state / "up.events"
    with Recorder(events):
        up = cost(lambda: world.up("--event-log", str(events), timeout=3600))
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    return Up(up, Timeline.from_events(events, state), len(json.dumps(state)) / 1024)


def life_of_prod(rounds: int, lives: int) -> dict[str, Any]:
    """Build the production stack, and measure up, the empty preview after it, and memory."""
    with started("prod", STACK_FILE) as world, MemoryPeak(world.init_pid()) as memory:
        ups = [first_up(world)]
        found = previews(world, rounds)
        destroy = seconds(world.destroy)
    for _ in range(lives - 1):
        with started("prod", STACK_FILE) as world:
            ups.append(first_up(world))
    noop, empty = found["noop_preview"], found["empty_program_preview"]
    return {
        "up_seconds": statistics.median(one.cost.wall for one in ups),
        "up_processor_seconds": statistics.median(one.cost.processor for one in ups),
        "up_critical_path_seconds": statistics.median(one.timeline.critical_seconds for one in ups),
        "up_to_critical_path_ratio": statistics.median(one.to_critical_path for one in ups),
        "up_seconds_by_layer": seconds_by_layer(ups[0].timeline),
        **{f"{name}_seconds": one.wall for name, one in found.items()},
        **{f"{name}_processor_seconds": one.processor for name, one in found.items()},
        "noop_to_empty_ratio": noop.wall / empty.wall,
        "noop_to_empty_processor_ratio": noop.processor / empty.processor,
        "state_kib": ups[0].state_kib,
        "destroy_seconds": destroy,
        "peak_memory_mib": memory.peak,
    }


def up_with_real_delays() -> dict[str, float]:
    """Measure one `up` of the production stack with a site's delays; takes a quarter of an hour."""
    options = [part for name, value in REAL_DELAYS.items() for part in (f"--{name}", value)]
    with started("delays", STACK_FILE, *options) as world:
        up = first_up(world)
    return {
        "up_with_real_delays_seconds": up.cost.wall,
        "up_with_real_delays_critical_path_seconds": up.timeline.critical_seconds,
    }


def made(*targets: str) -> Callable[[], object]:
    """Make an action that runs targets of the Makefile."""
    return lambda: subprocess.run(
        ["make", *targets], cwd=PROJECT, check=True, stdin=subprocess.DEVNULL, capture_output=True
    )


def second_lab(lives: int) -> dict[str, float]:
    """Measure `make lab` where everything is built, with simulated pods and with real programs."""
    found = medians(
        {word: made("lab", f"LAB_PROGRAMS={word}") for word in ("simulated", "real")}, lives
    )
    return {
        "make_lab_simulated_seconds": found["simulated"].wall,
        "make_lab_seconds": found["real"].wall,
    }


def real_programs() -> dict[str, float]:
    """Measure one `up` of the production stack whose pods run the real programs."""
    with (
        started("real", STACK_FILE, "--programs", "real") as world,
        MemoryPeak(world.init_pid()) as memory,
    ):
        up = first_up(world)
    return {
        "up_real_seconds": up.cost.wall,
        "up_real_critical_path_seconds": up.timeline.critical_seconds,
        "peak_memory_real_mib": memory.peak,
    }


def builds() -> dict[str, float]:
    """Measure the first build, from an empty cache of Go, and what the programs of pods add."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
        cache = f"GOCACHE={folder}/cache"

        def build(word: str) -> Cost:
            options = (f"LAB_PROGRAMS={word}", "LAB_BUILD=compiled")
            make = ("make", "-C", str(clone), "build", *options)
            command = ["env", cache, *make]
            return cost(
                lambda: subprocess.run(
                    command, check=True, stdin=subprocess.DEVNULL, capture_output=True
                )
            )

        first, more = build("simulated"), build("real")
    return {
        "first_build_seconds": first.wall + more.wall,
        "first_build_processor_seconds": first.processor,
        "programs_build_processor_seconds": more.processor,
    }


def unit_tests(lives: int) -> dict[str, float]:
    """Measure `make unit`."""
    found = medians({"unit": made("unit")}, lives)["unit"]
    return {"make_unit_seconds": found.wall, "make_unit_processor_seconds": found.processor}


def whole_test() -> dict[str, float]:
    """Measure `make test` in a fresh clone, with the caches of this account; takes half an hour."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", PROJECT, folder], check=True)
        test = ["make", "-C", folder, "test"]
        return {
            "make_test_seconds": seconds(
                lambda: subprocess.run(
                    test, check=True, stdin=subprocess.DEVNULL, capture_output=True
                )
            )
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


def first_previews(sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure first previews of so many machines, each."""
    first = {size: preview_at(size, rounds) for size in sizes}
    found: dict[str, Any] = {
        "first_preview_seconds_by_machines": {str(size): one.wall for size, one in first.items()},
        "first_preview_processor_seconds_by_machines": {
            str(size): one.processor for size, one in first.items()
        },
    }
    few, many = GROWTH
    if few in first and many in first:
        found["first_preview_growth_ratio"] = (first[many].wall / many) / (first[few].wall / few)
    return found


GROWTH = (20, 200)
"""Seconds a machine of the larger first preview, to those of the smaller one: 1 is linear."""


def starts() -> dict[str, float]:
    """Measure the start of a world, and of the program."""
    return {
        "lab_start_first_seconds": lab_start(),
        "lab_start_again_seconds": statistics.median(lab_start() for _ in range(3)),
        "program_import_seconds": import_time(),
    }


PARTS: Mapping[str, Callable[[argparse.Namespace], Mapping[str, Any]]] = {
    "starts": lambda _: starts(),
    "life": lambda given: life_of_prod(given.rounds, given.lives),
    "previews": lambda given: first_previews(given.sizes, min(given.rounds, 3)),
    "delays": lambda _: up_with_real_delays(),
    "lab": lambda given: second_lab(given.lives),
    "programs": lambda _: real_programs(),
    "unit": lambda given: unit_tests(given.lives),
    "build": lambda _: builds(),
    "test": lambda _: whole_test(),
}
"""What can be measured, by its name on the command line."""
LONG = {"build", "test"}
"""Measured only when it is named."""


class Goal(NamedTuple):
    """A figure that is to be reached."""

    measure: str
    key: str
    """Of the figure in the result."""
    goal: float
    unit: str = ""
    """Empty for a ratio."""
    bound: str = ""
    """What it is made of, as long as the goal is not reached."""


GOALS = (
    Goal(
        "preview without changes / empty program",
        "noop_to_empty_ratio",
        3.0,
        bound="A second of it are the schemas of Gateway API's and Traefik's definitions, which "
        "the SDK, the engine and the plugin each write and read several times: with empty schemas "
        "the ratio is 2.6 (tried).",
    ),
    Goal("first preview, seconds a machine, 200 machines / 20", "first_preview_growth_ratio", 1.1),
    Goal(
        "`up` of production / its critical path",
        "up_to_critical_path_ratio",
        1.05,
        bound="From the first layer on, both processors are busy: a half of it are the API "
        "servers, a sixth is the engine that writes its state after each step. With a site's "
        "delays the ratio is 1.03.",
    ),
    Goal(
        "critical path of `up` in the lab",
        "up_critical_path_seconds",
        60,
        "s",
        bound="Two control planes join one after the other, and each may wait seven seconds for "
        "etcd ([why](etcd-join.md)): that is 8 to 15 s each time.",
    ),
    Goal(
        "`up` with real delays (clone 60, boot 75, install 40 s)",
        "up_with_real_delays_seconds",
        670,
        "s",
    ),
    Goal("second `make lab`, simulated pods", "make_lab_simulated_seconds", 75, "s"),
    Goal(
        "second `make lab`, real programs",
        "make_lab_seconds",
        180,
        "s",
        bound="60 s are cert-manager's own wait before DNS-01 is looked at, which begins when it "
        "runs, a minute after the start; then what watches the platform reads all targets.",
    ),
    Goal("memory of the lab with real programs", "peak_memory_real_mib", 8192, "MiB"),
    Goal(
        "first build: processor time of the programs of pods",
        "programs_build_processor_seconds",
        600,
        "s",
    ),
    Goal(
        "`make unit`, processor time",
        "make_unit_processor_seconds",
        10,
        "s",
        bound="4,400 cases, 17 ms each on the average; the longest twenty are a fifth of it.",
    ),
    Goal(
        "`make test` in a fresh clone, warm module caches",
        "make_test_seconds",
        1500,
        "s",
        bound="Platforms that are built and changed, two at a time: more of them have gone to the "
        "weekly drill, and none is left out.",
    ),
)


def table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the figures that are to be reached, of those that were measured."""
    return [
        {"measure": one.measure, "found": found[one.key], "to_reach": one.goal, "unit": one.unit}
        for one in GOALS
        if one.key in found
    ]


def page(result: Mapping[str, Any]) -> str:
    """Write the table as a page for people, with the machine and what else it did."""
    machine = result["machine"]
    before, after = machine["load_of_others"], machine["load_at_the_end"]
    about = (
        f"Written by `make bench` on {machine['date']}, on {machine['cpus']} cores, Linux "
        f"{machine['kernel']}. The load was {before:.1f} before and {after:.1f} at the end, the "
        "benchmark's own included: without other work it is about the number of cores. Medians of "
        f"{machine['rounds']} rounds, of {machine['lives']} where a round takes minutes, of one "
        "with real delays."
    )

    def with_unit(value: float, form: str, unit: str) -> str:
        return f"{value:{form}} {unit}".strip()

    rows = [
        f"| {one['measure']} | {with_unit(one['found'], '.2f', one['unit'])} "
        f"| {with_unit(one['to_reach'], 'g', one['unit'])} |"
        for one in result["table"]
    ]
    head = ["| measure | found | to reach |", "|---|---|---|"]
    bounds = {one.measure: one.bound for one in GOALS}
    why = [
        textwrap.fill(f"- {one['measure']}: {bounds[one['measure']]}", 120, subsequent_indent="  ")
        for one in result["table"]
        if one["found"] > one["to_reach"] and bounds[one["measure"]]
    ]
    kept = ["What is not reached, and what it is made of:", "", *why, ""] if why else []
    return "\n".join(["# Speed", "", textwrap.fill(about, 120), "", *head, *rows, "", *kept])


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for; takes minutes."""
    load = os.getloadavg()[1]
    found: dict[str, Any] = {}
    for name in given.only or [one for one in PARTS if one not in LONG]:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        found |= PARTS[name](given)
    return {
        "machine": {
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release().partition("-")[0],
            "load_of_others": load,
            "load_at_the_end": os.getloadavg()[1],
            "rounds": given.rounds,
            "lives": given.lives,
        },
        "table": table(found),
        **found,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write and show the result; gives the exit status."""
    given = parser().parse_args(arguments)
    found = measure(given)
    result = json.dumps(found, indent=2)
    given.out.write_text(result + "\n")
    if given.page is not None:
        given.page.write_text(page(found))
    print(result)
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    described = argparse.ArgumentParser(prog="python -m ops rehearse bench", description=__doc__)
    add = described.add_argument
    add("out", type=Path, metavar="OUT.json", help="where the result is written")
    add("--page", type=Path, metavar="PAGE.md", help="where its table is written for people")
    add("--rounds", type=int, default=ROUNDS, help="of what takes seconds (%(default)s)")
    add("--lives", type=int, default=LIVES, help="rounds of what takes minutes (%(default)s)")
    add(
        "--sizes",
        type=lambda text: [int(one) for one in text.split(",")],
        default=SIZES,
        metavar="N,N",
        help="machines of the first previews (3,20,100,200); a cluster has at most 500",
    )
    add("--only", action="append", choices=PARTS, help="measure this part, and others so named")
    return described
