"""A cluster that Omni manages, over a simulated Omni: the real omnictl, and machines that join.

The server is the lab's own (`lab/internal/omni`); what it answers, and which source says so, stands
in its README. `make omnictl` builds omnictl, which takes minutes: of the weekly drill.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.versions import TALOS
from ops.rehearsal.procedures import next_patch
from ops.rehearsal.world import World, wait_until
from tests.lab.conftest import editing
from tests.lab.omni_worlds import (
    ALL,
    NEW,
    WORKER,
    made,
    nodes,
    owner,
    ready,
    with_a_network_only,
)

pytestmark = pytest.mark.campaign


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the example of Omni with a CNI only: without one Omni calls no machine ready."""
    return with_a_network_only(tmp_path_factory.mktemp("omni") / "Pulumi.omni.yaml")


def talos(world: World) -> set[str]:
    """Give the releases of Talos that the nodes tell."""
    return {one["status"]["nodeInfo"]["osImage"] for one in nodes(world).values()}


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
    before = made(world)
    state = json.loads(world.run("pulumi", "stack", "export").stdout)
    (urn,) = (
        one["urn"]
        for one in state["deployment"]["resources"]
        if one["urn"].endswith("VirtualMachine::node02")
    )
    world.up("--replace", urn)
    after = made(world)
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
    before = made(world)
    with editing(world) as replace:
        replace(
            "  platform:kubernetes:", "  platform:omniServiceAccountKey: x\n  platform:kubernetes:"
        )
        refused = world.run("pulumi", "preview", "--non-interactive", code=None)
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "platform:omniServiceAccountKey" in said
    assert made(world) == before


def test_destroy_leaves_the_cluster_in_omni(world: World) -> None:
    world.destroy()
    assert world.machines() == []
    assert "prod" in owner(world, "get clusters")
