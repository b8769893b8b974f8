"""Layer Drift: `python -m ops drift`, which looks at everything and changes nothing."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clients import helm_records
from clients.engine_words import without_harmful_advice
from clients.kubernetes_api import ApiError, KubernetesApi
from clients.progress import told
from clients.pulumi_cli import EngineError, pulumi
from clients.talosctl import TalosctlError, connect
from config.support import ending
from ops.drift import backups, cluster, hosts, machines, nodes, omni, state
from ops.drift.finding import DriftError, Finding
from ops.drift.report import Report, markdown, short
from ops.engine.preview import Preview, PreviewError
from ops.engine.values import revealed
from ops.review.watch import expiry, unprotected

DRIFT, FAILED = 3, 1
CALL_SECONDS = 30.0
"""A look asks once, and hundreds of times: a busy API server is no reason to give up."""


def main(arguments: list[str] | None = None) -> int:
    """Look; gives 0 without drift, 3 with, 1 when something could not be looked at."""
    options = parser().parse_args(arguments)
    try:
        with told("look at all that the stack made"):
            report = look(dt.datetime.now(tz=dt.UTC))
    except (DriftError, PreviewError) as error:
        print(f"could not check for drift: {error}", file=sys.stderr)
        return FAILED
    if options.json:
        options.json.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(report), encoding="utf-8")
        print("\n".join(short(report)))
        print(f"the report: {options.markdown.resolve().as_uri()}")
    else:
        print(markdown(report))
    return DRIFT if report.findings else 0


def look(now: dt.datetime) -> Report:
    """Compare everything that the stack made with what is there.

    The machines come first: without them nothing else can be looked at, and what the engine says
    then is of no use. Raises `DriftError` and `PreviewError`: no drift is said only when all was
    looked at.
    """
    resources = _state()
    if not resources:
        raise DriftError("the stack has no resources: `pulumi stack ls`, is it the right one?")
    outputs: dict[str, str] = json.loads(_pulumi("stack", "output", "--json", "--show-secrets"))
    kubeconfig = _output(outputs, "kubeconfig")
    with KubernetesApi(kubeconfig, CALL_SECONDS) as api:
        on_machines = _of_omni(resources, now) or _machines(
            resources, _output(outputs, "talosconfig"), api
        )
        preview = Preview.of(_pulumi("refresh", "--preview-only", "--json", "--show-sames"))
        if preview.errors:
            raise DriftError("\n".join(preview.errors))
        in_cluster = _cluster(api, on_machines.machines, resources, now)
    return Report(
        findings=(
            *state.findings(preview),
            *hosts.findings(resources),
            *on_machines.findings,
            *in_cluster,
        ),
        watch=(
            *expiry(preview, now.date()),
            *ending(preview.settings, now.date()),
            *unprotected([*preview.unchanged, *preview.changes]),
        ),
    )


class _OnMachines(NamedTuple):
    machines: Sequence[machines.Machine]
    findings: Sequence[Finding]


def _of_omni(resources: machines.Resources, now: dt.datetime) -> _OnMachines | None:
    """Ask Omni of the machines; None where the stack itself manages them. Raises `DriftError`."""
    told = omni.of_state(resources)
    if told is None:
        return None
    key = _pulumi("config", "get", omni.KEY).strip()
    return _OnMachines(omni.machines(resources), omni.findings(told, key, now))


def _machines(resources: machines.Resources, talosconfig: str, api: KubernetesApi) -> _OnMachines:
    """Compare the machines. Raises `DriftError` when the Kubernetes API is away: it names those."""
    known = machines.of_state(resources)
    secrets = machines.machine_secrets(resources)
    try:
        with connect(talosconfig) as talos:
            if reason := api.not_ready():
                away = machines.silent(known, talos)
                why = machines.why_the_api_is_away(known, away)
                raise DriftError(f"{api.server}: {reason}\n{why}")
            return _OnMachines(known, list(machines.findings(known, secrets, talos)))
    except TalosctlError as error:
        raise DriftError(f"{error}; install the talosctl of the platform's Talos") from None


def _cluster(
    api: KubernetesApi,
    known: Sequence[machines.Machine],
    resources: machines.Resources,
    now: dt.datetime,
) -> list[Finding]:
    """Give what differs."""
    try:
        return [
            *nodes.findings(api, known),
            *cluster.findings(api, helm_records.manifests(api)),
            *cluster.added(api, resources),
            *cluster.applications(api),
            *backups.findings(api, now),
        ]
    except ApiError as error:
        raise DriftError(
            f"{api.server}: {error}; see what it says: `kubectl get --raw /readyz?verbose`"
        ) from None


def _state() -> list[dict[str, Any]]:
    """Read the state; its secrets stay in this process."""
    document = json.loads(_pulumi("stack", "export", "--show-secrets"))
    found = document["deployment"].get("resources") or []
    return [revealed(one) for one in found]


def _output(outputs: Mapping[str, str], name: str) -> str:
    if name not in outputs:
        raise DriftError(
            f"the stack has no output {name}: no `pulumi up` has succeeded yet; run it first"
        )
    return outputs[name]


def _pulumi(*arguments: str) -> str:
    """Run the engine; one that fails and has written JSON says in it why."""
    try:
        result = pulumi(*arguments, codes=())
    except EngineError as error:
        raise DriftError(str(error)) from None
    if result.returncode != 0 and not result.stdout.lstrip().startswith("{"):
        words = without_harmful_advice(result.stderr.strip() or result.stdout.strip())
        raise DriftError(f"`pulumi {' '.join(arguments)}` failed: {words}")
    return result.stdout


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m ops drift",
        description="What was changed without the stack, and who owns it.",
        epilog="exit codes: 0 no drift, 3 drift, 1 something could not be looked at",
    )
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON")
    return made
