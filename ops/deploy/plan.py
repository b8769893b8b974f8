"""Layer Deployment: what a plan was made from, so that a stale one is refused before it acts.

The engine holds a deployment to its plan operation by operation: it would carry out the first ones
and stop at the first that differs. And it does not look at the settings at all. So all that a plan
was made from is remembered beside it and compared first.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from ops.engine.values import SIGNATURE


class StaleError(Exception):
    """The plan is not one of what is there now."""


class Origin(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a plan was made from: SHA-256 digests in hexadecimal digits."""

    plan: str
    """The plan file itself: what is carried out is what was reviewed."""
    program: str
    """Every file of the repository that Git would keep."""
    state: str
    """The stack's state, its secrets encrypted."""
    settings: str
    """The stack file as the engine read it, its secrets encrypted."""
    operations: str
    """What happens to each resource, and its inputs but for secret ones."""


MEANING = {
    "plan": "the plan file is not the one that was reviewed",
    "program": "files of the repository changed after the plan was made",
    "state": "the stack was deployed, refreshed or imported into after the plan was made",
    "settings": "the stack's settings changed after the plan was made",
    "operations": "the same preview gives other operations now",
}


def origin(plan: Path, root: Path, state: str) -> Origin:
    """Say what the plan, just made, was made from; `state` is the stack's export."""
    return Origin(
        plan=hashlib.sha256(plan.read_bytes()).hexdigest(),
        program=program(root),
        state=hashlib.sha256(state.encode()).hexdigest(),
        **_contents(plan),
    )


def _contents(plan: Path) -> dict[str, str]:
    document = json.loads(plan.read_text(encoding="utf-8"))
    operations = {urn: _operation(one) for urn, one in document["resourcePlans"].items()}
    return {"settings": _digest(document["config"]), "operations": _digest(operations)}


def _operation(planned: Mapping[str, Any]) -> Any:  # noqa: ANN401 any JSON
    """Leave out what differs between two plans of the same: a seed, and the order of sets."""
    goal = dict(planned.get("goal") or {})
    for name in ("dependencies", "additionalSecretOutputs"):
        goal[name] = sorted(goal.get(name) or ())
    by_property = goal.get("propertyDependencies") or {}
    goal["propertyDependencies"] = {name: sorted(one or ()) for name, one in by_property.items()}
    rest = {name: one for name, one in planned.items() if name != "seed"}
    return _comparable({**rest, "goal": goal})


def _comparable(value: Any) -> Any:  # noqa: ANN401 any JSON
    """Leave out ciphertexts: each has a random number of its own."""
    if isinstance(value, Mapping):
        if SIGNATURE in value:
            return "secret"
        return {name: _comparable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_comparable(one) for one in value]
    return value


def _digest(value: Any) -> str:  # noqa: ANN401 any JSON
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def program(root: Path) -> str:
    """Give the digest of all files that Git keeps or would keep; what it ignores does not count."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout
    found = hashlib.sha256()
    for name in sorted(set(listed.split(b"\0")) - {b""}):
        path = root / name.decode()
        if path.is_file():
            found.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def refuse_stale(kept: Origin, now: Origin) -> None:
    """Raise when the plan's origin is not what is there now, with all that differs."""
    differs = [text for name, text in MEANING.items() if getattr(kept, name) != getattr(now, name)]
    if differs:
        raise StaleError(
            "the plan is stale, and nothing was touched:\n"
            + "\n".join(f"  - {one}" for one in differs)
            + "\nMake a new one with `make preview`, review it, then `make apply-plan`."
        )
