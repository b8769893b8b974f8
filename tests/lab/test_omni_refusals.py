"""What is refused with a cluster that Omni manages, what `up` says, and how the next one goes on.

One world, from the first refusal to a cluster that runs: Omni is simulated, omnictl is real, and so
is what machines send. A pulled cable (`machines/unreachable`) keeps a machine from joining for as
long as a test needs; `omni-away` takes Omni's servers away, which go on with what they knew.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.conftest import editing
from tests.lab.omni_worlds import (
    ALL,
    ENDPOINT,
    NEW,
    WORKER,
    made,
    owner,
    ready,
    resources,
    with_a_network_only,
)

pytestmark = pytest.mark.campaign

KEY, TOKEN = "platform:omniServiceAccountKey", "platform:omniJoinToken"
UP = ("pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--color=never")
AWAY_SECONDS = 60


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_a_network_only(tmp_path_factory.mktemp("refusals") / "Pulumi.omni.yaml")


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Start a world in which nothing is made yet."""
    return make_world()


def registered(world: World) -> list[str]:
    """Give the types of what the state has, from the engine's own file of it."""
    (file,) = world.state.glob("backend/**/stacks/platform/omni.json")
    latest = json.loads(file.read_text())["checkpoint"]["latest"] or {}
    return [one["type"] for one in latest.get("resources") or []]


def get(world: World, key: str) -> str:
    return world.run("pulumi", "config", "get", key).stdout.strip()


def put(world: World, key: str, value: str) -> None:
    world.run("pulumi", "config", "set", "--secret", key, value)


@contextmanager
def secret(world: World, key: str, value: str) -> Iterator[None]:
    """Set a secret of the world's own, and set it back."""
    before = get(world, key)
    put(world, key, value)
    try:
        yield
    finally:
        put(world, key, before)


def refused(world: World) -> str:
    """Run an `up` that ends with an error, and give what it says."""
    done = world.up(code=None, timeout=900)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said
    return said


def new_token(world: World, name: str) -> str:
    return owner(world, f"jointoken create {name}").split()[-1]


class Up:
    """An `up` that runs beside the test."""

    def __init__(self, world: World, log: Path, *more: str) -> None:
        self._world = world
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                world.command(*UP, *more),
                cwd=world.project,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text()

    def until(self, what: str, there: Callable[[], bool]) -> None:
        """Wait for something; an `up` that ends before has failed the test."""

        def come() -> bool:
            assert self._process.poll() is None, self.said()
            return there()

        wait_until(what, come)

    def tells(self, text: str) -> None:
        """Wait until the run tells something."""
        logs = self._world.state / "pulumi-home" / "platform-logs"
        newest = max(logs.glob("*.log"), key=lambda one: one.stat().st_mtime, default=None)
        before = newest.read_text() if newest else ""

        def told() -> bool:
            now = max(logs.glob("*.log"), key=lambda one: one.stat().st_mtime).read_text()
            return text in now.removeprefix(before)

        self.until(f"{text!r} to be told", told)

    def end(self, code: int, seconds: float = 900) -> str:
        assert self._process.wait(seconds) == code, self.said()
        assert "Traceback" not in self.said()
        return self.said()


@contextmanager
def pulled(world: World, *names: str) -> Iterator[None]:
    """Keep machines from all networks."""
    files = [world.state / "machines" / "unreachable" / name for name in names]
    for file in files:
        file.touch()
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


@contextmanager
def omni_away(world: World) -> Iterator[None]:
    """Take Omni's servers away, and bring them back."""
    file = world.state / "omni-away"
    file.touch()
    wait_until("Omni to be away", lambda: not answers(world))
    try:
        yield
    finally:
        file.unlink()
        wait_until("Omni to be back", lambda: answers(world))


def answers(world: World) -> bool:
    connects = f"exec 3<>/dev/tcp/{ENDPOINT.removeprefix('https://')}/443"
    return world.run("bash", "-c", connects, code=None).returncode == 0


