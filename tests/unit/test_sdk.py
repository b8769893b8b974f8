"""What the program changes of Pulumi's SDK works, and is still needed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi import log
from pulumi.runtime import mocks, settings, stack

from components.sdk import DEBUG, be_quick, wait_for_registrations_first
from tests.unit.recorder import event_loop


class Thing(mocks.Mocks):
    """Registers whatever it is given."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        """Give a name as an id."""
        return args.name, {}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        """Answer what was asked."""
        return dict(args.args), None


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log, "debug", log.debug)
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def waits(resources: int, monkeypatch: pytest.MonkeyPatch, *, mended: bool) -> int:
    """Give for how many outputs the SDK waits in all, until a program has ended."""
    seen = 0
    wait = asyncio.wait

    async def counted(tasks: list[Any], **options: Any) -> Any:
        nonlocal seen
        seen += len(tasks)
        return await wait(tasks, **options)

    async def program() -> None:
        await stack.wait_for_rpcs()  # the stack itself is registered; a program begins after it
        for number in range(resources):
            pulumi.CustomResource("test:index:Thing", str(number), {})
        if mended:
            wait_for_registrations_first()
        await stack.wait_for_rpcs()

    asyncio.set_event_loop(event_loop())
    mocks.set_mocks(Thing())
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "wait", counted)
        event_loop().run_until_complete(program())
    return seen


def test_registrations_are_waited_for_before_their_outputs_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert waits(80, monkeypatch, mended=True) < 80


def test_the_sdk_still_needs_to_be_told_to_wait_for_registrations_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert waits(80, monkeypatch, mended=False) > 80, (
        "the SDK waits as it should by itself: remove wait_for_registrations_first"
    )


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
