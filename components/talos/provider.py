"""Layer Talos: what resources and functions of the Talos provider have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pulumi

from components import resource_failures

if TYPE_CHECKING:
    from components.talos.inputs import TalosInputs


def talos_errors(name: str, inputs: TalosInputs) -> pulumi.ErrorHook:
    """Make the hook that explains what a machine, named as its resource, answers."""
    return resource_failures.explained(
        name,
        lambda args, words: resource_failures.of_talos(
            inputs.machines, inputs.talos.patches, args.name, words
        ),
    )


def typed(value: pulumi.Output[Any]) -> Any:  # noqa: ANN401 the SDK's input and output types differ
    """Pass a resource's output to another one's input of the same shape."""
    return value


def camel_case(value: pulumi.Output[Any]) -> Any:  # noqa: ANN401 as in `typed`
    """Pass a resource's output to a function of the Talos provider.

    The SDK (0.8.1) sends a function's nested arguments with the keys of its output types, which
    are in snake_case; the provider then misses required ones.
    """
    return value.apply(_camel_case)


def _camel_case(value: Any) -> Any:  # noqa: ANN401 any nesting of mappings
    if isinstance(value, Mapping):
        return {_camel_key(key): _camel_case(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_camel_case(item) for item in value]
    return value


def _camel_key(key: str) -> str:
    head, *tail = key.split("_")
    return head + "".join(part.capitalize() for part in tail)
