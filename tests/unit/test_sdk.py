"""What the program changes of Pulumi's SDK works, and the SDK is still the one it changes."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import inspect
import sys
from itertools import pairwise
from typing import Any

import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi import log
from pulumi.output import UNKNOWN
from pulumi.runtime import resource, resource_cycle_breaker, rpc, settings, stack

from components import sdk
from components.sdk import DEBUG, be_quick

WAIT = "c0f9027f85ad09255ded0a1908033b490f76d303a3e40b50d3cf47a69265469d"
"""SHA-256 of the SDK's wait. When it is another one: docs/sdk-wait.md says what to look for."""
CIRCLES = "58bcb372e5e36ee03b06ca0eaf28dcea9696777d5c047b9ebf9bcfe98595c516"
"""The same of its search for circles: docs/sdk-circles.md."""
SDKS_DECLARE = resource_cycle_breaker.declare_dependency


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "debug", log.debug)
    monkeypatch.setattr(stack, "asyncio", asyncio)
    monkeypatch.setattr(rpc, "contains_unknowns", rpc.contains_unknowns)
    monkeypatch.setattr(resource, "_get_stack_trace", vars(resource)["_get_stack_trace"])
    monkeypatch.setattr(resource, "create_urn", resource.create_urn)
    monkeypatch.setattr(rpc, "declare_dependency", SDKS_DECLARE)
    # What other tests leave is still to be collected.
    monkeypatch.setattr(gc, "freeze", lambda: None)


@pytest.mark.parametrize(("asked", "sent"), [("", 0), ("1", 1)])
def test_debug_messages_are_sent_only_when_somebody_asks(
    monkeypatch: pytest.MonkeyPatch, asked: str, sent: int
) -> None:
    messages: list[str] = []

    class Engine:
        """Keeps what is logged."""

        def Log(self, request: Any) -> None:  # noqa: N802 the engine's name for it
            messages.append(request.message)

    monkeypatch.setattr(settings.SETTINGS, "engine", Engine(), raising=False)
    monkeypatch.setattr(log, "get_engine", Engine)
    monkeypatch.setenv(DEBUG, asked)
    be_quick()
    log.debug("beginning rpc")
    log.warn("a warning")
    assert len(messages) == sent + 1
    assert messages[-1] == "a warning"


class Resource:
    """As the SDK's: its start is what asks where it was made."""

    def __init__(self) -> None:
        self.trace: Any = vars(resource)["_get_stack_trace"]()


class CustomResource(Resource):
    def __init__(self) -> None:
        super().__init__()


class Made(CustomResource):
    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize(("asked", "sent"), [("", False), ("1", True)])
def test_the_state_does_not_know_where_this_computer_has_the_program(
    monkeypatch: pytest.MonkeyPatch, asked: str, *, sent: bool
) -> None:
    monkeypatch.setenv(DEBUG, asked)
    be_quick()
    trace = Made().trace
    assert bool(trace.frames) is sent
    assert (vars(resource)["_get_source_position"](trace) is not None) is sent


def test_the_wait_is_the_one_that_is_known() -> None:
    source = inspect.getsource(stack.wait_for_rpcs)
    assert hashlib.sha256(source.encode()).hexdigest() == WAIT


def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how many outputs each round of the SDK's wait begins with."""
    rounds: list[int] = []
    wait = asyncio.wait

    async def counted(tasks: Any, **options: Any) -> Any:
        rounds.append(len(tasks))
        return await wait(tasks, **options)

    monkeypatch.setattr(asyncio, "wait", counted)
    return rounds


def wait_for(*outputs: Any) -> None:
    """Run the SDK's wait over these outputs."""

    async def run() -> None:
        # Another test's program that failed leaves what it did not wait for, of a loop of its own.
        settings.SETTINGS.outputs.clear()
        vars(stack)["_get_rpc_manager"]().clear()
        tasks = [asyncio.ensure_future(one) for one in outputs]
        settings.SETTINGS.outputs.update(tasks)
        try:
            await asyncio.wait_for(stack.wait_for_rpcs(), timeout=20)
        finally:
            settings.SETTINGS.outputs.clear()
            for task in tasks:
                task.cancel()

    asyncio.run(run())


async def after(steps: int) -> None:
    """Be an output that takes some steps of the loop."""
    for _ in range(steps):
        await asyncio.sleep(0)


async def failing() -> None:
    """Be an output that nobody can know."""
    message = "vCenter refuses"
    raise ValueError(message)