def urn(world: World, name: str) -> str:
    """Give a virtual machine's URN, as `pulumi stack --show-urns` shows it."""
    shown = world.run("pulumi", "stack", "--show-urns").stdout
    (found,) = re.findall(rf"\S+VirtualMachine::{name}\b", shown)
    return str(found)


# --- Before anything is made -------------------------------------------------------------------


def test_a_patch_that_omni_refuses_is_told_with_file_and_field_and_nothing_is_touched(
    world: World,
) -> None:
    patches = world.state / "patches"
    shutil.copytree(PROJECT / "clusters" / "prod", patches)
    # Of a second document, which neither omnictl nor Omni looks at.
    text = yaml.safe_dump_all(
        [
            {"apiVersion": "v1alpha1", "kind": "HostnameConfig", "auto": "stable"},
            {"machine": {"type": "controlplane"}, "cluster": {"id": "x"}},
        ]
    )
    (patches / "worker.yaml").write_text(text)
    with editing(world) as replace:
        replace("patches: clusters/prod", f"patches: {patches.relative_to(PROJECT)}")
        checked = world.run("python", "-m", "ops", "check", str(world.stack_file), code=1)
        said = refused(world)
    for told in (checked.stdout + checked.stderr, said):
        for word in ("worker.yaml", "machine.type", "cluster.id", "remove it"):
            assert word in told, told
    assert registered(world) in ([], ["pulumi:pulumi:Stack"])
    assert made(world) == {}


def test_a_key_that_has_ended_is_told_before_a_machine_is_made(world: World) -> None:
    printed = owner(
        world, "serviceaccount create ended --use-user-role=false --role Operator --ttl 3s"
    )
    key = next(one for one in printed.split() if "KEY=" in one).partition("KEY=")[2]

    def ended() -> bool:
        env = f"HOME={world.state} OMNI_ENDPOINT={ENDPOINT} OMNI_SERVICE_ACCOUNT_KEY={key}"
        return world.run("bash", "-c", f"{env} omnictl get clusters", code=None).returncode != 0

    wait_until("the key to end", ended)
    with secret(world, KEY, key):
        said = refused(world)
    for word in (KEY, "has it ended", "omnictl serviceaccount create", "pulumi config set"):
        assert word in said, said
    assert key not in said
    assert made(world) == {}


def test_a_token_that_omni_does_not_know_is_told_before_a_machine_is_made(world: World) -> None:
    with secret(world, TOKEN, "w7uVuW3zbVKIYQuzEcyetAHeYMeo5q2L9RvkAVfCfSCD"):
        said = refused(world)
    for word in (f"{TOKEN}: Omni does not know it", "omnictl jointoken create", "config set"):
        assert word in said, said
    assert made(world) == {}


def test_a_token_that_is_revoked_is_told_before_a_machine_is_made(world: World) -> None:
    token = new_token(world, "revoked")
    owner(world, f"jointoken revoke {token}")
    with secret(world, TOKEN, token):
        said = refused(world)
    assert f"{TOKEN}: it is revoked in Omni" in said
    assert token not in said
    assert made(world) == {}


# --- Machines that do not join -----------------------------------------------------------------


def test_machines_whose_token_is_revoked_before_they_join_are_each_named(
    world: World, tmp_path: Path
) -> None:
    world.destroy()  # All machines of a first `up` are made at once, and this is to be one.
    token = new_token(world, "short")
    with secret(world, TOKEN, token):
        with pulled(world, *ALL):
            up = Up(world, tmp_path / "up.log")
            up.until("the machines to be made", lambda: made(world).keys() == ALL)
            owner(world, f"jointoken revoke {token}")
        said = up.end(1)
    for name in ALL:
        assert f"platform:machines, {name}: did not join Omni: {TOKEN}: it is revoked" in said
    assert token not in said
    assert made(world).keys() == ALL


