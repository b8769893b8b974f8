"""`python -m ops restore`: a scheduled backup, checked, and back into the platform."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clients import interrupts, restore_note, talosctl
from clients.age_file import AgeError
from clients.backup_storage import StorageError
from clients.kubernetes_api import ApiError, wait_ready
from clients.pulumi_cli import POLICIES, ROOT, EngineError
from clients.restore_note import NOTE, SNAPSHOT, Begun, NoteError, Step
from clients.talosctl import TalosctlError
from clients.waiting import Clock
from components.talos.etcd import HealthError
from components.talos.health import Observer
from components.talos.node import as_member
from ops.deploy import repair
from ops.restore import checks, running, state
from ops.restore.checks import Checked, RefusedError
from ops.restore.running import RestoreError
from ops.restore.stack import Stack

IDENTITY = ROOT / "private" / "backup.agekey"
REFUSED = 5
"""The exit code of a backup that is not restored."""
CLOCK = Clock(tell=print)
NEXT = (
    "restored. What was made after the backup is in the stack's state and not in the cluster: now "
    "`pulumi refresh`, then `pulumi up`"
)
FORGOTTEN = dt.timedelta(days=1)
"""A restore that stopped so long ago is not gone on with unless it is asked for."""
MOST_HOURS = 1e6
ERRORS = (
    EngineError, StorageError, AgeError, TalosctlError, HealthError, ApiError, RestoreError,
    NoteError, OSError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code: 0, 1 for an error, 5 for a refused backup."""
    options = parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        with interrupts.unwound():
            return run(options)
    except RefusedError as error:
        print(f"not restored. {error}\nmore: {checks.PAGE}", file=sys.stderr)
        return REFUSED
    except ERRORS as error:
        print(error, file=sys.stderr)
        return 1


def list_and_check(options: argparse.Namespace) -> int:
    """List the backups, and check one; changes nothing."""
    stack, now = Stack.read(), _now()
    found = stack.storage.snapshots()
    for one in found:
        print(f"{one.key}  {one.size / (1 << 20):.1f} MiB  {checks.ago(now - one.taken)}")
    for one in stack.storage.states()[-1:]:
        print(f"{one.key}  the newest copy of the state, {checks.ago(now - one.taken)}")
    stored = checks.choose(stack, options.backup)
    with checks.fetched(stack, stored, options.identity) as checked:
        print(checked.told(now))
    checks.refuse_old(stored, now, checks.oldest_allowed(stack), options.accept_age)
    return 0


def into_the_running_platform(options: argparse.Namespace) -> int:
    """Replace the data of the machines that run."""
    repair.refuse_locked()
    stack = Stack.read()
    talosconfig, kubeconfig = stack.output("talosconfig"), stack.output("kubeconfig")
    with _chosen(stack, options, {Step.EMPTYING, Step.RECOVERING}) as checked:
        names = ", ".join(one.name for one in stack.settings.control_planes)
        what = (
            f"etcd's data on {names} is wiped, and this backup takes its place. These machines "
            "reboot at once: the Kubernetes API does not answer for some minutes, and what runs on "
            "them is started again. Whatever was changed in the cluster since the backup is lost."
        )
        if not _agreed(what, stack, options):
            return 1
        with talosctl.connect(talosconfig) as talos:
            chain = (*stack.settings.control_planes, *stack.settings.workers)
            cluster = Observer(talos, [as_member(one) for one in chain], CLOCK)
            running.restore(cluster, checked.stored.key, checked.path, NOTE)
        wait_ready(kubeconfig, CLOCK)
    print(NEXT)
    return 0


def rebuild(options: argparse.Namespace) -> int:
    """Build the platform on an empty site, with the backup's data in etcd from its beginning."""
    repair.refuse_locked()
    stack = Stack.read()
    if state.etcd_has_begun(stack.resources):
        _forget_rebuild()
        raise RestoreError(
            "this stack's etcd has begun already. To finish a rebuild that was stopped: `pulumi "
            "up`. To replace the data of machines that run: `python -m ops restore`. To begin "
            "again: `python -m ops destroy`, then this"
        )
    with _chosen(stack, options, {Step.REBUILDING}) as checked:
        what = (
            "the platform is built on an empty site, and its etcd begins with this backup. If it "
            "is stopped before that, run the same command again."
        )
        if not _agreed(what, stack, options):
            return 1
        restore_note.write(Begun(checked.stored.key, Step.REBUILDING), NOTE)
        sys.stdout.flush()
        code = interrupts.attached(
            ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", *POLICIES],
            os.environ | {SNAPSHOT: str(checked.path)},
        )
    if state.etcd_has_begun(Stack.read().resources):
        restore_note.forget(NOTE)
        if code:
            print("etcd has begun with the backup: `pulumi up` goes on from here", file=sys.stderr)
    return code


