"""Layer Deployment: the Pulumi engine, as these commands call it; PULUMI_STACK names the stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


class EngineError(Exception):
    """The engine could not be asked, or refused."""


class PreviewError(EngineError):
    """The preview failed; `document` is what it wrote, its diagnostics among it."""

    def __init__(self, document: str, errors: str) -> None:
        super().__init__(f"the preview failed:\n{messages(document)}\n{errors}".strip())
        self.document = document


def messages(document: str) -> str:
    """Give the errors that a preview's JSON tells of; all of it when it is not JSON."""
    try:
        found = json.loads(document).get("diagnostics") or []
    except (ValueError, AttributeError):
        return document
    return "\n".join(one["message"] for one in found if one.get("severity") == "error")


def pulumi(*argv: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run the engine and keep what it says; any other exit code than `codes` is an error."""
    command = ["pulumi", *argv, "--non-interactive"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        message = "no `pulumi` on PATH: install the Pulumi CLI of the version in pyproject.toml"
        raise EngineError(message) from None
    if codes and result.returncode not in codes:
        said = f"{result.stdout}\n{result.stderr}".strip()
        raise EngineError(f"pulumi {argv[0]}: exit code {result.returncode}\n{said}")
    return result


def export() -> str:
    """Give the stack's state, secrets encrypted; the same state gives the same text."""
    return pulumi("stack", "export").stdout


def preview(plan: Path) -> str:
    """Preview, keep the plan in a file that only its owner reads, and give the preview's JSON.

    A preview that fails says why in its JSON: PreviewError has it.
    """
    plan.unlink(missing_ok=True)
    result = pulumi("preview", "--json", "--show-sames", "--save-plan", str(plan), codes=())
    if result.returncode != 0 or not plan.exists():
        raise PreviewError(result.stdout, result.stderr)
    plan.chmod(0o600)
    return result.stdout