async def never() -> None:
    """Be an output that stands on one that cannot be known."""
    await asyncio.Event().wait()


@pytest.mark.parametrize(("quick", "begun"), [(False, 500), (True, 100)])
def test_outputs_are_waited_for_together(
    monkeypatch: pytest.MonkeyPatch, *, quick: bool, begun: int
) -> None:
    if quick:
        be_quick()
        monkeypatch.setattr(sdk, "NEW_OUTPUTS_SECONDS", 600.0)  # no round for the time alone
    rounds = waits(monkeypatch)
    wait_for(*(after(number) for number in range(100)))
    # The SDK's own wait begins some 1 + ... + 100 times, again and again with the ones that remain.
    assert (sum(rounds) <= begun) is quick


def test_an_output_that_fails_ends_the_wait_for_those_that_stand_on_it() -> None:
    be_quick()
    with pytest.raises(ValueError, match="vCenter refuses"):
        wait_for(never(), failing())


def test_an_output_that_came_later_and_fails_ends_the_wait_too() -> None:
    be_quick()

    async def later() -> None:
        await asyncio.sleep(0)
        settings.SETTINGS.outputs.add(asyncio.ensure_future(failing()))

    with pytest.raises(ValueError, match="vCenter refuses"):
        wait_for(never(), later())


SDKS_OWN = rpc.contains_unknowns
SDKS_URN = resource.create_urn
values = st.recursive(
    st.sampled_from([UNKNOWN, None, "", "a", 0, True]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(values, st.booleans())
def test_what_is_unknown_is_found_as_the_sdk_finds_it(value: Any, round_: bool) -> None:  # noqa: FBT001 a case
    if round_ and isinstance(value, list):
        value.append(value)
    assert sdk.contains_unknowns(value) == SDKS_OWN(value)


def test_to_look_for_what_is_unknown_leaves_nothing_to_the_collector() -> None:
    be_quick()
    gc.collect()
    assert not any(rpc.contains_unknowns([{"a": one}]) for one in range(1000))
    assert gc.collect() < 1000


STACK = "urn:pulumi:prod::platform::pulumi:pulumi:Stack::platform-prod"


@pytest.mark.parametrize(
    ("parent", "type_"),
    [
        (STACK, "platform:talos:Cluster"),
        (STACK.replace("::platform-prod", "$a:b:C::x"), "kubernetes:core/v1:Namespace"),
        (None, "pulumi:pulumi:Stack"),
    ],
)
def test_a_resource_has_the_urn_that_the_sdk_gives_it(parent: str | None, type_: str) -> None:
    async def both() -> tuple[str | None, str | None]:
        ours = sdk.create_urn("a/b", type_, parent, "platform", "prod")
        theirs = SDKS_URN("a/b", type_, parent, "platform", "prod")
        return await ours.future(), await theirs.future()

    ours, theirs = asyncio.run(both())
    assert ours == theirs
    assert ours


def test_a_urn_whose_parts_are_not_known_yet_is_made_by_the_sdk() -> None:
    async def made() -> str | None:
        parent = pulumi.Output.from_input(STACK)
        return await sdk.create_urn("a", "b:c:D", parent).future()

    assert asyncio.run(made()) == "urn:pulumi:prod::platform::pulumi:pulumi:Stack$b:c:D::a"


class Node:
    """Stands for a resource: the search for circles asks it nothing."""


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40))
def test_the_search_for_circles_finds_what_the_sdks_finds(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = [Node() for _ in range(8)], [Node() for _ in range(8)]
    found = [sdk.declare_dependency(ours[one], ours[other]) for one, other in pairs]  # type: ignore[arg-type]
    assert found == [SDKS_DECLARE(theirs[one], theirs[other]) for one, other in pairs]  # type: ignore[arg-type]


def test_a_row_of_more_resources_than_pythons_limit_of_calls_has_no_circle() -> None:
    row = [Node() for _ in range(2 * sys.getrecursionlimit())]
    for one, other in pairwise(row):
        assert sdk.declare_dependency(other, one)  # type: ignore[arg-type]
    assert not sdk.declare_dependency(row[0], row[-1])  # type: ignore[arg-type]


def test_the_sdk_still_has_the_search_for_circles_that_is_changed() -> None:
    be_quick()
    assert vars(rpc)["declare_dependency"] is sdk.declare_dependency
    source = inspect.getsource(resource_cycle_breaker)
    assert hashlib.sha256(source.encode()).hexdigest() == CIRCLES
