"""Every page of docs/procedures, executed in the lab as an operator would type it.

One test a page. Pages run in worlds that they share, on a copy of the repository that they edit.
What goes on from another page runs that one first, when it has not run yet.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.versions import CERT_MANAGER
from ops.rehearsal import repository
from ops.rehearsal.procedures import (
    Command,
    Edit,
    Procedure,
    Start,
    apply,
    next_patch,
    read_all,
)
from ops.rehearsal.world import Result, World
from tests.lab.conftest import WORLDS
from tests.lab.secret_values import left_behind, secret_values

PAGES = {page.name: page for page in read_all()}
RUN = [page.name for page in PAGES.values() if page.start is not None]
FOLLOWED = {page.after for page in PAGES.values()}
UNTIL_SECONDS, POLL_SECONDS = 300.0, 2.0
# One shell a command, with what the ones before have exported, and their umask.
SHELL = """
set -euo pipefail
if [ -f "$0" ]; then . "$0"; fi
eval "$1"
{ export -p; umask -p; } > "$0"
"""
ASKS = "pulumi config set --secret"
ANSWER = "python -c 'import secrets; print(secrets.token_hex(16))'"
# `pulumi up` and its like ask; this is the engine's own way to say yes beforehand.
YES = "PULUMI_SKIP_CONFIRMATIONS=true"
SITES = {
    Start.EMPTY: ("platform", "Pulumi.prod.yaml"),
    Start.MACHINES: ("machines", "Pulumi.prod.yaml"),
    Start.EMPTY_OMNI: ("omni", "Pulumi.omni.yaml"),
}
"""What the site of each first start is called, and its stack file."""
FIRST = {Start.EMPTY, Start.EMPTY_OMNI}
"""Of pages that begin where nothing has been built."""
NEWER = ("cert-manager", f"v{CERT_MANAGER}", f"v{next_patch(CERT_MANAGER)}")
"""A chart, its version, and the number under which it is served a second time."""


class Site:
    """A world and the repository that it is run from, on which pages run one after the other."""

    def __init__(self, name: str, file: str, *, services: bool) -> None:
        self.repository = repository.copy(WORLDS / f"procedures-{name}.repository")
        stack_file = self.repository / file
        if not services:
            text, cut, _ = stack_file.read_text().partition("  # What runs on the cluster;")
            assert cut
            stack_file.write_text(text)
            repository.keep(self.repository, "without what runs on the cluster")
        serve_again(repository.own_charts(self.repository), *NEWER)
        # A page kills a destroy between two machines: on a busy computer that takes seconds.
        slow = () if services else ("--clone-delay", "3s")
        self.world = World(
            WORLDS / f"procedures-{name}", stack_file, *slow, project=self.repository
        )
        self.world.start()
        self.done: list[str] = []
        """The pages that have run, in their order."""
        self.broken: str | None = None
        self._secrets: dict[str, str] = {}
        """All that were secret since the world began; those that were rotated too."""
        self._said: dict[str, str] = {}

    def run(self, page: Procedure) -> None:
        """Run a page, after those that it stands on; each only once."""
        if page.name in self.done:
            return
        for earlier in self._before(page):
            self.run(earlier)
        if self.broken is not None:
            pytest.fail(f"{page.name}: not run, since {self.broken} failed on the same platform")
        self.broken = page.name
        if page.start not in FIRST:
            assert page.after or not repository.changes(self.repository)
            self.world.write_credentials()
        environment = self.world.state / "environment"
        environment.unlink(missing_ok=True)
        for step in page.steps:
            if isinstance(step, Edit):
                apply(step, self.repository)
            else:
                self._run(step, environment)
        self.world.expect_no_changes()
        self._secrets |= secret_values(self.world)
        told = left_behind(self.world, self._secrets, **self._said)
        assert not told, f"{page.name} leaves secrets in plain text: {told}"
        self._said.clear()
        left = "" if page.path.name in FOLLOWED else repository.changes(self.repository)
        assert not left, f"{page.name} leaves the repository changed:\n{left}"
        self.broken = None
        self.done.append(page.name)

    def _before(self, page: Procedure) -> Iterator[Procedure]:
        if page.after is not None:
            yield PAGES[page.after.removesuffix(".md")]
        elif page.start is not None and page.start.first is not page.start:
            yield from (one for one in PAGES.values() if one.start is page.start.first)
        elif page.start is Start.MACHINES and not self.done and self.broken is None:
            self.broken = "the first `up`"
            self.world.up()
            self.broken = None

    def _run(self, command: Command, environment: Path) -> None:
        begin = time.monotonic()
        typed = f"{ANSWER} | {command.text}" if command.text.startswith(ASKS) else command.text
        shell = ("env", YES, "bash", "-c", SHELL, str(environment), typed)
        while True:
            result = self._outside(typed) if command.writes else self.world.run(*shell, code=None)
            problem = wrong(command, result)
            patient = command.until and time.monotonic() - begin < UNTIL_SECONDS
            if problem is None or not patient:
                break
            time.sleep(POLL_SECONDS)
        shown = f"{command.where}: {command.text}"
        self._said[shown] = result.stdout + result.stderr
        print(f"{time.monotonic() - begin:6.1f} s  {shown}")
        assert problem is None, f"{shown}\n{problem}\n{result.stdout}\n{result.stderr}"

    def _outside(self, typed: str) -> Result:
        """Run a command on the repository itself, in its virtual environment."""
        path = f"{self.repository / '.venv' / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", typed],
            cwd=self.repository,
            env=os.environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def wrong(command: Command, result: Result) -> str | None:
    """Say what of a command's result is not as its page says; None when all is."""
    if (result.returncode != 0) is not command.fails:
        return f"exit code {result.returncode}"
    said = result.stdout + result.stderr
    missing = [one.pattern for one in command.expected if not one.search(said)]
    return f"it does not say {', '.join(missing)}" if missing else None


