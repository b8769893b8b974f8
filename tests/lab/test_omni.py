"""A cluster that Omni manages, over a simulated Omni: the real omnictl, and machines that join.

The server is the lab's own (`lab/internal/omni`); what it answers, and which source says so, stands
in its README. `make omnictl` builds omnictl, which takes minutes: of the weekly drill.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.versions import TALOS
from ops.rehearsal.procedures import next_patch
from ops.rehearsal.world import PROJECT, World, wait_until
from tests.lab.conftest import editing

pytestmark = pytest.mark.campaign

OMNICTL = PROJECT / ".lab" / "bin" / "omnictl"
WORKER = (
    "    - { name: node04, address: 172.16.20.54, role: worker, cpus: 4, memoryMiB: 16384, "
    "diskGiB: 100 }\n"
)
NEW = WORKER.replace("node04", "node05").replace(".54", ".55")
Object = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Name what is missing."""
    assert OMNICTL.is_file(), "no omnictl in .lab/bin: run `make omnictl`"


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the example of Omni with a CNI only: without one Omni calls no machine ready."""
    target = tmp_path_factory.mktemp("omni") / "Pulumi.omni.yaml"
    text = (PROJECT / "Pulumi.omni.yaml").read_text()
    start, services, _ = text.partition("    cilium: {}\n")
    assert services
    target.write_text(start + services)
    return target


def owner(world: World, command: str, code: int | None = 0) -> str:
    """Run omnictl as the person who runs Omni; the key stays out of the command line."""
    key = f"OMNI_SERVICE_ACCOUNT_KEY=$(cat {world.state / 'omni-owner'})"
    where = "OMNI_ENDPOINT=https://omni.example.internal"
    home = f"HOME={world.state}"
    return world.run("bash", "-c", f"{key} {where} {home} omnictl {command}", code=code).stdout


def nodes(world: World) -> dict[str, Object]:
    """Read the nodes of the cluster, by name."""
    found = json.loads(world.run("kubectl", "get", "nodes", "--output", "json").stdout)
    return {one["metadata"]["name"]: one for one in found["items"]}


def ready(world: World) -> set[str]:
    """Name the nodes that are ready."""
    return {
        name
        for name, one in nodes(world).items()
        for condition in one["status"]["conditions"]
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def talos(world: World) -> set[str]:
    """Give the releases of Talos that the nodes tell."""
    return {one["status"]["nodeInfo"]["osImage"] for one in nodes(world).values()}


ALL = {"node01", "node02", "node03", "node04"}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Let Omni make the cluster; the kubeconfig is the one from Omni."""
    world = make_world()
    world.up()
    world.write_credentials()
    return world


def test_omni_makes_a_cluster_of_machines_that_join(world: World) -> None:
    wait_until("all nodes to be ready", lambda: ready(world) == ALL)
    planes = {
        name
        for name, one in nodes(world).items()
        if "node-role.kubernetes.io/control-plane" in one["metadata"]["labels"]
    }
    assert planes == ALL - {"node04"}
    assert "https://omni.example.internal:8095" in (world.state / "kubeconfig").read_text()


def test_a_second_preview_is_empty(world: World) -> None:
    world.expect_no_changes()


def test_what_omni_has_of_the_cluster_is_valid_and_its_own_template_changes_nothing(
    world: World,
) -> None:
    file = world.state / "template.yaml"
    owner(world, f"cluster template export --cluster prod --output {file} --force")
    owner(world, f"cluster template validate --file {file}")
    assert owner(world, f"cluster template diff --file {file}").strip() == ""


def test_the_machines_answer_nobody_but_omni(world: World) -> None:
    asked = world.run("talosctl", "--nodes", "172.16.20.51", "version", "--insecure", code=None)
    assert asked.returncode != 0


def test_a_worker_more_is_a_line(world: World) -> None:
    text = world.stack_file.read_text()
    world.stack_file.write_text(text.replace(WORKER, WORKER + NEW))
    changed = world.preview()
    assert "node05" in json.dumps(changed["Gate omni-cluster"])
    world.up()
    wait_until("the worker to be ready", lambda: ready(world) == ALL | {"node05"})
    world.expect_no_changes()


def test_a_worker_less_leaves_the_cluster_before_its_machine_is_deleted(world: World) -> None:
    text = world.stack_file.read_text()
    world.stack_file.write_text(text.replace(NEW, ""))
    world.up()
    assert set(nodes(world)) == ALL
    assert "node05" not in {one["name"] for one in world.machines()}
    world.expect_no_changes()


def test_a_control_plane_is_replaced(world: World) -> None:
    before = {one["name"]: one["id"] for one in world.machines()}
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    (urn,) = (
        one["urn"]
        for one in state["deployment"]["resources"]
        if one["urn"].endswith("VirtualMachine::node02")
    )
    world.up("--replace", urn)
    after = {one["name"]: one["id"] for one in world.machines()}
    assert {name for name in before if before[name] != after[name]} == {"node02"}
    wait_until("all nodes to be ready", lambda: ready(world) == ALL)
    world.expect_no_changes()


def test_talos_moves_by_a_patch_release(world: World) -> None:
    newer = next_patch(TALOS)
    text = world.stack_file.read_text()
    assert text.count(f"version: {TALOS}\n") == 1
    world.stack_file.write_text(text.replace(f"version: {TALOS}\n", f"version: {newer}\n"))
    world.up(timeout=1200)
    assert talos(world) == {f"Talos (v{newer})"}
    wait_until("all nodes to be ready", lambda: ready(world) == ALL)
    world.expect_no_changes()


def test_a_machine_that_is_gone_for_good_is_taken_out_by_its_name(world: World) -> None:
    world.run("govc", "vm.destroy", "node04")
    text = world.stack_file.read_text().replace(WORKER, "")
    world.stack_file.write_text(text.replace("    tunnel:", "    lost: [node04]\n    tunnel:"))
    world.up("--refresh")
    assert set(nodes(world)) == ALL - {"node04"}
    world.expect_no_changes()


def test_a_wrong_key_is_named_before_a_machine_is_touched(world: World) -> None:
    before = {one["name"]: one["id"] for one in world.machines()}
    with editing(world) as replace:
        replace(
            "  platform:kubernetes:", "  platform:omniServiceAccountKey: x\n  platform:kubernetes:"
        )
        refused = world.run("pulumi", "preview", "--non-interactive", code=None)
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "platform:omniServiceAccountKey" in said
    assert {one["name"]: one["id"] for one in world.machines()} == before


def test_destroy_leaves_the_cluster_in_omni(world: World) -> None:
    world.destroy()
    assert world.machines() == []
    assert "prod" in owner(world, "get clusters")
