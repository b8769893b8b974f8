"""A model of the engine: it keeps a state, compares, runs steps at once, fails, is killed.

It stands in for the mocks' monitor, so that the real program decides what is registered when. A
step on a machine lasts until nothing else can begin beside it; then one of those that run, at
random, is the first to end. So what may ever run at once does. What it knows of the engine
(pulumi/pkg, resource/deploy): a resource that is not in the state is created, one whose inputs
differ is updated or, when somebody asks for it, replaced; hooks come before that, in a preview only
those that ask for it; the answer comes when the step is done, and one that failed is an error.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pulumi
from google.protobuf import json_format  # type: ignore[import-untyped]
from pulumi.runtime.proto import resource_pb2

from config.resource_types import CONFIGURATION, GATE, HEALTHY, MACHINE, UPGRADED
from ops.engine.urn import name_of, type_of
from tests.unit.recorder import Monitor, Platform, event_loop, plain, run

QUIET_SECONDS = 0.005
"""Nothing more begins when nothing did for so long, and the program has nothing to do."""
TURNS = 10
"""So many turns of the program's event loop follow, in which nothing begins either."""


class StepError(Exception):
    """A step failed, or the run was killed."""


class Moment(NamedTuple):
    """The begin or the end of a step on a machine."""

    begins: bool
    machine: str
    type: str
    step: str
    """`create`, `update`, `replace`, or `same`."""

    @property
    def waits(self) -> bool:
        """Whether it is the gate behind which the machine counts as healthy."""
        return self.type == HEALTHY

    @property
    def touches(self) -> bool:
        """Whether it changes the machine."""
        if self.type == UPGRADED:
            return self.step == "update"  # made for a machine, it looks and does nothing
        return self.step != "same" and not self.waits


@dataclass
class Stack:
    """What is kept from run to run."""

    state: dict[str, Any] = field(default_factory=dict)
    """Each resource's inputs, by its URN."""
    lives: Counter[str] = field(default_factory=Counter)
    """How often each resource was replaced."""

    def machines(self) -> set[str]:
        """Name the virtual machines in the state."""
        return {name_of(urn) for urn in self.state if type_of(urn) == MACHINE}


@dataclass
class Run:
    """What came of one run."""

    moments: list[Moment] = field(default_factory=list)
    depends_on: dict[str, frozenset[str]] = field(default_factory=dict)
    """By URN; a plan holds the deployment to it."""
    needs: dict[str, set[str]] = field(default_factory=dict)
    """By URN: what it depends on, its parent and its provider."""
    failed: bool = False


@dataclass(frozen=True)
class Course:
    """What becomes of a run."""

    seed: int = 0
    """Says which of the steps that run is the first to end."""
    fails: int | None = None
    """The step on a machine with this number fails."""
    killed: int | None = None
    """The run is killed in that step: the state has nothing of all the steps that run."""
    replaced: Collection[str] = ()
    """Machines that are replaced (`pulumi up --replace`)."""


def deletions(run: Run) -> list[set[str]]:
    """Give the order in which the engine deletes what a run has made; what is in one set, at once.

    ScheduleDeletes in resource/deploy/step_generator.go.
    """
    left, order = dict(run.needs), list[set[str]]()
    while left:
        free = {urn for urn, needed in left.items() if not needed & left.keys()}
        order.append(free)
        left = {urn: needed for urn, needed in left.items() if urn not in free}
    return order[::-1]


def update(stack: Stack, settings: Mapping[str, Any], course: Course) -> Run:
    """Deploy these settings."""
    return _run(stack, settings, course, preview=False)


def preview(stack: Stack, settings: Mapping[str, Any]) -> Run:
    """Preview these settings on a stack."""
    return _run(stack, settings, Course(), preview=True)


def _run(stack: Stack, settings: Mapping[str, Any], course: Course, *, preview: bool) -> Run:
    found = Run()
    engines: list[_Engine] = []

    def engine(platform: Platform) -> Monitor:
        engines.append(_Engine(platform, stack, found, course, preview=preview))
        return engines[0]

    event_loop().set_exception_handler(_told_elsewhere)
    try:
        run(settings, preview=preview, monitor=engine)
    except StepError:
        found.failed = True
    finally:
        engines[0].close()
    if not preview and not found.failed:  # the engine deletes the rest
        for urn in stack.state.keys() - found.depends_on.keys():
            del stack.state[urn]
    return found


