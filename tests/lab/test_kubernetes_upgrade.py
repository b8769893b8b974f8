"""Kubernetes goes to its next patch and minor release, on three control planes and a worker.

The API server, controller manager and scheduler of each version are real (`make upgrades` builds
them); so is `talosctl upgrade-k8s`. Kubelets are simulated.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components.talos import kubernetes_versions as versions
from components.talos.kubernetes_versions import API_SERVER, Running
from config.versions import KUBERNETES
from ops.rehearsal.killing import kill_tree
from ops.rehearsal.procedures import kubernetes_to_upgrade_to
from ops.rehearsal.world import LAB, PROJECT, World, WorldError, wait_until
from tests.background import Background
from tests.lab.probe import Probe

pytestmark = pytest.mark.campaign

FIRST, PATCH, MINOR = KUBERNETES, kubernetes_to_upgrade_to(), "1.35.6"
FOLDERS = {PATCH: "kubernetes-1.34", MINOR: "kubernetes-1.35"}
NODE03 = "    - { name: node03, address: 172.16.20.53, role: controlplane, "
WORKER = "    - { name: worker01, address: 172.16.20.61, role: worker, "
ALPHA = """
apiVersion: storage.k8s.io/v1alpha1
kind: VolumeAttributesClass
metadata: { name: gold }
driverName: csi.example.com
parameters: { iops: "4000" }
"""
SERVE_ALPHA = (
    '{"cluster": {"apiServer": {"extraArgs": {"runtime-config": "storage.k8s.io/v1alpha1=true"}}}}'
)
SERVE_NO_ALPHA = '{"cluster": {"apiServer": {"extraArgs": {"$patch": "delete"}}}}'
PLANES = [f"172.16.20.5{n}" for n in (1, 2, 3)]
KILLS = (
    "pre-pulling",
    "update kube-apiserver",
    "update kube-controller-manager",
    "update kubelet",
)
"""What the run tells when it is killed: one kill for each part of the order."""


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the production file with a worker, and of the services only the network."""
    for version, folder in FOLDERS.items():
        built = LAB.parent / folder / f"{API_SERVER}.version"
        assert built.is_file(), f"Kubernetes {version} is not built: run `make upgrades`"
        assert built.read_text() == f"v{version}"
    text = (PROJECT / "Pulumi.prod.yaml").read_text()
    machine = next(line for line in text.splitlines() if line.startswith(NODE03))
    text = text.replace(machine, f"{machine}\n{machine.replace(NODE03, WORKER)}")
    services = text.index("    metallb:\n")
    target = tmp_path_factory.mktemp("upgrade") / "Pulumi.prod.yaml"
    target.write_text(text[:services])
    return target


class Skew(Background):
    """Looks all along at which versions run beside each other."""

    def __init__(self, world: World) -> None:
        super().__init__(self._watch)
        self._world = world
        self.seen: list[tuple[str, ...]] = []
        self.faults: list[str] = []

    def _watch(self) -> None:
        while not self._stop.is_set():
            with suppress(WorldError, KeyError):
                running = look(self._world)
                self.faults += versions.skew(running)
                now = tuple(sorted(running.all))
                if not self.seen or self.seen[-1] != now:
                    self.seen.append(now)
            self._stop.wait(0.5)


def items(world: World, *what: str) -> list[dict[str, Any]]:
    got = world.run("kubectl", "--request-timeout=5s", "get", *what, "--output", "json")
    found: list[dict[str, Any]] = json.loads(got.stdout)["items"]
    return found


def look(world: World) -> Running:
    pods = items(world, "--namespace=kube-system", "pods", "--selector=tier=control-plane")
    programs = {
        (pod["spec"]["nodeName"], pod["metadata"]["labels"]["k8s-app"]): tag(pod) for pod in pods
    }
    return Running(
        {node: version for (node, name), version in programs.items() if name == API_SERVER},
        {key: version for key, version in programs.items() if key[1] != API_SERVER},
        {
            one["metadata"]["name"]: one["status"]["nodeInfo"]["kubeletVersion"].removeprefix("v")
            for one in items(world, "nodes")
        },
    )


def tag(pod: dict[str, Any]) -> str:
    return str(pod["spec"]["containers"][0]["image"].rpartition(":v")[2])


def set_version(world: World, version: str) -> None:
    text = world.stack_file.read_text()
    old = next(one for one in (FIRST, PATCH, MINOR) if f"    version: {one}\n" in text)
    world.stack_file.write_text(text.replace(f"    version: {old}\n", f"    version: {version}\n"))


