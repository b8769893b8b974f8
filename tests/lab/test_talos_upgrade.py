"""Talos upgraded under load: three control planes and a worker with everything on them.

One probe writes and reads through the VIP, another asks an application at the ingress; what each
saw is counted and printed. In the lab Talos and its images are simulated; etcd, the API servers,
evictions and disruption budgets are real. All tests run in one world; each brings it to the release
that it begins with, which it has when they run in this order.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.talos.upgrade import INSTALLING
from config.versions import TALOS
from ops.rehearsal.procedures import next_patch
from ops.rehearsal.world import World, wait_until
from tests.background import Background
from tests.lab.conftest import editing
from tests.lab.machines.test_platform import cordoned, versions
from tests.lab.probe import Probe
from tests.lab.test_interruption import Moment, kill_at, said

pytestmark = pytest.mark.campaign

WITH_SERVICES = True
INGRESS, HOST = "172.16.20.100", "podinfo.platform.example.com"
LAST = "diskGiB: 100 }\n\n"
WORKER = "    - { name: work01, address: 172.16.20.61, role: worker, cpus: 8, memoryMiB: 32768, "
CHAIN = ["node01", "node02", "node03", "work01"]
NAMESPACE = ("--namespace", "app-podinfo")
OLD, NEW, NEXT_MINOR = TALOS, next_patch(TALOS), "1.14.1"
ANSWER = """
import json, ssl, socket, sys, time
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
def ask():
    with socket.create_connection(({address!r}, 443), 2) as plain:
        with context.wrap_socket(plain, server_hostname={host!r}) as secure:
            secure.sendall(b"GET / HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n")
            return secure.recv(64).split(b"\\r")[0].decode()
end = time.monotonic() + 5
while time.monotonic() < end:
    try:
        print(ask(), flush=True)
    except OSError as error:
        print("failed:", error, flush=True)
    time.sleep(0.2)
