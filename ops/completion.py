"""`python -m ops completion bash`: a shell's completion, and `ops` as a short name.

Load it with `source <(python -m ops completion bash)`, in the project's folder.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

from ops import commands

FUNCTION = 'ops() { python -m ops "$@"; }'


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the completion; gives the exit status."""
    options = parser().parse_args(arguments)
    print(FUNCTION)
    print(shtab.complete(tree(), shell=options.shell))
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m ops completion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("shell", choices=("bash", "zsh"))
    return made


def tree() -> argparse.ArgumentParser:
    """Describe all commands in one parser, as the completion wants it."""
    root = argparse.ArgumentParser(prog="ops")
    top = root.add_subparsers()
    below = {}
    for command in commands.COMMANDS:
        first, _, second = command.name.partition(" ")
        if not second:
            made = top.add_parser(
                first, help=command.does, parents=[command.parser()], add_help=False
            )
            if any(one.name.startswith(f"{first} ") for one in commands.COMMANDS):
                below[first] = made.add_subparsers()
        else:
            below[first].add_parser(
                second, help=command.does, parents=[command.parser()], add_help=False
            )
    return root
