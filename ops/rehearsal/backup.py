"""`python -m ops rehearse backup`: a backup is tried, in a world of the lab.

A backup that nobody has restored is none. Here one is restored into the lab's cluster, and what the
Kubernetes API then serves is counted against what the snapshot holds. Inside a world it is one that
the lab's own job takes, with the whole way from the bucket. With `--production`, outside of a
world, it is the newest one of the real stack: it is read from its bucket, nothing else is touched,
and it is decrypted only for the time of the rehearsal. The lab has other keys than production, so
Secrets, which etcd holds encrypted, are then counted in the snapshot only.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]

from clients import etcd_snapshot, talosctl
from clients.age_file import AgeError
from clients.backup_storage import StorageError
from clients.kubernetes_api import wait_ready
from clients.pulumi_cli import EngineError
from clients.waiting import Clock
from components.kubernetes.backup import NAME, NAMESPACE
from components.talos.health import Observer
from components.talos.node import as_member
from config import load_file
from ops.rehearsal import report
from ops.rehearsal.life import OUT, chapter
from ops.rehearsal.tools import (
    PROJECT,
    Engine,
    ToolError,
    run,
    status_of,
    without_omni,
    world,
    write_credentials,
)
from ops.rehearsal.world import SIMULATED
from ops.restore import checks, running
from ops.restore.checks import RefusedError, ago
from ops.restore.command import IDENTITY
from ops.restore.stack import Stack

RESULT = OUT / "backup.json"
LAB = PROJECT / ".lab" / "bin" / "lab"
STACK_FILE = "Pulumi.prod.yaml"
CALLED = {
    "controllers": "replicationcontrollers",
    "ingress": "ingresses",
    "minions": "nodes",
    "specs": "services",
}
"""What etcd calls some kinds (kubernetes, pkg/registry), and the API."""
INNER = frozenset({"masterleases", "peerserverleases", "ranges"})
"""What the API servers keep for themselves."""
COMING_AND_GOING = frozenset({"events", "leases.coordination.k8s.io", "leases", "pods", "jobs"})
"""Controllers make and remove these all the time; they are counted, and may be fewer."""


def rehearse(given: Path | None) -> None:
    """Restore a backup and count; the first thing that is not as it should be ends it."""
    without_omni(
        "Omni restores its own backups, and `python -m ops restore` none of such a cluster"
    )
    OUT.mkdir(parents=True, exist_ok=True)
    engine, times = Engine(), dict[str, float]()
    with chapter("pulumi up", times):
        engine.up()
    write_credentials(engine)
    if given is None:
        with chapter("a backup of the lab's own", times):
            take(engine)
            content = newest()
        with chapter("python -m ops restore", times):
            print(run("python", "-m", "ops", "restore", "--yes"))
    else:
        content = etcd_snapshot.read(given)
        with chapter("the restore", times):
            restore(engine, given)
    with chapter("what came back", times):
        found = {kind: served(kind) for kind in content.kinds if kind not in INNER}
        print(table(content.kinds, found))
        told = youngest(content)
        print(told)
        if lost := missing(content.kinds, found):
            raise ToolError(f"fewer objects are there than in the backup: {', '.join(lost)}")
    result: dict[str, Any] = {
        "seconds": {title: round(seconds, 1) for title, seconds in times.items()},
        "revision": content.revision,
        "newest": content.newest.isoformat() if content.newest else None,
        "objects": {kind: {"backup": content.kinds[kind], "api": found[kind]} for kind in found},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nkept as {RESULT.name} in {OUT.name}/\n\n{report.real_and_simulated()}")


def take(engine: Engine) -> None:
    """Take a backup as the platform's job does, for a key of this world."""
    key = pyrage.x25519.Identity.generate()
    IDENTITY.touch(mode=0o600)
    IDENTITY.write_text(f"{key}\n")
    setting = "platform:services.backup.agePublicKey"
    run("pulumi", "config", "set", "--path", setting, str(key.to_public()))
    engine.up()
    where, name = ("--namespace", NAMESPACE), "rehearsal"
    run("kubectl", *where, "create", "job", f"--from=cronjob/{NAME}", name)
    run("kubectl", *where, "wait", "--for=condition=Complete", "--timeout=5m", f"job/{name}")


