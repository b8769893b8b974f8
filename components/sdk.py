"""What the program changes of Pulumi's SDK to be quick.

All of it is in functions of the SDK that are not meant to be changed: tests/unit/test_sdk.py fails
when a new SDK has others. For upstream: docs/sdk-wait.md and docs/sdk-circles.md.
"""

from __future__ import annotations

import asyncio
import gc
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pulumi import log
from pulumi.output import Output, Unknown
from pulumi.runtime import resource, resource_cycle_breaker, rpc, stack
from pulumi.runtime.proto import source_pb2

if TYPE_CHECKING:
    from pulumi import Resource

DEBUG = "PLATFORM_DEBUG"
"""The variable that gives the SDK its debug messages and its stack traces back."""
_CREATE_URN = resource.create_urn
NEW_OUTPUTS_SECONDS = 0.1
"""How often the wait looks for outputs that came after it began."""


def be_quick() -> None:
    """Spare what costs time and shows nobody anything; called before the first resource."""
    gc.freeze()  # what the imports made, which is kept to the end
    _wait_for_outputs_together()
    vars(rpc)["contains_unknowns"] = contains_unknowns
    vars(resource)["create_urn"] = create_urn
    vars(rpc)["declare_dependency"] = declare_dependency
    if not os.environ.get(DEBUG):
        _send_no_debug_messages()
        _send_no_stack_traces()


def create_urn(
    name: Any,  # noqa: ANN401 the SDK's inputs
    type_: Any,  # noqa: ANN401
    parent: Any = None,  # noqa: ANN401
    project: str | None = None,
    stack: str | None = None,
) -> Output[str]:
    """Give a resource's URN, at once where its parts are known.

    The SDK makes six outputs for it, of the some twenty for each resource: and it asks for every
    resource, for the case that there is no engine.
    """
    if isinstance(name, str) and isinstance(type_, str) and isinstance(parent, str):
        return Output.from_input(f"{parent[: parent.rfind('::')]}${type_}::{name}")
    return _CREATE_URN(name, type_, parent, project, stack)


def contains_unknowns(value: object) -> bool:
    """Say whether something that is not known yet is in a value, as the SDK's function does.

    The SDK asks so of every value of every output, thousands of times, and its own function makes a
    function of itself each time: four fifths of what the program leaves to Python's collector.
    """
    seen: set[int] = set()
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Unknown):
            return True
        if isinstance(one, dict | list) and id(one) not in seen:
            seen.add(id(one))
            left += one.values() if isinstance(one, dict) else one
    return False


def declare_dependency(from_resource: Resource, to_resource: Resource) -> bool:
    """Note that a resource depends on another, but for one that would close a circle: gives False.

    The SDK's function walks through all that the other one stands on by a generator in a generator
    for each step. In a row of machines that grows with the cube of their number, and 500 machines
    are more than Python's limit of calls.
    """
    known, add = vars(resource_cycle_breaker)["_deps"], vars(resource_cycle_breaker)["_add_dep"]
    if to_resource in known(from_resource):
        return True
    seen, left = {to_resource}, [to_resource]
    while left:
        one = left.pop()
        if one is from_resource:
            return False
        new = known(one) - seen
        seen |= new
        left += new
    add(from_resource, to_resource)
    return True


def _wait_for_outputs_together() -> None:
    """Let the SDK's last wait go on when an output fails, or a moment has passed.

    It goes on whenever one of all outputs is there, and begins again with all the others: that
    grows with the square of their number.
    """

    async def wait(
        outputs: list[asyncio.Task[Any]], *, return_when: str
    ) -> tuple[set[asyncio.Task[Any]], set[asyncio.Task[Any]]]:
        """Wait for outputs; `return_when` is the SDK's, and not kept to."""
        del return_when
        return await asyncio.wait(
            outputs, timeout=NEW_OUTPUTS_SECONDS, return_when=asyncio.FIRST_EXCEPTION
        )

    vars(stack)["asyncio"] = SimpleNamespace(**{**vars(asyncio), "wait": wait})


def _send_no_debug_messages() -> None:
    """Keep the SDK from sending some 750 messages that the engine drops without `--debug`."""

    def debug(*_: object, **__: object) -> None:
        """Send nothing."""

    log.debug = debug


def _send_no_stack_traces() -> None:
    """Keep where each resource is made in the program, on this computer, out of the state."""
    vars(resource)["_get_stack_trace"] = source_pb2.StackTrace