def serve_again(charts: Path, name: str, version: str, newer: str) -> None:
    """Let the world's repository have a chart under a second number: the lab has one of each."""
    index = json.loads((charts / repository.INDEX).read_text())
    entry = next(one for one in index if one["name"] == name and one["version"] == version)
    index.append(entry | {"version": newer})
    (charts / repository.INDEX).write_text(json.dumps(index))
    with (
        tarfile.open(charts / f"{name}-{version}.tgz") as old,
        tarfile.open(charts / f"{name}-{newer}.tgz", "w:gz") as new,
    ):
        for member in old:
            content = old.extractfile(member)
            data = content.read() if content else b""
            if member.name == f"{name}/Chart.yaml":
                data = data.replace(version.encode(), newer.encode())
                assert newer.encode() in data
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def site() -> Iterator[Callable[[Start], Site]]:
    """Give the site of a start; each is made when it is first asked for."""
    sites: dict[Start, Site] = {}

    def give(start: Start) -> Site:
        if start.first not in sites:
            for other in sites.values():  # two platforms at once are slower than one after another
                other.world.stop()
            name, file = SITES[start.first]
            sites[start.first] = Site(name, file, services=start is not Start.MACHINES)
        return sites[start.first]

    yield give
    for one in sites.values():
        one.world.stop()


def _site(name: str) -> int:
    start = PAGES[name].start
    return -1 if start is None else list(SITES).index(start.first)


ORDER: list[str] = sorted(RUN, key=_site)
"""A site's pages after one another: the next site ends the one before."""
WEEKLY = {
    "add-control-planes",
    "add-worker",
    "destroy-and-rebuild",
    "expand-pool",
    "failed-up",
    "firewall",
    "local-volumes",
    "lost-quorum",
    "monitoring",
    "omni",
    "omni-access",
    "omni-destroy",
    "omni-machines",
    "omni-upgrades",
    "rebuild-from-backup",
    "recover-application",
    "remove-control-planes",
    "remove-worker",
    "replace-machine",
    "restore-backup",
    "restore-etcd",
    "rotate-secret",
    "undo-change",
    "upgrade-kubernetes",
    "upgrade-layer",
    "upgrade-talos",
}
"""The weekly drill runs them: minutes each, for what other pages do too but for its own point. For
Kubernetes another version of it has to be built, for Omni its command line."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Give the marks of a page's test."""
    return [pytest.mark.campaign] if name in WEEKLY else []


@pytest.mark.parametrize("name", [pytest.param(one, marks=marks(one)) for one in ORDER])
def test_the_procedure_works_as_its_page_says(site: Callable[[Start], Site], name: str) -> None:
    page = PAGES[name]
    assert page.start is not None
    place = site(page.start)
    place.run(page)
    assert name in place.done