def newest() -> etcd_snapshot.Content:
    """Read what the newest backup in this world's bucket holds."""
    stack = Stack.read()
    with checks.fetched(stack, checks.choose(stack, None), IDENTITY) as checked:
        print(checked.told(dt.datetime.now(tz=dt.UTC)))
        return checked.content


def restore(engine: Engine, snapshot: Path) -> None:
    """Put a snapshot into the lab's cluster, as `python -m ops restore` does."""
    settings = load_file(PROJECT / STACK_FILE)
    members = [as_member(one) for one in (*settings.control_planes, *settings.workers)]
    clock = Clock(tell=print)
    with talosctl.connect(engine.output("talosconfig")) as talos:
        note = world() / "restore.json"
        running.restore(Observer(talos, members, clock), snapshot.name, snapshot, note)
    wait_ready(engine.output("kubeconfig"), clock)


def served(kind: str) -> int | None:
    """Count the objects of a kind that the API serves; None when it cannot read them."""
    name = CALLED.get(kind, kind)
    try:
        text = run("kubectl", "get", name, "--all-namespaces", "--output", "name")
    except ToolError:
        return None
    return len(text.splitlines())


def missing(wanted: Mapping[str, int], found: Mapping[str, int | None]) -> list[str]:
    """Name the kinds of which fewer came back; with counts."""
    return [
        f"{kind} ({count} of {wanted[kind]})"
        for kind, count in found.items()
        if count is not None and count < wanted[kind] and kind not in COMING_AND_GOING
    ]


def table(wanted: Mapping[str, int], found: Mapping[str, int | None]) -> str:
    """Write the counts, a line for each kind."""
    width = max(map(len, found), default=0)
    lines = [f"{'kind':{width}}  backup  API"]
    lines += [
        f"{kind:{width}}  {wanted[kind]:6}  {'not readable here' if count is None else count}"
        for kind, count in found.items()
    ]
    return "\n".join(lines)


def youngest(content: etcd_snapshot.Content) -> str:
    """Say how old the newest object of a backup is."""
    if content.newest is None:
        return "no object says when it was created"
    age = dt.datetime.now(tz=dt.UTC) - content.newest
    return f"the newest object was created {ago(age)} ({content.newest:%Y-%m-%d %H:%M} UTC)"


def production(identity: Path) -> int:
    """Fetch the newest backup of the real stack, and try it in a world; gives the exit status."""
    try:
        stack = Stack.read()
        with checks.fetched(stack, checks.choose(stack, None), identity) as checked:
            print(checked.told(dt.datetime.now(tz=dt.UTC)), flush=True)
            inside = ("python", "-m", "ops", "rehearse", "backup", "--snapshot", str(checked.path))
            where = ("--stack-file", STACK_FILE, "--out", str(OUT))
            command = [str(LAB), "run", *SIMULATED, *where, "--"]
            return subprocess.run([*command, *inside], cwd=PROJECT, check=False).returncode
    except (EngineError, StorageError, AgeError, RefusedError) as error:
        print(error, file=sys.stderr)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Try a backup; gives the exit status."""
    options = parser().parse_args(arguments)
    if options.production:
        return production(options.identity)
    return status_of("rehearsal of a backup", lambda: rehearse(options.snapshot))


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops rehearse backup", description=__doc__)
    which = made.add_mutually_exclusive_group()
    which.add_argument(
        "--production", action="store_true", help="the newest of the real stack; read only"
    )
    which.add_argument(
        "--snapshot", type=Path, metavar="FILE", help="inside a world: a decrypted snapshot"
    )
    made.add_argument("--identity", type=Path, default=IDENTITY, metavar="FILE",
                      help="the age key file, with --production")  # fmt: skip
    return made
