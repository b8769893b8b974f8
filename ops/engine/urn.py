"""A resource's URN taken apart: `urn:pulumi:STACK::PROJECT::TYPES::NAME`.

Its form is the engine's (pulumi/sdk, go/common/resource/urn). TYPES are those of the components
around it and its own, the outermost first, joined by `$`.
"""

from __future__ import annotations


def name_of(urn: str) -> str:
    """Give the resource's name in the program."""
    return urn.split("::", 3)[3]


def types_of(urn: str) -> tuple[str, ...]:
    """Give the types of the components around a resource, the outermost first, and its own."""
    return tuple(urn.split("::", 3)[2].split("$"))


def type_of(urn: str) -> str:
    """Give the resource's type, such as `kubernetes:core/v1:Secret`."""
    return types_of(urn)[-1]


def stack_of(urn: str) -> str:
    """Give the name of the resource's stack."""
    return urn.split("::", 1)[0].removeprefix("urn:pulumi:")


def kind_and_name(urn: str) -> str:
    """Name a resource for people, as in `VirtualMachine node01`."""
    return f"{type_of(urn).rpartition(':')[2]} {name_of(urn)}"


def provider_of(reference: str) -> str:
    """Give the URN in a state's reference to a provider, `URN::ID`; empty for none."""
    return reference.rpartition("::")[0]
