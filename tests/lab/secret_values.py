"""What must be in no output: the secret texts of a world's stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rehearsal.world import World

SHORTEST = 20
"""Shorter texts of the machine secrets are no keys (a name, a type)."""


def secret_values(world: World) -> set[str]:
    """Give the stack's own secrets, and every text of the machine secrets."""
    spec = json.loads((world.state / "world.json").read_text())
    machines = _machine_secrets(world.state_with_secrets())
    assert len(machines) >= 8, "the search would prove nothing"
    own: dict[str, str] = spec["secrets"]["values"]
    assert own, "the search would prove nothing"
    return machines | set(own.values())


def _machine_secrets(state: dict[str, Any]) -> set[str]:
    """Collect every string below the machine secrets and the client configuration."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, str) and len(value) > SHORTEST:
            found.add(value)

    for resource in state["deployment"]["resources"]:
        if resource["type"] == "talos:machine/secrets:Secrets":
            for text in _plaintexts(resource["outputs"]):
                walk(text)
    return found


def _plaintexts(value: Any) -> Iterator[Any]:
    """Give what the engine marks as secret, decoded."""
    if isinstance(value, dict):
        if "plaintext" in value:
            yield json.loads(value["plaintext"])
            return
        for item in value.values():
            yield from _plaintexts(item)