def test_machines_that_were_made_with_another_token_are_named_with_the_command_that_helps(
    world: World,
) -> None:
    before = made(world)
    said = refused(world)
    assert f"is not the present {TOKEN}: {', '.join(sorted(ALL))}." in said, said
    (command,) = set(re.findall(r"`pulumi up ((?:--replace \S+ ?)+)`", said))
    world.up(*shlex.split(command))
    world.write_credentials()
    after = made(world)
    assert after.keys() == ALL
    assert not {name for name in ALL if before[name] == after[name]}
    wait_until("all nodes to be ready", lambda: ready(world) == ALL)
    world.expect_no_changes()


def test_a_machine_that_joins_as_another_one_is_told_with_both_names_and_addresses(
    world: World, tmp_path: Path
) -> None:
    text = world.stack_file.read_text()
    world.stack_file.write_text(text.replace(WORKER, WORKER + NEW))
    card = {
        "addresses": ["172.16.20.77/24"],
        "gateway4": "172.16.20.1",
        "nameservers": {"addresses": ["172.16.20.1"]},
    }
    other = {
        "local-hostname": "other05",
        "network": {"version": 2, "ethernets": {"eth0": card}},
    }
    told = base64.b64encode(yaml.safe_dump(other).encode()).decode()
    with pulled(world, "node05"):
        up = Up(world, tmp_path / "up.log")
        up.until("node05 to be made", lambda: "node05" in made(world))
        up.until("node05 to be waited for", lambda: "VirtualMachine node05 created" in up.said())
        world.run("govc", "vm.power", "-off", "-force", "node05")
        world.run("govc", "vm.change", "-vm", "node05", "-e", f"guestinfo.metadata={told}")
        world.run("govc", "vm.power", "-on", "node05")
    said = up.end(1)
    for word in (
        "platform:machines, node05: joined, but not as node05 at 172.16.20.55",
        "Omni knows it as other05 at 172.16.20.77",
        "guestinfo.metadata",
        "pulumi up --replace URN",
    ):
        assert word in said, said
    assert ready(world) == ALL


# --- Omni away ---------------------------------------------------------------------------------


def test_a_machine_is_made_again_though_omni_is_away_for_a_minute_meanwhile(
    world: World, tmp_path: Path
) -> None:
    before = made(world)
    with pulled(world, "node05"):
        up = Up(world, tmp_path / "up.log", "--replace", urn(world, "node05"))
        up.until("node05 to be made", lambda: made(world).get("node05", "") != before["node05"])
        up.until("node05 to be waited for", lambda: "VirtualMachine node05" in up.said())
        with omni_away(world):
            up.tells("Omni does not answer")
            time.sleep(AWAY_SECONDS)
            up.until("it waits", lambda: True)
    up.end(0)
    wait_until("the worker to be ready", lambda: ready(world) == ALL | {"node05"})
    assert {name for name, one in made(world).items() if before[name] != one} == {"node05"}
    world.expect_no_changes()


def interval(world: World) -> int:
    """Give the hours between backups, as Omni has them."""
    (found,) = resources(world, "cluster", "prod")
    return int(found["spec"]["backupconfiguration"]["interval"]["seconds"]) // 3600


def set_interval(world: World, hours: int) -> None:
    text = world.stack_file.read_text()
    world.stack_file.write_text(re.sub(r"backupInterval: \d+h", f"backupInterval: {hours}h", text))


def test_a_sync_waits_for_an_omni_that_is_away_for_a_minute(world: World, tmp_path: Path) -> None:
    set_interval(world, 2)
    with omni_away(world):
        up = Up(world, tmp_path / "up.log")
        up.tells("Omni does not answer")
        time.sleep(AWAY_SECONDS)
        up.until("it waits", lambda: True)
    up.end(0)
    assert interval(world) == 2
    world.expect_no_changes()


def test_an_omni_that_stays_away_is_told_and_the_next_up_does_what_this_one_could_not(
    world: World,
) -> None:
    set_interval(world, 3)
    with omni_away(world):
        said = refused(world)
    assert "platform:omni.endpoint: Omni does not answer" in said
    assert "then run `pulumi up` again" in said
    assert interval(world) == 2
    world.up()
    assert interval(world) == 3
    assert ready(world) == ALL | {"node05"}
    world.expect_no_changes()
