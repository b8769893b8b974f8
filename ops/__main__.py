"""`python -m ops`: all tools of the operator behind one command; `make help` has the usual ways."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import signal
import sys

from ops.commands import UnknownCommandError, find, overview

FAILED = 1
"""The exit code of a command that could not do its work; others are answers."""


def main(arguments: list[str]) -> int:
    """Run the command that the words name; gives its exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` is no error
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(overview())
        return 0 if arguments else 2
    try:
        command, rest = find(arguments)
    except UnknownCommandError as error:
        print(error, file=sys.stderr)
        return 2
    status = command.run(rest)
    if status == FAILED:
        print(f"more: {command.page}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
