"""Backups that Omni takes, what drift says when they stop, and a restore as its page says it.

Omni is simulated; etcd, its snapshots and omnictl are real. An hour of the schedule of backups
takes some seconds in this world (`--omni-hour`). The real one comes up to ten minutes late.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ops.rehearsal.world import World, wait_until
from tests.lab.omni_worlds import (
    ALL,
    Object,
    owner,
    ready,
    resources,
    with_a_network_only,
)

pytestmark = pytest.mark.campaign

HOUR = "20s"
SET = "prod-control-planes"
LATER = """
import datetime as dt
from ops.drift import command
now = dt.datetime.now(tz=dt.UTC) + dt.timedelta(hours={hours})
print("\\n".join(one.what for one in command.look(now).findings if one.place == "Omni"))
"""
"""Looks as on a computer whose clock is so many hours on."""


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_a_network_only(tmp_path_factory.mktemp("backups") / "Pulumi.omni.yaml")


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world("--omni-hour", HOUR)
    world.up()
    world.write_credentials()
    return world


def backups(world: World) -> list[Object]:
    """List Omni's backups, the oldest first."""
    found = resources(world, "etcdbackup", "--selector", "omni.sidero.dev/cluster=prod")
    return sorted(found, key=lambda one: int(one["spec"]["createdat"]["seconds"]))


def newest(world: World) -> Object:
    return backups(world)[-1]


def drift_of_omni(world: World, hours: int = 0) -> str:
    return world.run("python", "-c", LATER.format(hours=hours)).stdout.strip()


def keep(world: World, name: str) -> None:
    world.run("kubectl", "create", "configmap", name, f"--from-literal=name={name}")


def kept(world: World) -> set[str]:
    shown = world.run("kubectl", "get", "configmaps", "--output", "json").stdout
    return {one["metadata"]["name"] for one in json.loads(shown)["items"]}


def test_a_backup_appears_each_interval(world: World) -> None:
    wait_until("a third backup", lambda: len(backups(world)) > 2)
    assert len({one["spec"]["snapshot"] for one in backups(world)}) > 2
    assert drift_of_omni(world) == ""


def test_drift_tells_the_age_of_the_newest_backup_once_they_stop(world: World) -> None:
    folder = world.state / "omni" / "backups"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()  # a file where a folder is to be: no backup can be written
    try:
        wait_until("a backup to fail", lambda: "not a directory" in status(world))
        assert "Omni's newest backup was taken 3 hours ago" in drift_of_omni(world, 3)
    finally:
        folder.unlink()
        aside.rename(folder)
    wait_until("a backup to be taken again", lambda: "not a directory" not in status(world))


def status(world: World) -> str:
    """Give what the page of the finding names: why there is no newer one."""
    (found,) = resources(world, "etcdbackupstatus", "prod")
    return str(found["spec"].get("error", ""))


def test_a_restore_gives_what_was_there_at_the_backup_and_nothing_later(
    world: World,
) -> None:
    keep(world, "before")
    known = newest(world)["spec"]["snapshot"]
    wait_until("a backup with it", lambda: newest(world)["spec"]["snapshot"] != known)
    snapshot = newest(world)["spec"]["snapshot"]
    keep(world, "after")
    assert {"before", "after"} <= kept(world)

    uuid = resources(world, "clusteruuid", "prod")[0]["spec"]["uuid"]
    file = world.state / "template.yaml"
    owner(world, f"cluster template export --cluster prod --output {shlex.quote(str(file))}")
    owner(world, f"delete machineset {SET}")
    parts = list(yaml.safe_load_all(file.read_text()))
    (planes,) = (one for one in parts if one["kind"] == "ControlPlane")
    planes["bootstrapSpec"] = {"clusterUUID": uuid, "snapshot": snapshot}
    file.write_text(yaml.safe_dump_all(parts))
    owner(world, f"cluster template sync --file {shlex.quote(str(file))}")
    owner(world, f"cluster template status --file {shlex.quote(str(file))} --wait 10m")

    wait_until("all nodes to be ready", lambda: ready(world) == ALL)
    assert "before" in kept(world)
    assert "after" not in kept(world)


def test_a_cluster_that_was_restored_is_the_stacks_as_before(world: World) -> None:
    world.expect_no_changes()
    assert drift_of_omni(world) == ""
    text = world.stack_file.read_text()
    assert "backupInterval: 1h" in text
    world.stack_file.write_text(text.replace("backupInterval: 1h", "backupInterval: 2h"))
    world.up()
    (cluster,) = resources(world, "cluster", "prod")
    assert int(cluster["spec"]["backupconfiguration"]["interval"]["seconds"]) == 2 * 3600
    (planes,) = resources(world, "machineset", SET)
    assert planes["spec"]["bootstrapspec"]["snapshot"]
    world.expect_no_changes()