def upgraded(world: World, version: str) -> None:
    assert look(world).all == {version}
    answered = json.loads(world.run("kubectl", "version", "--output", "json").stdout)
    assert answered["serverVersion"]["gitVersion"] == f"v{version}"
    world.expect_no_changes()


def upgrade(world: World, version: str, kills: tuple[str, ...] = ()) -> None:
    addresses = {one["metadata"]["name"]: address_of(one) for one in items(world, "nodes")}
    before = world.boot_ids(addresses)
    set_version(world, version)
    begin = time.monotonic()
    with Probe(world) as probe, Skew(world) as skew:
        for moment in kills:
            kill_when_told(world, moment)
            world.run("pulumi", "cancel", "--yes", "--non-interactive", code=None)
        world.up()
    print(f"{version}: {time.monotonic() - begin:.0f} s; {probe.summary()}; {skew.seen}")
    assert skew.faults == []
    assert len(skew.seen) > 1, "nothing was seen while two versions ran"
    assert probe.fewest_members() == len([one for one in addresses if one.startswith("node")])
    assert probe.answers > len(probe.failures)
    assert world.boot_ids(addresses) == before, "no machine reboots for another Kubernetes"
    upgraded(world, version)


def address_of(node: dict[str, Any]) -> str:
    return next(str(a["address"]) for a in node["status"]["addresses"] if a["type"] == "InternalIP")


def test_the_next_patch_release_runs_everywhere_and_nothing_is_left_to_change(
    world: World,
) -> None:
    upgrade(world, PATCH)


def test_an_object_of_a_removed_api_refuses_the_next_minor_release(world: World) -> None:
    patch_api_servers(world, SERVE_ALPHA, serve_alpha=True)
    file = world.state / "class.yaml"
    file.write_text(ALPHA)
    world.run("kubectl", "create", "-f", str(file))
    before = look(world)
    set_version(world, MINOR)
    try:
        refused = world.up(code=1)
    finally:
        # What the page says to do: written again, and the API servers have forgotten the requests.
        world.run("kubectl", "delete", "volumeattributesclass", "gold")
        patch_api_servers(world, SERVE_NO_ALPHA, serve_alpha=False)
    said = refused.stdout + refused.stderr
    assert "Kubernetes 1.35 no longer serves storage.k8s.io/v1alpha1" in said, said
    assert "gold (written by kubectl-create)" in said
    assert "write storage.k8s.io/v1 instead" in said
    assert look(world) == before, "it was touched"


def patch_api_servers(world: World, patch: str, *, serve_alpha: bool) -> None:
    """Patch the configuration of each, and wait until all have started again with it."""
    for address in PLANES:
        world.run("talosctl", "--nodes", address, "patch", "machineconfig", "--patch", patch)

    def answers(address: str, path: str) -> bool:
        server = ("--server", f"https://{address}:6443")
        return world.run("kubectl", *server, "get", "--raw", path, code=None).returncode == 0

    def settled() -> bool:
        with suppress(WorldError):  # the one that answers for all may be about to start again
            every = len(look(world).api_servers) == len(PLANES)
            return every and all(
                answers(one, "/readyz")
                and answers(one, "/apis/storage.k8s.io/v1alpha1") == serve_alpha
                for one in PLANES
            )
        return False

    wait_until("the API servers to have started with the patch", settled, poll=1)


def test_the_next_minor_release_runs_everywhere_though_its_run_is_killed_again_and_again(
    world: World,
) -> None:
    upgrade(world, MINOR, KILLS)


def test_an_older_minor_release_is_refused(world: World) -> None:
    set_version(world, PATCH)
    refused = world.up(code=1)
    assert f"{MINOR} runs already" in refused.stdout + refused.stderr
    assert look(world).all == {MINOR}
    set_version(world, MINOR)
    world.expect_no_changes()


def kill_when_told(world: World, moment: str) -> None:
    """Kill `pulumi up`, and all that it started, when its log tells the moment."""
    logs = world.state / "pulumi-home" / "platform-logs"
    known = set(logs.glob("*.log"))
    process = world.start_command(
        "pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--color=never"
    )
    said: list[str] = []

    def read() -> None:
        if process.stdout is not None:
            with process.stdout as lines:
                said.extend(lines)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def reached() -> bool:
        new = set(logs.glob("*.log")) - known
        return any(moment in one.read_text() for one in new) or process.poll() is not None

    wait_until(f"{moment!r} to be told", reached, seconds=600, poll=0.1)
    assert process.poll() is None, "".join(said)
    kill_tree(process.pid)
    process.wait(30)
    reader.join(30)
