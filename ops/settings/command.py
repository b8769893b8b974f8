"""Settings: the commands `python -m ops check` and `show`, which need no engine.

They need no network either, but for `check --reach`.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from clients.progress import told
from components import lifecycle
from components.talos.patch_files import PatchError
from config.placeholders import in_lab, placeholders
from config.problems import SettingsError, key_of
from config.reading import Raw, missing_secrets, resolve
from config.secret_keys import SECRET_NAMES
from config.settings import Settings
from config.show import as_json, as_text
from config.shown import line_text
from config.stack_file import read
from config.support import ending


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status: 0, or 1 with all problems on stderr."""
    options = parser().parse_args(arguments)
    file = line_text(options.file)
    try:
        raw = read(options.file)
        settings = resolve(raw)
        if options.command == "check" and _is_for_production(options, raw):
            _refuse_placeholders(settings)
        patches = _check_patches(settings, options.file) if options.command == "check" else []
    except (SettingsError, PatchError) as error:
        print(f"{file}: {error}", file=sys.stderr)
        return 1
    if options.command == "show":
        text = json.dumps(as_json(settings), indent=2) if options.json else as_text(settings)
        print(text)
        return 0
    count = len(settings.machines)
    print(f"{file}: good ({count} machine{'s' if count > 1 else ''})")
    for note in (*patches, *_notes(raw, settings)):
        print(note)
    return _try_reach(settings, installed=options.installed) if options.reach else 0


def _try_reach(settings: Settings, *, installed: bool) -> int:
    """Try what the settings need from their site, and print what came of it."""
    # Here, since it brings the SDK and all layers with it, which the other commands do without.
    from ops.reach import network, questions, report  # noqa: PLC0415

    print()
    asked = questions.questions(settings, installed=installed)
    with told("ask the site"):
        rows = report.ask_all(asked, network.Network())
    print(report.as_text(rows))
    return 1 if report.failed(rows) else 0


def _is_for_production(options: argparse.Namespace, raw: Raw) -> bool:
    """Say whether somebody means to install from this file: then placeholders are refused.

    A file without one secret comes from the project and can build nothing.
    """
    return not in_lab() and (options.production or bool(raw.encrypted & SECRET_NAMES))


def _refuse_placeholders(settings: Settings) -> None:
    if found := placeholders(settings):
        raise SettingsError(found)


def _check_patches(settings: Settings, file: str) -> list[str]:
    """Check the files of patches: raises `PatchError`; gives notes on what was not looked at."""
    folders = (*Path(file).absolute().parents, Path.cwd())
    root = next((one for one in folders if (one / "Pulumi.yaml").is_file()), None)
    if root is None:
        return ["note: no project around it (Pulumi.yaml): the files of patches were not looked at"]
    way = lifecycle.of(settings)
    way.check(settings, root)
    return way.validate(settings, root)


def _notes(raw: Raw, settings: Settings) -> Iterator[str]:
    """Say what is not wrong, but had better be known."""
    if found := placeholders(settings):
        count = f"{len(found)} placeholder{'s' if len(found) > 1 else ''}"
        yield f"note: for the lab alone: `pulumi up` refuses {count}:"
        for each in found:
            yield f"  {each.key}" + ("" if each.value is None else f" = {each.value}")
    today = dt.datetime.now(dt.UTC).date()
    yield from (f"warning: {each}" for each in ending(settings.model_dump(by_alias=True), today))
    if settings.network.firewall is None:
        yield (
            "warning: platform:network.firewall: missing, so the machines' ports are open to "
            "whoever reaches them; list the operators' networks (docs/procedures/firewall.md)"
        )
    services = settings.services
    if services.metrics_server is not None and services.cert_manager is None:
        yield (
            "warning: platform:services.metricsServer without certManager: the API server cannot "
            "verify it (insecureSkipTLSVerify); add `certManager` to the services"
        )
    for key in raw.elsewhere:
        yield f"note: nothing reads {key_of((key,))}: the platform's settings are platform:..."
    if missing := missing_secrets(raw, settings):
        yield "note: secrets that are not set yet; `pulumi up` will ask for them:"
        yield from (f"  {key.command}   # {key.description}" for key in missing)


@cache
def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m ops", description="Check or show the settings in a Pulumi stack file."
    )
    commands = made.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say everything that is wrong with the file")
    check.add_argument(
        "--production",
        action="store_true",
        help="refuse placeholders also while no secret is set, as `pulumi up` does",
    )
    check.add_argument(
        "--reach",
        action="store_true",
        help="try too what can be tried from here: vCenter, repositories, DNS, free addresses",
    )
    check.add_argument(
        "--installed",
        action="store_true",
        help="with --reach: the machines are there, and have to answer",
    )
    show = commands.add_parser("show", help="print the resolved settings and the address plan")
    show.add_argument("--json", action="store_true", help="as JSON, with what follows from them")
    for command in (check, show):
        command.add_argument("file", metavar="FILE", help="a stack file, as in Pulumi.prod.yaml")
    return made
