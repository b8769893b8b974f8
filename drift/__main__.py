"""Layer Drift: `python -m drift`, which looks at everything and changes nothing."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import helm_records
from components.kubernetes_api import ApiError, KubernetesApi
from components.talosctl import TalosctlError, connect
from drift import backups, cluster, machines, state
from drift.finding import DriftError, Finding
from drift.report import Report, markdown
from review.preview import Preview, PreviewError
from review.watch import expiry, unprotected

DRIFT, FAILED = 3, 1


def main(arguments: list[str] | None = None) -> int:
    """Look; gives 0 without drift, 3 with, 1 when something could not be looked at."""
    options = _parser().parse_args(arguments)
    try:
        report = look(dt.datetime.now(tz=dt.UTC))
    except (DriftError, PreviewError) as error:
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


def look(now: dt.datetime) -> Report:
    """Compare everything that the stack made with what is there.

    Raises `DriftError` and `PreviewError`: no drift is said only when all was looked at.
    """
    # Not before the others: it says in its own words what is wrong with the access to the stack.
    preview = Preview.of(
        _pulumi("refresh", "--preview-only", "--json", "--show-sames", "--non-interactive")
    )
    if preview.errors:
        raise DriftError("\n".join(preview.errors))
    resources = _state()
    if not resources:
        raise DriftError("the stack has no resources: `pulumi stack ls`, is it the right one?")
    outputs: dict[str, str] = json.loads(_pulumi("stack", "output", "--json", "--show-secrets"))
    in_cluster, backup = _cluster(_output(outputs, "kubeconfig"), now)
    on_machines = _machines(resources, _output(outputs, "talosconfig"))
    return Report(
        findings=(*state.findings(preview), *on_machines, *in_cluster),
        watch=(
            *expiry(preview, now.date()),
            *backup,
            *unprotected([*preview.unchanged, *preview.changes]),
        ),
    )


def _machines(resources: machines.Resources, talosconfig: str) -> list[Finding]:
    try:
        with connect(talosconfig) as talos:
            secrets = machines.machine_secrets(resources)
            return list(machines.findings(resources, secrets, talos))
    except TalosctlError as error:
        raise DriftError(f"{error}; install the talosctl of the platform's Talos") from None


def _cluster(kubeconfig: str, now: dt.datetime) -> tuple[list[Finding], list[str]]:
    """Give what differs, and what to watch."""
    api = KubernetesApi(kubeconfig)
    try:
        releases = cluster.findings(api, helm_records.manifests(api))
        return [*releases, *cluster.applications(api)], list(backups.watch(api, now))
    except ApiError as error:
        raise DriftError(
            f"{api.server}: {error}; see whether it is well: `kubectl get --raw /readyz?verbose`"
        ) from None


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


def _output(outputs: Mapping[str, str], name: str) -> str:
    if name not in outputs:
        raise DriftError(
            f"the stack has no output {name}: an `up` has not ended well; run `pulumi up` first"
        )
    return outputs[name]


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
