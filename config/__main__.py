"""Configuration: the command `python -m config`, which needs neither network nor engine."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import json
import sys

from config.problems import SettingsError
from config.reading import missing_secrets, resolve
from config.show import as_json, as_text
from config.stack_file import read


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status: 0, or 1 with all problems on stderr."""
    options = _parser().parse_args(arguments)
    try:
        raw = read(options.file)
        settings = resolve(raw)
    except SettingsError as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    if options.command == "show":
        text = json.dumps(as_json(settings), indent=2) if options.json else as_text(settings)
        print(text)
        return 0
    count = len(settings.machines)
    print(f"{options.file}: good ({count} machine{'s' if count > 1 else ''})")
    missing = missing_secrets(raw, settings.services)
    if missing:
        print("note: secrets that are not set yet; `pulumi up` will ask for them:")
        for key in missing:
            print(f"  {key.command}   # {key.description}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m config", description="Check or show the settings in a Pulumi stack file."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say everything that is wrong with the file")
    show = commands.add_parser("show", help="print the resolved settings and the address plan")
    show.add_argument("--json", action="store_true", help="as JSON, with what follows from them")
    for command in (check, show):
        command.add_argument("file", metavar="FILE", help="a stack file, as in Pulumi.prod.yaml")
    return parser


if __name__ == "__main__":
    sys.exit(main())