def keep_state(_: argparse.Namespace) -> int:
    """Store a copy of the stack's state beside the backups."""
    print(state.keep(Stack.read(), _now()))
    return 0


def bring_state_back(options: argparse.Namespace) -> int:
    """Bring the stack's state back from its copy."""
    stack = Stack.read()
    print(state.bring_back(stack, options.backup, options.identity, only_keys=options.only_keys))
    return 0


@contextmanager
def _chosen(stack: Stack, options: argparse.Namespace, steps: set[Step]) -> Iterator[Checked]:
    """Offer the backup that was begun with, or the named, or the newest; fetched and checked."""
    begun, now = restore_note.read(NOTE), _now()
    named, accepted = options.backup, options.accept_age
    if begun is not None and begun.step in steps and named in {None, begun.backup}:
        if named is None and (age := restore_note.age(now, NOTE)) > FORGOTTEN:
            raise RefusedError(
                f"{NOTE}: a restore of {begun.backup} stopped {checks.ago(age)} ({begun.step}), "
                f"and much may have been changed since. `--backup {begun.backup}` goes on with it; "
                "to begin again, with the newest backup, remove that file"
            )
        print(f"goes on with {begun.backup}, which an earlier run began to restore")
        named, accepted = begun.backup, (now - dt.datetime.min.replace(tzinfo=dt.UTC)).days * 24
    stored = checks.choose(stack, named)
    checks.refuse_old(stored, now, checks.oldest_allowed(stack), accepted)
    with checks.fetched(stack, stored, options.identity) as checked:
        print(checked.told(now))
        yield checked


def _forget_rebuild() -> None:
    """Remove the note of a rebuild whose etcd has begun: it was killed before it could."""
    begun = restore_note.read(NOTE)
    if begun is not None and begun.step is Step.REBUILDING:
        restore_note.forget(NOTE)


def _agreed(what: str, stack: Stack, options: argparse.Namespace) -> bool:
    """Say what will be done, and ask for the cluster's name."""
    print(what)
    name = stack.settings.cluster.name
    if options.yes or (sys.stdin.isatty() and input(f"type the cluster's name, {name}: ") == name):
        return True
    print("nothing was changed; `--yes` does it without asking")
    return False


def _now() -> dt.datetime:
    return dt.datetime.now(tz=dt.UTC)


def _hours(text: str) -> float:
    found = float(text)
    if not 0 < found <= MOST_HOURS:  # nan is not either
        raise ValueError(text)
    return found


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m ops restore",
        description=__doc__,
        epilog="exit codes: 0 done, 5 the backup is refused, 1 something failed",
    )
    commands = made.add_subparsers(dest="command", required=True)
    for name, run in (
        ("running", into_the_running_platform),
        ("rebuild", rebuild),
        ("check", list_and_check),
        ("state", bring_state_back),
        ("keep", keep_state),
    ):
        command = commands.add_parser(name, description=run.__doc__)
        command.set_defaults(run=run)
        if name == "keep":
            continue
        command.add_argument(
            "--identity", type=Path, default=IDENTITY, metavar="FILE",
            help="the age key file; private/backup.agekey unless it is given",
        )  # fmt: skip
        command.add_argument(
            "--backup", metavar="KEY", help="the backup of this key, not the newest"
        )
        if name == "state":
            command.add_argument(
                "--only-keys", action="store_true",
                help="bring back only the cluster's keys: the machines are gone",
            )  # fmt: skip
        else:
            command.add_argument(
                "--accept-age", type=_hours, metavar="HOURS", help="accept one of this age"
            )
        if name in {"running", "rebuild"}:
            command.add_argument("--yes", action="store_true", help="without asking")
    return made
