"""Layer Talos: a cluster that is built, as the layers on it and the stack's outputs see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pulumi

    from components.talos.kubernetes_access import KubernetesAccess


def nothing(_: Mapping[str, pulumi.Resource]) -> None:
    """Wait for nothing after the layers."""


@dataclass(frozen=True)
class Managed:
    """What the program's main part knows of a cluster, whoever manages its machines."""

    access: KubernetesAccess
    secrets: Mapping[str, pulumi.Output[str]]
    """The operator's credentials, by the names of the stack's outputs."""
    first_step: str
    """How an operator gets them."""
    finish: Callable[[Mapping[str, pulumi.Resource]], None] = nothing
    """What comes after the layers, which are given by their names."""