"""


class Load(Background):
    """Asks through the VIP and at the ingress until it is left."""

    def __init__(self, world: World) -> None:
        parts = {"writes through the VIP": self._write, "answers of the ingress": self._ask}
        super().__init__(*(partial(self._run, name, part) for name, part in parts.items()))
        self.world = world
        self.seen: dict[str, Counter[str]] = {}

    def _run(self, name: str, part: Callable[[], Iterator[bool]]) -> None:
        counts = self.seen.setdefault(name, Counter())
        while not self._stop.is_set():
            for answered in part():
                counts["answered" if answered else "failed"] += 1

    def _write(self) -> Iterator[bool]:
        """Write a value and read it back."""
        value = str(time.monotonic_ns())
        written = self._kubectl(
            "patch", "configmap", "probe", "-p", f'{{"data":{{"at":"{value}"}}}}'
        )
        yield written is not None
        read = self._kubectl("get", "configmap", "probe", "-o", "jsonpath={.data.at}")
        if written is not None and read is not None:
            assert read == value, "a write that was confirmed is lost"
        yield read is not None
        self._stop.wait(0.2)

    def _kubectl(self, *words: str) -> str | None:
        done = self.world.run("kubectl", "--request-timeout=2s", *words, code=None)
        return done.stdout if done.returncode == 0 else None

    def _ask(self) -> Iterator[bool]:
        text = ANSWER.format(address=INGRESS, host=HOST)
        for line in self.world.run("python", "-c", text).stdout.splitlines():
            yield line.startswith("HTTP/")

    def summary(self) -> str:
        return "; ".join(
            f"{name}: {counts['failed']} of {counts.total()} failed"
            for name, counts in self.seen.items()
        )


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    text = world.stack_file.read_text()
    assert LAST in text
    text = text.replace(LAST, f"diskGiB: 100 }}\n{WORKER}diskGiB: 100 }}\n\n", 1)
    world.stack_file.write_text(text)
    world.up()
    world.write_credentials()
    world.run("kubectl", "apply", "--kustomize", "apps/overlays/prod/podinfo")
    world.run("kubectl", "create", "configmap", "probe", "--from-literal=at=0")
    wait_until("the application runs", lambda: ready(world) >= 2)
    return world


@pytest.fixture
def edit(world: World) -> Iterator[Callable[[str, str], None]]:
    with editing(world) as replace:
        yield replace


def ready(world: World) -> int:
    deployment = get(world, "deployment", "podinfo", *NAMESPACE)
    return int(deployment["status"].get("readyReplicas", 0))


def get(world: World, *what: str) -> Any:
    return json.loads(world.run("kubectl", "get", *what, "--output", "json").stdout)


def begin_with(world: World, version: str) -> None:
    """Let all machines run a version."""
    if versions(world) != dict.fromkeys(CHAIN, f"v{version}"):
        with editing(world) as replace:
            if version != OLD:
                replace(f"version: {OLD}", f"version: {version}")
            world.up()


def settle(world: World, version: str) -> None:
    """See the whole platform run a version, and nothing left to do."""
    world.expect_no_changes()
    assert versions(world) == dict.fromkeys(CHAIN, f"v{version}")
    assert cordoned(world) == []
    nodes = get(world, "nodes")["items"]
    assert all(INSTALLING not in one["metadata"].get("annotations", {}) for one in nodes)
    assert {one["status"]["nodeInfo"]["osImage"] for one in nodes} == {f"Talos (v{version})"}


def test_a_budget_that_blocks_stops_the_upgrade_and_once_it_is_gone_up_finishes(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(f"version: {OLD}", f"version: {NEW}\n    drainSeconds: 20")
    (budget,) = get(world, "poddisruptionbudgets", *NAMESPACE)["items"]
    name = str(budget["metadata"]["name"])
    allow(world, name, {"maxUnavailable": 0, "minAvailable": None})
    boots = world.boot_ids(addresses(world))
    refused = world.up(code=None)
    said_so = refused.stdout + refused.stderr
    assert f"The disruption budget {name} needs" in said_so, said_so
    assert "in namespace app-podinfo" in said_so
    (blocked,) = [
        one for one in CHAIN if f"{one} ({addresses(world)[one]}): not upgraded" in said_so
    ]
    assert world.boot_ids(addresses(world))[blocked] == boots[blocked]
    assert cordoned(world) == []
    allow(world, name, {"minAvailable": None, "maxUnavailable": None} | budget["spec"])
    world.up()
    settle(world, NEW)


def allow(world: World, budget: str, spec: dict[str, Any]) -> None:
    """Change what a disruption budget allows."""
    text = json.dumps({"spec": spec})
    kind = ("poddisruptionbudget", budget, *NAMESPACE)
    world.run("kubectl", "patch", *kind, "--type=merge", "-p", text)


def addresses(world: World) -> dict[str, str]:
    return {one["name"]: one["address"] for one in world.machines()}


def test_a_patch_release_reaches_every_machine_while_the_platform_answers(
    world: World,
) -> None:
    """Back to the older patch release: the same way as forth."""
    begin_with(world, NEW)
    with Load(world) as load, Probe(world) as probe:
        world.up()
    print(load.summary())
    print(probe.summary())
    assert probe.order_of_reboots() == CHAIN, probe.summary()
    assert probe.fewest_members() >= 2, probe.summary()
    assert all(counts["answered"] > counts["failed"] for counts in load.seen.values())
    settle(world, OLD)


def annotated(name: str, key: str) -> Callable[[World, str], bool]:
    def reached(world: World, _: str) -> bool:
        path = f"{{.metadata.annotations.{key.replace('.', chr(92) + '.')}}}"
        found = world.run("kubectl", "get", "node", name, "-o", f"jsonpath={path}", code=None)
        return bool(found.stdout.strip())

    return reached


def is_cordoned(name: str) -> Callable[[World, str], bool]:
    def reached(world: World, _: str) -> bool:
        path = "jsonpath={.spec.unschedulable}"
        return world.run("kubectl", "get", "node", name, "-o", path, code=None).stdout == "true"

    return reached


def away(name: str) -> Callable[[World, str], bool]:
    return lambda world, _: any(
        one["name"] == name and one["stage"] != "running" for one in world.machines()
    )


def runs(name: str, version: str) -> Callable[[World, str], bool]:
    return lambda world, _: versions(world).get(name) == f"v{version}"


KILLS = [
    Moment("as node01 is cordoned", is_cordoned("node01")),
    Moment("as node01 installs", annotated("node01", INSTALLING)),
    Moment("while node01 is away", away("node01")),
    Moment("as node01 runs the new Talos", runs("node01", NEW)),
    Moment("as node01's release is noted", said("ConfigurationApply node01 updating")),
    Moment("while the pods of node02 go", is_cordoned("node02"), 1.0),
    Moment("as node03 runs the new Talos", runs("node03", NEW), 1.0),
    Moment("as the worker is cordoned", is_cordoned("work01")),
]


def test_an_upgrade_that_is_killed_eight_times_converges(
    world: World, edit: Callable[[str, str], None], tmp_path: Path
) -> None:
    begin_with(world, OLD)
    edit(f"version: {OLD}", f"version: {NEW}")
    with Probe(world) as probe:
        for moment in KILLS:
            kill_at(world, moment, tmp_path / "up.log")
            world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
        world.up()
    print(probe.summary())
    assert probe.fewest_members() >= 2, probe.summary()
    settle(world, NEW)


def test_a_machine_that_rolls_back_stops_the_chain_at_the_first_machine(
    world: World, edit: Callable[[str, str], None]
) -> None:
    begin_with(world, NEW)
    edit(f"version: {OLD}", f"version: {next_patch(OLD, -1)}")
    dead = world.state / "machines" / "does-not-start" / f"v{next_patch(OLD, -1)}"
    dead.touch()
    with Load(world) as load:
        refused = world.up(code=None)
    dead.unlink()
    print(load.summary())
    text = refused.stdout + refused.stderr
    assert f"node01 (172.16.20.51): came back with Talos v{NEW}" in text, text
    assert versions(world) == dict.fromkeys(CHAIN, f"v{NEW}")
    assert cordoned(world) == []


def test_a_minor_version_reaches_every_machine_and_there_is_no_way_back_across_it(
    world: World, edit: Callable[[str, str], None]
) -> None:
    """The talosctl is that of the old line, and only says that it is of the new one."""
    up = ("pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
    edit(f"version: {OLD}", f"version: {NEXT_MINOR}")
    unfit = world.run(*up, code=None)
    assert f"does not fit Talos v{NEXT_MINOR}" in unfit.stdout + unfit.stderr
    with Load(world) as load, Probe(world) as probe:
        world.run("env", f"LAB_TALOSCTL_SAYS=v{NEXT_MINOR}", *up)
    print(load.summary())
    print(probe.summary())
    assert probe.order_of_reboots() == CHAIN, probe.summary()
    assert probe.fewest_members() >= 2, probe.summary()
    settle(world, NEXT_MINOR)
    edit(f"version: {NEXT_MINOR}", f"version: {OLD}")
    refused = world.up(code=None)
    assert "not down across one" in refused.stdout + refused.stderr
    assert versions(world) == dict.fromkeys(CHAIN, f"v{NEXT_MINOR}")
