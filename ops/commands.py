"""The commands of `python -m ops`: their names, where they are, and examples.

Each module has a `parser()` that describes its arguments and a `main(arguments)` that runs it. Only
that of the command in hand is imported: some bring the SDK and all layers with them.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

SETTINGS, DEPLOY, REHEARSAL = "ops.settings.command", "ops.deploy.command", "ops.rehearsal"
RESTORE, RESTORE_PAGE = "ops.restore.command", "docs/procedures/restore-backup.md"


@dataclass(frozen=True)
class Command:
    """A command: the words that name it, its module, and an example."""

    name: str
    module: str
    does: str
    example: str
    word: str = ""
    """What its module, which has several commands, calls it."""
    page: str = "docs/operations.md"
    """What helps when it fails."""

    def run(self, arguments: Sequence[str]) -> int:
        """Run it; gives its exit status."""
        status: int = import_module(self.module).main(
            [*([self.word] * bool(self.word)), *arguments]
        )
        return status

    def parser(self) -> argparse.ArgumentParser:
        """Describe its arguments."""
        made: argparse.ArgumentParser = import_module(self.module).parser()
        if not self.word:
            return made
        commands = next(
            one
            for one in made._actions  # noqa: SLF001 argparse has no other way to them
            if isinstance(one, argparse._SubParsersAction)  # noqa: SLF001
        )
        found: argparse.ArgumentParser = commands.choices[self.word]
        return found


COMMANDS = (
    Command("check", SETTINGS, "say everything that is wrong with a stack file",
            "check --reach Pulumi.prod.yaml", "check",
            page="config/settings.py has every key, docs/site-requirements.md what the site gives"),
    Command("show", SETTINGS, "print the resolved settings and the address plan",
            "show Pulumi.prod.yaml", "show",
            page="config/settings.py has every key"),
    Command("preview", DEPLOY, "preview the stack, and keep preview and plan",
            "preview --out .lab/out", "preview",
            page="docs/procedures/everyday-change.md"),
    Command("review", "ops.review.command", "what a preview means, and to whom",
            "review .lab/out/preview.json",
            page="docs/procedures/review.md"),
    Command("apply", DEPLOY, "carry out exactly the plan that was kept",
            "apply --out .lab/out", "apply",
            page="docs/procedures/everyday-change.md"),
    Command("drift", "ops.drift.command", "what was changed without the stack",
            "drift --markdown .lab/out/drift.md",
            page="docs/drift.md"),
    Command("repair", DEPLOY, "remove what a killed run left",
            "repair", "repair",
            page="docs/procedures/failed-up.md"),
    Command("unlock", DEPLOY, "free the stack's lock that a lost `apply` left",
            "unlock --out .lab/out", "unlock",
            page="docs/procedures/failed-up.md"),
    Command("destroy", DEPLOY, "delete all but what is protected",
            "destroy", "destroy",
            page="docs/procedures/destroy-and-rebuild.md"),
    Command("restore", RESTORE, "replace etcd's data by that of a backup",
            "restore --identity private/backup.agekey", "running", page=RESTORE_PAGE),
    Command("restore check", RESTORE, "list the backups, and check the newest",
            "restore check", "check", page=RESTORE_PAGE),
    Command("restore rebuild", RESTORE, "build on an empty site, with a backup's data",
            "restore rebuild", "rebuild", page=RESTORE_PAGE),
    Command("restore state", RESTORE, "bring a lost state back from its copy",
            "restore state --only-keys", "state", page=RESTORE_PAGE),
    Command("restore keep", RESTORE, "store a copy of the state beside the backups",
            "restore keep", "keep", page=RESTORE_PAGE),
    Command("render", "ops.render.command", "what the charts make of this platform's values",
            "render diff traefik 39.1.0",
            page="docs/procedures/upgrade-layer.md"),
    Command("gitops", "ops.gitops.command", "keep what Argo CD reads equal to the settings",
            "gitops write Pulumi.prod.yaml",
            page="docs/gitops.md"),
    Command("report", "ops.report.command", "post what a workflow found",
            "report summary .lab/out/drift.md",
            page="docs/workflows.md"),
    Command("update", "ops.updates.command", "merge and deploy new versions without a person",
            "update due",
            page="docs/updates.md"),
    Command("rehearse", f"{REHEARSAL}.life", "the stack file's whole life, in a world of the lab",
            "rehearse"),
    Command("rehearse drill", f"{REHEARSAL}.drill", "the fire drill, in a world of the lab",
            "rehearse drill"),
    Command("rehearse backup", f"{REHEARSAL}.backup", "try a backup: restore it, count the objects",
            "rehearse backup --production",
            page=RESTORE_PAGE),
    Command("rehearse kills", f"{REHEARSAL}.kills", "kill the engine's commands, in the lab",
            "rehearse kills --kills 40 --worlds 2"),
    Command("rehearse review", f"{REHEARSAL}.review", "preview this tree on another's platform",
            "rehearse review origin/main",
            page="docs/procedures/review.md"),
    Command("rehearse timeline", f"{REHEARSAL}.timeline_page", "draw how long each resource took",
            "rehearse timeline up.events state.json timeline.html"),
    Command("rehearse bench", f"{REHEARSAL}.bench", "measure the program and the lab",
            "rehearse bench .lab/bench.json"),
    Command("completion", "ops.completion", "print completion for a shell, and the short `ops`",
            "completion bash"),
)  # fmt: skip
"""In the order in which they are met: settings, deployment, recovery, rest."""


class UnknownCommandError(Exception):
    """There is no such command; the text names those that are near."""


def find(arguments: Sequence[str]) -> tuple[Command, list[str]]:
    """Give the command that the first one or two words name, and the arguments after them."""
    by_name = {one.name: one for one in COMMANDS}
    for words in (2, 1):
        if command := by_name.get(" ".join(arguments[:words])):
            return command, list(arguments[words:])
    near = difflib.get_close_matches(arguments[0], by_name, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UnknownCommandError(f"python -m ops: no command {arguments[0]}; {meant}`--help` has all")


def overview() -> str:
    """List the commands, each with an example."""
    width = max(len(one.name) for one in COMMANDS)
    return "\n".join(
        [
            "usage: python -m ops COMMAND ...",
            "",
            *(f"  {one.name:{width}}  {one.does}" for one in COMMANDS),
            "",
            "for example:",
            *(f"  python -m ops {one.example}" for one in COMMANDS if one.name != one.example),
            "",
            "python -m ops COMMAND --help tells more; `make help` has the usual ways to call them",
        ]
    )
