"""What the engine noted of a killed run, and what its advice means here.

The engine keeps a note of each operation that was interrupted, and at every later run advises
`pulumi refresh` (pulumi/pkg, resource/deploy/deployment_executor.go). Here a refresh before the
next `up` may lose a change; that `up` needs none. So the program says what holds.
"""

from __future__ import annotations

import json
import subprocess

import pulumi

SECONDS = 20.0
ADVICE = (
    "an earlier run was killed during {count} of its steps. Do not run `pulumi refresh`, whatever "
    "the engine advises: it may record a change that was never made. This run finishes or removes "
    "what was half made; after it, `make repair` clears the engine's notes of the killed run "
    "(docs/procedures/failed-up.md)"
)

Asked = subprocess.Popen[str]


def ask() -> Asked | None:
    """Begin to read the state, before this run changes it; None when the CLI cannot be run."""
    stack = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    try:
        return subprocess.Popen(
            ["pulumi", "stack", "export", "--stack", stack, "--non-interactive"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None


def tell(asked: Asked | None) -> None:
    """Say what the engine's advice means, if it will give it. It is only advice: no error."""
    if asked is None:
        return
    try:
        state, _ = asked.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        asked.kill()
        asked.communicate()
        return
    if (count := interrupted(state)) > 0:
        pulumi.log.warn(ADVICE.format(count=count))


def interrupted(state: str) -> int:
    """Count the interrupted operations that an exported state notes."""
    try:
        return len(json.loads(state)["deployment"].get("pending_operations") or [])
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