def _told_elsewhere(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over steps that fail beside the one that ended the run."""
    if not isinstance(context.get("exception"), StepError):
        loop.default_exception_handler(context)


class _Engine(Monitor):
    def __init__(
        self, platform: Platform, stack: Stack, found: Run, course: Course, *, preview: bool
    ) -> None:
        super().__init__(platform)
        self._stack, self._found, self._course, self._preview = stack, found, course, preview
        self._dice = random.Random(course.seed)  # noqa: S311 a test's
        self._lock = threading.Lock()
        self._running: list[Future[None]] = []
        self._begun = 0
        self._dead = False
        self._end = threading.Event()
        self._scheduler = threading.Thread(target=self._schedule, daemon=True)
        self._scheduler.start()

    def close(self) -> None:
        """Let the steps that run end, and nothing begin any more; what awaited them is given up."""
        self._end.set()
        self._scheduler.join()
        with self._lock:
            for one in self._running:
                one.set_result(None)
        loop = event_loop()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def RegisterResource(  # noqa: N802 gRPC's name
        self, request: resource_pb2.RegisterResourceRequest
    ) -> resource_pb2.RegisterResourceResponse:
        urn = self.make_urn(request.parent, request.type, request.name)
        if not request.parent:  # the stack itself
            return super().RegisterResource(request)
        self._found.depends_on[urn] = frozenset(request.dependencies)
        provider = request.provider.rpartition("::")[0]
        self._found.needs[urn] = {*request.dependencies, request.parent, provider} - {""}
        new = self._inputs(urn, request)
        step = self._step(urn, request, new)
        if step in {"create", "replace"}:
            self._call(urn, request.hooks.before_create)
        place = machine_of(request.type, request.name)
        if place is not None and not self._preview:
            self._work(Moment(True, *place, step))  # noqa: FBT003 it begins
        answer = super().RegisterResource(request)
        if not self._preview:
            self._record(urn, new, replaced=step == "replace")
        if request.custom:
            answer.id = f"{answer.id}-{self._stack.lives[urn]}"
        return answer

    def _inputs(
        self, urn: str, request: resource_pb2.RegisterResourceRequest
    ) -> tuple[dict[str, Any], object]:
        """Give a resource's inputs, and what replaces it when it changes."""
        inputs: dict[str, Any] = plain(json_format.MessageToDict(request.object))
        for name in request.ignoreChanges:
            if urn in self._stack.state and name in self._stack.state[urn][0]:
                inputs[name] = self._stack.state[urn][0][name]
        return inputs, plain(json_format.MessageToDict(request.replacement_trigger))

    def _step(
        self, urn: str, request: resource_pb2.RegisterResourceRequest, new: tuple[object, object]
    ) -> str:
        if urn not in self._stack.state:
            return "create"
        old = self._stack.state[urn]
        named = request.type == MACHINE and request.name in self._course.replaced
        if named or old[1] != new[1]:
            return "replace"
        return "same" if old == new else "update"

    def _call(self, urn: str, names: Iterable[str]) -> None:
        """Run the hooks that run in a preview too; the others would ask the machines."""
        for name in names:
            hook = self.platform.hooks[name]
            assert isinstance(hook, pulumi.ResourceHook)
            if hook.opts is not None and hook.opts.on_dry_run:
                args = pulumi.ResourceHookArgs(urn, "", name_of(urn), "")
                asyncio.run_coroutine_threadsafe(_called(hook, args), event_loop()).result()

    def _record(self, urn: str, new: tuple[object, object], *, replaced: bool) -> None:
        with self._lock:
            if self._dead:
                raise StepError(urn)
            self._stack.state[urn] = new
            self._stack.lives[urn] += replaced

    def _work(self, begin: Moment) -> None:
        """Be at work on a machine until the scheduler lets this step end."""
        done: Future[None] = Future()
        with self._lock:
            if self._dead or self._end.is_set():
                raise StepError(begin)
            number, self._begun = self._begun, self._begun + 1
            self._found.moments.append(begin)
            self._dead = number == self._course.killed
            if begin.step == "same":
                done.set_result(None)
            else:
                self._running.append(done)
        done.result()
        with self._lock:
            if self._dead or number == self._course.fails:
                raise StepError(begin)
            self._found.moments.append(begin._replace(begins=False))

    def _schedule(self) -> None:
        while not self._end.wait(QUIET_SECONDS / 4):
            if self._running and self._is_quiet():
                with self._lock:
                    chosen = self._running.pop(self._dice.randrange(len(self._running)))
                chosen.set_result(None)

    def _is_quiet(self) -> bool:
        before = self._begun
        time.sleep(QUIET_SECONDS)
        for _ in range(TURNS):
            turned = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), event_loop())
            while not turned.done():  # a program that has failed turns no more
                if self._end.wait(QUIET_SECONDS / 10):
                    turned.cancel()
                    return False
        return self._begun == before


async def _called(hook: pulumi.ResourceHook, args: pulumi.ResourceHookArgs) -> None:
    called = hook(args)
    assert called is not None
    await called


def machine_of(type_: str, name: str) -> tuple[str, str] | None:
    """Give the machine that a resource is about, and which of its four; None of all others."""
    if type_ in {MACHINE, CONFIGURATION}:
        return name, type_
    for gate in (UPGRADED, HEALTHY):
        if type_ == GATE and name.endswith(gate):
            return name.removesuffix(gate), gate
    return None
