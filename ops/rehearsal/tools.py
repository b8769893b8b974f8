"""The rehearsal's hands: the engine and the cluster's clients, as an operator calls them.

Every function runs the real tool inside the world that the process is in (`lab run -- ...`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import interrupts
from clients.engine_words import without_harmful_advice
from clients.pulumi_cli import POLICIES
from config.placeholders import IN_LAB

PROJECT = Path(__file__).resolve().parents[2]


class ToolError(Exception):
    """A tool ended with an exit code that was not expected."""


def status_of(what: str, walk: Callable[[], None]) -> int:
    """Walk through it; gives the exit status, and says what failed."""
    try:
        walk()
    except ToolError as error:
        print(f"\nthe {what} failed: {error}", file=sys.stderr)
        return 1
    return 0


def world() -> Path:
    """Give the folder of the world that this process runs in."""
    folder = os.environ.get(IN_LAB)
    if not folder:
        message = (
            f"{IN_LAB} is not set: this command builds and destroys a platform, so it runs inside "
            "a world of the lab alone: `make lab`, `make drill`, or `.lab/bin/lab run -- COMMAND`"
        )
        raise ToolError(message)
    return Path(folder)


def spec() -> dict[str, Any]:
    """Read what the world was made from."""
    result: dict[str, Any] = json.loads((world() / "world.json").read_text())
    return result


def without_omni(why: str) -> None:
    """Refuse a rehearsal of what a cluster that Omni manages has not; `why` says what that is."""
    if spec()["settings"].get("omni"):
        message = (
            f"platform:cluster.lifecycle = omni: {why} (docs/procedures/omni.md); nothing was "
            "built. `make lab` and `make kills` rehearse such a stack file"
        )
        raise ToolError(message)


def run(*argv: str, show: bool = False, codes: tuple[int, ...] = (0,)) -> str:
    """Run a tool in the project's folder and give its output.

    `show` also lets its output through to the terminal; `codes` are the exit codes that are fine.
    """
    try:
        result = interrupts.run(argv, PROJECT, _show if show else None)
    except FileNotFoundError:
        message = f"{argv[0]} is not on PATH, where a world of the lab has it: `make build`"
        raise ToolError(message) from None
    if result.returncode not in codes:
        said = without_harmful_advice(f"{result.stdout}{result.stderr}")
        message = f"{' '.join(argv)}: exit code {result.returncode}\n{said}"
        raise ToolError(message)
    return result.stdout


def _show(line: str) -> None:
    print(without_harmful_advice(line), flush=True)


@dataclass(frozen=True)
class Engine:
    """The Pulumi engine on the world's stack."""

    show: bool = True

    def _run(self, *argv: str, codes: tuple[int, ...] = (0,)) -> str:
        return run("pulumi", *argv, "--non-interactive", show=self.show, codes=codes)

    def up(self, events: Path | None = None) -> str:
        """Build what the stack file says; `events` takes the engine's event log."""
        log = ["--event-log", str(events)] if events else []
        return self._run("up", "--yes", "--skip-preview", *POLICIES, *log)

    def preview_expecting_no_changes(self) -> dict[str, Any]:
        """Fail unless nothing would change; gives the preview, for the rules on plans."""
        only = ("preview", "--expect-no-changes", "--non-interactive", *POLICIES)
        try:
            preview: dict[str, Any] = json.loads(run("pulumi", *only, "--json"))
        except ToolError:
            # Once more, as people read it: this fails, and says what would change.
            run("pulumi", *only, "--diff", show=self.show)
            raise
        if self.show:
            print(f"nothing changes: {preview['changeSummary']['same']} resources")
        return preview

    def destroy(self) -> str:
        """Delete all but what is protected."""
        return self._run("destroy", "--yes", "--skip-preview", "--exclude-protected")

    def state(self) -> dict[str, Any]:
        """Give the stack's state; secrets stay encrypted."""
        result: dict[str, Any] = json.loads(run("pulumi", "stack", "export"))
        return result

    def outputs(self) -> dict[str, Any]:
        """Give the stack's outputs in plain text."""
        found: dict[str, Any] = json.loads(
            run("pulumi", "stack", "output", "--json", "--show-secrets")
        )
        return found

    def output(self, name: str) -> str:
        """Give one output of the stack in plain text."""
        return run("pulumi", "stack", "output", "--show-secrets", name)


def write_credentials(engine: Engine) -> None:
    """Put kubeconfig and talosconfig where the world's KUBECONFIG and TALOSCONFIG point to.

    A cluster that Omni manages has no talosconfig of the stack's.
    """
    outputs = engine.outputs()
    for output, variable in (("kubeconfig", "KUBECONFIG"), ("talosconfig", "TALOSCONFIG")):
        if output in outputs:
            path = Path(os.environ[variable])
            path.touch(mode=0o600)
            path.write_text(outputs[output])
