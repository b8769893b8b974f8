"""GitOps: the command `python -m ops gitops`, which needs neither network nor engine."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from components.gitops.generated import check, folder, write
from components.gitops.root import root_application
from config import SettingsError, load_file
from config.tree import why_not_written

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; gives its exit status: 0, or 1 with all problems on stderr."""
    options = parser().parse_args(arguments)
    try:
        settings = load_file(options.file)
        argocd = settings.services.argocd
        if argocd is None:
            print(f"{options.file}: no services.argocd, so nothing for Argo CD to read")
            return 0
        if options.command == "write":
            for path in write(settings, root):
                print(f"{path}: written; commit and push it")
        if options.command == "root":
            application = root_application(argocd, folder(settings.talos.patches), root)
            print(yaml.safe_dump(application, sort_keys=False), end="")
        else:
            check(settings, root)
            print(f"{options.file}: the files that Argo CD reads agree with the settings")
    except SettingsError as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(why_not_written(error), file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m ops gitops", description="Keep what Argo CD reads equal to the settings."
    )
    commands = made.add_subparsers(dest="command", required=True)
    for name, does in (
        ("check", "say where the committed files differ from the settings"),
        ("write", "write the files that follow from the settings"),
        ("root", "print the root Application, which Pulumi makes"),
    ):
        command = commands.add_parser(name, help=does)
        command.add_argument("file", metavar="FILE", help="a stack file, as in Pulumi.prod.yaml")
    return made
