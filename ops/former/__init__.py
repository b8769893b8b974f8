"""The commands' former names: each still works, and says the new one.

This folder is on the path of the project's virtual environment (setup.sh), so that
`python -m drift` finds drift.py here.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import sys

from ops import __main__ as ops

NEW = {
    "config": "",
    "deploy": "",
    "drift": "drift",
    "github_report": "report",
    "gitops": "gitops",
    "rehearsal": "rehearse",
    "rehearsal.bench": "rehearse bench",
    "rehearsal.drill": "rehearse drill",
    "rehearsal.kills": "rehearse kills",
    "rehearsal.review": "rehearse review",
    "rehearsal.timeline": "rehearse timeline",
    "render": "render",
    "review": "review",
}
"""Former module, and the words that stand for it; the commands of the empty ones came along."""


def run(module: str) -> int:
    """Run what a former module ran, with this process's arguments; gives the exit status."""
    words = NEW[module].split() or sys.argv[1:2]
    rest = sys.argv[1:] if NEW[module] else sys.argv[2:]
    print(f"`python -m {module}` is now `python -m ops {' '.join(words)}`", file=sys.stderr)
    return ops.main([*words, *rest])
