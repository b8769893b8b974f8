"""Layer Deployment: the Pulumi engine, as these commands call it; PULUMI_STACK names the stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from clients import interrupts
from clients.engine_words import without_harmful_advice

ROOT = Path(__file__).resolve().parent.parent
POLICIES = ("--policy-pack", str(ROOT / "ops" / "policies"))
"""What the engine is given with all that changes or previews: a mandatory violation ends it."""


class EngineError(Exception):
    """The engine could not be asked, or refused; its words without what would do harm."""

    def __init__(self, text: str) -> None:
        super().__init__(without_harmful_advice(text))


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
        result = interrupts.run(command)
    except FileNotFoundError:
        message = (
            "pulumi is not on PATH; install the Pulumi CLI of the version in pyproject.toml, see "
            "https://www.pulumi.com/docs/install/"
        )
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
    with TemporaryDirectory(prefix="preview-") as folder:
        log = Path(folder, "events")
        what = ("--json", "--show-sames", "--save-plan", str(plan), "--event-log", str(log))
        result = pulumi("preview", *what, *POLICIES, codes=())
        document = with_violations(result.stdout, log)
    if result.returncode != 0 or not plan.exists():
        raise PreviewError(document, result.stderr)
    plan.chmod(0o600)
    return document


def with_violations(document: str, log: Path) -> str:
    """Add what the policies said to a preview's diagnostics: its JSON leaves that out."""
    if not log.exists():
        return document
    events = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    violations = [one["policyEvent"] for one in events if "policyEvent" in one]
    if not violations:
        return document
    found = json.loads(document)
    found["diagnostics"] = [
        *(found.get("diagnostics") or []),
        *(
            {
                "severity": "error" if one["enforcementLevel"] == "mandatory" else "warning",
                "message": f"policy {one['policyName']}: {one['message'].strip()}",
            }
            for one in violations
        ),
    ]
    return json.dumps(found)
