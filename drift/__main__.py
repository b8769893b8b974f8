"""Layer Drift: `python -m drift`, which looks at everything and changes nothing."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import helm_records
from components.kubernetes_api import ApiError, KubernetesApi
from components.talosctl import TalosctlError, connect
from drift import cluster, machines, state
from drift.finding import DriftError, Finding
from drift.report import Report, markdown
from review.preview import Preview, PreviewError
from review.watch import watch

DRIFT, FAILED = 3, 1


def main(arguments: list[str] | None = None) -> int:
    """Look; gives 0 without drift, 3 with, 1 when something could not be looked at."""
    options = _parser().parse_args(arguments)
    try:
        report = look(dt.datetime.now(tz=dt.UTC).date())
    except (DriftError, ApiError, TalosctlError, PreviewError) as error:
        print(f"could not look: {error}", file=sys.stderr)
        return FAILED
    if options.json:
        options.json.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(report), encoding="utf-8")
        print(report.summary)
    else:
        print(markdown(report))
    return DRIFT if report.findings else 0


def look(today: dt.date) -> Report:
    """Compare everything that the stack made with what is there."""
    # Not before the others: it says in its own words what is wrong with the access to the stack.
    preview = Preview.of(
        _pulumi("refresh", "--preview-only", "--json", "--show-sames", "--non-interactive")
    )
    if preview.errors:
        raise DriftError("\n".join(preview.errors))
    resources = _state()
    if not resources:
        raise DriftError("the stack has no resources: `pulumi stack ls`, is it the right one?")
    found = [*state.findings(preview), *_machines(resources), *_cluster()]
    return Report(findings=tuple(found), watch=tuple(watch(preview, today)))


def _machines(resources: machines.Resources) -> Iterator[Finding]:
    text = _output("talosconfig")
    if text is None:
        return
    with connect(text) as talos:
        yield from machines.findings(resources, machines.machine_secrets(resources), talos)


def _cluster() -> Iterator[Finding]:
    kubeconfig = _output("kubeconfig")
    if kubeconfig is None:
        return
    api = KubernetesApi(kubeconfig)
    yield from cluster.findings(api, helm_records.manifests(api))
    yield from cluster.applications(api)


def _state() -> list[dict[str, Any]]:
    """Read the state; its secrets stay in this process."""
    document = json.loads(_pulumi("stack", "export", "--show-secrets"))
    found = document["deployment"].get("resources") or []
    return [_revealed(one) for one in found]


def _revealed(value: Any) -> Any:  # noqa: ANN401 JSON
    """Take off the engine's marks of secrets."""
    if isinstance(value, dict):
        if "plaintext" in value:
            return json.loads(value["plaintext"])
        return {key: _revealed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_revealed(one) for one in value]
    return value


def _output(name: str) -> str | None:
    """Give one output of the stack in plain text; None when it has none yet."""
    outputs: dict[str, str] = json.loads(_pulumi("stack", "output", "--json", "--show-secrets"))
    return outputs.get(name)


def _pulumi(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["pulumi", *arguments],  # noqa: S607 the operator's PATH decides which pulumi
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise DriftError("pulumi is not on PATH; https://www.pulumi.com/docs/install/") from None
    if result.returncode != 0 and not result.stdout.lstrip().startswith("{"):
        words = result.stderr.strip() or result.stdout.strip()
        raise DriftError(f"`pulumi {' '.join(arguments)}` failed: {words}")
    return result.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m drift",
        description="What was changed behind the stack's back, and whose it is.",
        epilog="exit codes: 0 no drift, 3 drift, 1 something could not be looked at",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
