"""A cluster of machines that join Omni by WireGuard inside gRPC, and another Kubernetes in it.

Omni is simulated, WireGuard and the tunnel are the vendor's. The programs of both Kubernetes
releases are real (`make upgrades` builds the other one); kubelets are simulated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.talos.kubernetes_versions import API_SERVER
from config.versions import KUBERNETES
from ops.rehearsal.procedures import kubernetes_to_upgrade_to
from ops.rehearsal.world import LAB, World, wait_until
from tests.lab.omni_worlds import ALL, nodes, owner, ready, resources, with_a_network_only

pytestmark = pytest.mark.campaign

PATCH = kubernetes_to_upgrade_to()


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Name what is missing."""
    other = LAB.parent / f"kubernetes-{KUBERNETES.rpartition('.')[0]}" / f"{API_SERVER}.version"
    assert other.is_file(), f"Kubernetes {PATCH} is not built: run `make upgrades`"
    assert other.read_text() == f"v{PATCH}"


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = with_a_network_only(tmp_path_factory.mktemp("tunnel") / "Pulumi.omni.yaml")
    text = target.read_text()
    assert "    tunnel: false" in text
    target.write_text(text.replace("    tunnel: false", "    tunnel: true"))
    return target


def test_machines_that_join_inside_grpc_are_made_a_cluster(world: World) -> None:
    wait_until("all nodes to be ready", lambda: ready(world) == ALL)
    links = resources(world, "link")
    assert len(links) == len(ALL)
    for link in links:
        assert link["spec"]["virtualaddrport"], "this one joined by UDP"
    world.expect_no_changes()


def versions(world: World) -> set[str]:
    """Give the releases that kubelets tell, and those of the control planes' programs."""
    shown = world.run(
        *("kubectl", "--namespace=kube-system", "get", "pods"),
        *("--selector=tier=control-plane", "--output", "json"),
    )
    pods: list[dict[str, Any]] = json.loads(shown.stdout)["items"]
    planes = {one["spec"]["containers"][0]["image"].rpartition(":")[2] for one in pods}
    assert len(pods) == 3 * (len(ALL) - 1)
    return planes | {one["status"]["nodeInfo"]["kubeletVersion"] for one in nodes(world).values()}


def test_kubernetes_moves_by_a_patch_release_on_every_node(world: World) -> None:
    assert versions(world) == {f"v{KUBERNETES}"}
    text = world.stack_file.read_text()
    assert text.count(f"    version: {KUBERNETES}\n") == 1
    world.stack_file.write_text(
        text.replace(f"    version: {KUBERNETES}\n", f"    version: {PATCH}\n")
    )
    changed = world.preview()
    assert PATCH in json.dumps(changed["Gate omni-cluster"])
    world.up(timeout=1800)
    assert versions(world) == {f"v{PATCH}"}
    answered = json.loads(world.run("kubectl", "version", "--output", "json").stdout)
    assert answered["serverVersion"]["gitVersion"] == f"v{PATCH}"
    assert ready(world) == ALL
    assert "healthy" in owner(world, "cluster status prod").lower()
    world.expect_no_changes()
