"""The upgrade of one machine, against machines and a Kubernetes API that are this test's."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest

from clients import talosctl
from clients.kubernetes_api import ApiError, KubernetesApi
from clients.node_drain import CORDONED_FOR
from clients.waiting import Clock, StoppedError
from components.talos.etcd import HealthError, Member
from components.talos.health import Observer
from components.talos.rollout import Rollout
from components.talos.snapshots import KEPT, Snapshots
from components.talos.upgrade import INSTALLING, Release, Target, Upgrade
from tests.unit.fake_talos import FakeMachine, FakeTalos

SCHEMATIC = FakeMachine("", "").schematic
DRAIN_SECONDS = 300.0
OTHER_SCHEMATIC = "f" * 64
BUDGET = "The disruption budget web needs 2 healthy pods and has 2 currently"


def pod(name: str, **about: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop"} | about
    return {"metadata": metadata, "status": {"phase": "Running"}}


@dataclass
class FakeKubernetes:
    """A Kubernetes API: nodes, and the pods of the node that is drained."""

    nodes: dict[str, dict[str, Any]]
    pods: list[dict[str, Any]] = field(default_factory=list)
    keeps: dict[str, str] = field(default_factory=dict)
    """What the API answers to the eviction of a pod."""
    away: int = 0
    """How many calls it does not answer."""
    evicted: list[str] = field(default_factory=list)

    def called(self) -> None:
        if self.away:
            self.away -= 1
            raise ApiError("Connection refused")

    def get(self, path: str) -> dict[str, Any]:
        self.called()
        if path == "/api/v1/nodes":
            return {"items": copy.deepcopy(list(self.nodes.values()))}
        assert path.startswith("/api/v1/pods?fieldSelector=spec.nodeName=")
        return {"items": copy.deepcopy(self.pods)}

    def find(self, path: str) -> dict[str, Any] | None:
        self.called()
        return copy.deepcopy(self.nodes.get(path.removeprefix("/api/v1/nodes/")))

    def merge(self, path: str, body: Mapping[str, Any]) -> None:
        self.called()
        node = self.nodes[path.removeprefix("/api/v1/nodes/")]
        node["spec"] |= body.get("spec", {})
        for name, value in body["metadata"]["annotations"].items():
            node["metadata"]["annotations"].pop(name, None)
            if value is not None:
                node["metadata"]["annotations"][name] = value

    def evict(self, namespace: str, name: str) -> str | None:
        self.called()
        if why := self.keeps.get(name):
            return why
        self.evicted.append(f"{namespace}/{name}")
        self.pods = [one for one in self.pods if one["metadata"]["name"] != name]
        return None

    def cordoned(self) -> list[str]:
        return [name for name, one in self.nodes.items() if one["spec"].get("unschedulable")]


def node(name: str, *, ready: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name, "annotations": {}},
        "spec": {},
        "status": {"conditions": conditions},
    }


@dataclass
class Scene:
    """Three control planes and a worker, and what an `up` would do to one of them."""

    where: Path
    talos: FakeTalos = field(
        default_factory=lambda: FakeTalos(
            [FakeMachine(f"node0{n}", f"172.16.20.5{n}") for n in (1, 2, 3)]
            + [FakeMachine("worker01", "172.16.20.61", etcd=False, pods=False)]
        )
    )
    kubernetes: FakeKubernetes = field(
        default_factory=lambda: FakeKubernetes(
            {name: node(name) for name in ("node01", "node02", "node03", "worker01")},
            [pod("web-1"), pod("web-2")],
        )
    )
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self.where, "prod")

    @property
    def members(self) -> list[Member]:
        return [
            Member(one.name, one.address, control_plane=one.name.startswith("node"))
            for one in self.talos.machines
        ]

    def machine(self, name: str = "node01") -> FakeMachine:
        (found,) = (one for one in self.talos.machines if one.name == name)
        return found

    def run(
        self, name: str = "node01", version: str = "v1.13.10", schematic: str = SCHEMATIC
    ) -> None:
        (member,) = (one for one in self.members if one.name == name)
        image = f"factory/vmware-installer/{schematic}:{version}"
        clock = Clock(lambda: self.talos.now, self.talos.sleep, self.told.append)
        with talosctl.connect("talosconfig", self.talos.run, self.talos.dial) as talos:
            Upgrade(
                Observer(talos, self.members, clock),
                member,
                Target(Release(version, schematic), image, DRAIN_SECONDS),
                "new configuration",
                self.snapshots,
                lambda _: cast("KubernetesApi", self.kubernetes),
            ).run()

    def refused(self, name: str = "node01", version: str = "v1.13.10") -> str:
        """Give what a run stops with."""
        with pytest.raises(HealthError) as caught:
            self.run(name, version)
        return str(caught.value)

    def did(self, *words: str) -> list[str]:
        """Give the commands of talosctl that begin with one of these."""
        return [one for one in self.talos.commands if one.startswith(words)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "snapshots")


CHANGES = ("image pull", "etcd snapshot", "apply-config --mode staged", "upgrade", "reboot")


# --- What is there already ------------------------------------------------------------------------


def test_a_machine_that_runs_the_release_is_left_alone(scene: Scene) -> None:
    scene.run(version="v1.13.9")
    assert scene.did(*CHANGES) == []
    assert scene.kubernetes.evicted == []


def test_a_machine_that_does_not_tell_its_schematic_is_not_upgraded_for_it(scene: Scene) -> None:
    scene.machine().schematic = ""
    scene.run(version="v1.13.9")
    assert scene.did(*CHANGES) == []


def test_a_new_machine_in_maintenance_mode_is_made_from_the_new_image_already(
    scene: Scene,
) -> None:
    scene.machine().maintenance = True
    scene.run()
    assert scene.did(*CHANGES) == []


def test_before_there_is_a_cluster_nobody_asks_its_api(scene: Scene) -> None:
    for one in scene.talos.machines:
        one.etcd = False
    scene.kubernetes.away = 1000
    scene.run(version="v1.13.9")
    assert scene.talos.now == 0


# --- An upgrade -----------------------------------------------------------------------------------


def test_a_machine_is_fetched_for_drained_installed_seen_and_takes_pods_again(
    scene: Scene,
) -> None:
    scene.run()
    image = f"factory/vmware-installer/{SCHEMATIC}:v1.13.10"
    assert scene.did(*CHANGES) == [
        f"image pull {image} --namespace system @172.16.20.51",
        "etcd snapshot @172.16.20.51",
        f"upgrade --image {image} --wait=false --drain=false @172.16.20.51",
    ]
    assert scene.kubernetes.evicted == ["shop/web-1", "shop/web-2"]
    assert scene.machine().version == "v1.13.10"
    assert scene.kubernetes.cordoned() == []
    assert scene.kubernetes.nodes["node01"]["metadata"]["annotations"] == {}


def test_another_schematic_of_the_same_version_is_an_upgrade_too(scene: Scene) -> None:
    scene.run(version="v1.13.9", schematic=OTHER_SCHEMATIC)
    assert scene.machine().schematic == OTHER_SCHEMATIC


def test_an_older_patch_is_the_way_back(scene: Scene) -> None:
    scene.run(version="v1.13.8")
    assert scene.machine().version == "v1.13.8"


def test_a_worker_needs_no_snapshot(scene: Scene) -> None:
    scene.run("worker01")
    assert scene.did("etcd snapshot") == []
    assert scene.machine("worker01").version == "v1.13.10"


def test_one_snapshot_a_run_is_taken_its_place_told_and_only_its_owner_reads_it(
    scene: Scene,
) -> None:
    scene.run("node01")
    scene.run("node02")
    (file,) = scene.where.iterdir()
    assert re.fullmatch(r"prod-\d{8}T\d{6}Z-etcd-before-talos-v1\.13\.10\.snapshot", file.name)
    assert file.stat().st_mode & 0o077 == 0
    assert scene.where.stat().st_mode & 0o077 == 0
    assert any(str(file) in text and "Secrets" in text for text in scene.told)


def test_old_snapshots_are_removed(scene: Scene) -> None:
    for patch in range(1, 5):
        scene.snapshots = Snapshots(scene.where, "prod")
        scene.run(version=f"v1.13.{9 + patch}")
    assert len(list(scene.where.iterdir())) == KEPT


def test_a_snapshot_takes_no_place_of_another_stacks_or_of_an_earlier_runs(scene: Scene) -> None:
    scene.where.mkdir(mode=0o755)
    name = "etcd-before-talos-v1.13.10.snapshot"
    others = [f"prod-eu-20200101T00000{n}Z-{name}" for n in range(4)]
    for one in (*others, f"prod-20200101T000000Z-{name}"):
        (scene.where / one).write_text("earlier")
    scene.run()
    kept = sorted(one.name for one in scene.where.iterdir())
    assert kept[-4:] == others
    assert len(kept) == len(others) + 2
    assert (scene.where / f"prod-20200101T000000Z-{name}").read_text() == "earlier"
    assert scene.where.stat().st_mode & 0o077 == 0


def test_nothing_is_left_of_a_snapshot_that_was_cut_off(scene: Scene) -> None:
    """A talosctl that is ended leaves what it has: Secrets in plain text."""
    scene.where.mkdir()
    (scene.where / "prod-20200101T000000Z-etcd-before-talos-v1.13.9.snapshot.part").touch()
    talos_run = scene.talos.run

    def run(arguments: Any, seconds: float) -> Any:
        if arguments[:2] == ["etcd", "snapshot"]:
            Path(f"{arguments[2]}.part").write_text("the first Secret")
            raise StoppedError("stopped by Ctrl-C")
        return talos_run(arguments, seconds)

    scene.talos.run = run  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        scene.run()
    assert list(scene.where.iterdir()) == []


def test_what_belongs_to_the_node_or_has_ended_is_not_evicted(scene: Scene) -> None:
    owner = {"kind": "DaemonSet", "controller": True}
    done = pod("done")
    done["status"]["phase"] = "Succeeded"
    scene.kubernetes.pods = [
        pod("agent", ownerReferences=[owner]),
        pod("kube-apiserver", annotations={"kubernetes.io/config.mirror": "x"}),
        done,
        pod("web", ownerReferences=[{"kind": "ReplicaSet", "controller": True}]),
    ]
    scene.run()
    assert scene.kubernetes.evicted == ["shop/web"]


def test_a_pod_that_nobody_makes_again_is_named_once(scene: Scene) -> None:
    owner = {"kind": "ReplicaSet", "controller": True}
    scene.kubernetes.pods = [pod("by-hand"), pod("web", ownerReferences=[owner])]
    scene.kubernetes.keeps = {"web": BUDGET}
    scene.refused()
    told = [text for text in scene.told if "no controller makes these again" in text]
    assert told == ["node01: no controller makes these again: pod by-hand in namespace shop"]


def test_a_configuration_that_needs_a_reboot_shares_it_with_the_upgrade(scene: Scene) -> None:
    scene.machine().reboots = True
    scene.run()
    assert scene.machine().staged == "new configuration"
    assert scene.machine().boots == 1


def test_one_that_needs_no_reboot_follows_as_a_change_of_its_own(scene: Scene) -> None:
    scene.run()
    assert scene.machine().staged == ""


def test_a_configuration_that_is_not_taken_for_the_next_boot_follows_the_upgrade(
    scene: Scene,
) -> None:
    scene.machine().reboots, scene.machine().refuses = True, "unknown document"
    scene.run()
    assert scene.machine().version == "v1.13.10"
    assert any("follows after the upgrade: unknown document" in text for text in scene.told)


def test_talosctl_of_an_older_line_knows_no_drain(scene: Scene) -> None:
    scene.machine().version = "v1.12.3"
    scene.run(version="v1.12.4")
    assert scene.did("upgrade --image")[0].endswith("--wait=false @172.16.20.51")


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1.15.0", "v1.12.9", "v2.0.0"])
def test_a_path_that_talos_does_not_support_is_refused_before_anything_is_touched(
    scene: Scene, version: str
) -> None:
    said = scene.refused(version=version)
    assert f"platform:talos.version = {version[1:]}: it runs v1.13.9" in said
    assert "one minor version at a time" in said
    assert scene.did(*CHANGES) == []
    assert scene.kubernetes.cordoned() == []


def test_no_machine_is_touched_while_another_member_of_etcd_is_unhealthy(scene: Scene) -> None:
    scene.machine("node02").stage = "booting"
    said = scene.refused()
    assert "node02 (172.16.20.52) lacks stage: booting" in said
    assert scene.did(*CHANGES) == []


def test_no_machine_is_touched_while_another_machines_node_is_not_ready(scene: Scene) -> None:
    scene.kubernetes.nodes["worker01"] = node("worker01", ready=False)
    assert "not ready: worker01" in scene.refused()
    assert scene.did(*CHANGES) == []


def test_a_member_of_etcd_that_goes_away_while_pods_move_keeps_the_machine_up(
    scene: Scene,
) -> None:
    """The first look at etcd may be half an hour old when the pods have gone."""
    scene.kubernetes.pods = [pod("slow", deletionTimestamp="now")]

    def lose() -> None:
        scene.kubernetes.pods = []
        scene.machine("node02").stage = "rebooting"

    later(scene, 60, lose)
    said = scene.refused()
    assert "node02 (172.16.20.52) lacks stage: rebooting" in said
    assert scene.did("upgrade", "reboot") == []
    assert scene.kubernetes.cordoned() == []


def test_an_installer_that_cannot_be_fetched_is_told_before_a_pod_is_moved(scene: Scene) -> None:
    scene.talos.images = frozenset()
    said = scene.refused()
    assert "not touched. It cannot fetch the installer factory/vmware-installer/" in said
    assert "not found" in said
    assert "platform:talos.version" in said
    assert scene.kubernetes.evicted == []
    assert scene.did("upgrade", "etcd snapshot") == []


def test_a_budget_that_blocks_is_named_with_pod_and_namespace_and_the_node_takes_pods_again(
    scene: Scene,
) -> None:
    scene.kubernetes.keeps = {"web-2": BUDGET}
    said = scene.refused()
    assert f"pod web-2 in namespace shop: {BUDGET}" in said
    assert "web-1" not in said
    assert f"within {DRAIN_SECONDS:.0f} s" in said
    assert "docs/procedures/upgrade-talos.md" in said
    assert scene.did("upgrade") == []
    assert scene.kubernetes.cordoned() == []
    # Once the budget is gone, the next run finishes.
    scene.kubernetes.keeps = {}
    scene.run()
    assert scene.machine().version == "v1.13.10"


def test_a_pod_that_takes_long_to_end_is_waited_for(scene: Scene) -> None:
    ending = pod("slow", deletionTimestamp="now", deletionGracePeriodSeconds=60)
    scene.kubernetes.pods = [ending]

    def tick() -> None:
        if scene.talos.now > 50:
            scene.kubernetes.pods = []

    scene.talos.tick = tick
    scene.run()
    assert "slow" not in " ".join(scene.kubernetes.evicted)
    assert any("it is ending, which may take 60 s" in text for text in scene.told)


def test_a_node_whose_kubelet_is_gone_tells_the_end_of_no_pod_and_is_upgraded_all_the_same(
    scene: Scene,
) -> None:
    """An upgrade may be what the machine needs; its pods end with it."""
    scene.kubernetes.nodes["node01"] = node("node01", ready=False)
    scene.kubernetes.pods = [pod("stuck", deletionTimestamp="now"), pod("web-1")]
    scene.kubernetes.evict = lambda *_: ending()  # type: ignore[method-assign]

    def ending() -> None:
        scene.kubernetes.pods[1]["metadata"]["deletionTimestamp"] = "now"

    scene.run()
    assert scene.machine().version == "v1.13.10"
    assert scene.kubernetes.cordoned() == []


def test_a_node_that_a_person_cordoned_stays_cordoned(scene: Scene) -> None:
    scene.kubernetes.nodes["node01"]["spec"]["unschedulable"] = True
    scene.run()
    assert scene.kubernetes.cordoned() == ["node01"]
    assert scene.machine().version == "v1.13.10"


# --- What a killed run left -----------------------------------------------------------------------


def test_a_machine_that_was_upgraded_and_is_still_cordoned_takes_pods_again(scene: Scene) -> None:
    left = scene.kubernetes.nodes["node01"]
    left["spec"]["unschedulable"] = True
    left["metadata"]["annotations"][CORDONED_FOR] = "upgrade to v1.13.10"
    scene.machine().version = "v1.13.10"
    scene.machine().unmet = {"nodeReady": "not yet"}
    later(scene, 20, scene.machine().unmet.clear)
    scene.run()
    assert scene.talos.now >= 20
    assert scene.kubernetes.cordoned() == []
    assert scene.did(*CHANGES) == []


@pytest.mark.parametrize("stage", ["rebooting", "upgrading", "installing"])
def test_a_machine_that_is_on_its_way_is_waited_for_and_looked_at_then(
    scene: Scene, stage: str
) -> None:
    machine = scene.machine()
    machine.stage = stage

    def arrive() -> None:
        machine.stage, machine.version = "running", "v1.13.10"

    later(scene, 30, arrive)
    scene.run()
    assert scene.did(*CHANGES) == []


def test_an_installation_that_still_runs_is_waited_for(scene: Scene) -> None:
    scene.machine().busy = 3
    scene.run()
    assert scene.machine().version == "v1.13.10"


def test_what_a_killed_run_installed_is_started_and_not_installed_again(scene: Scene) -> None:
    """The boot loader has two places: a second installation would overwrite the way back."""
    machine, image = scene.machine(), f"factory/vmware-installer/{SCHEMATIC}:v1.13.10"
    installing = {INSTALLING: f"{machine.boot} {image}"}
    scene.kubernetes.nodes["node01"]["metadata"]["annotations"] = installing
    machine.installed = ("v1.13.10", SCHEMATIC)
    scene.run()
    assert machine.version == "v1.13.10"
    assert scene.did("upgrade") == []
    assert scene.kubernetes.evicted == ["shop/web-1", "shop/web-2"]
    assert scene.kubernetes.cordoned() == []
    assert scene.did("reboot") == ["reboot --mode powercycle --wait=false @172.16.20.51"]


def test_an_installation_that_a_kill_cut_short_is_made_again_after_a_reboot(scene: Scene) -> None:
    machine, image = scene.machine(), f"factory/vmware-installer/{SCHEMATIC}:v1.13.10"
    installing = {INSTALLING: f"{machine.boot} {image}"}
    scene.kubernetes.nodes["node01"]["metadata"]["annotations"] = installing
    scene.run()
    assert machine.version == "v1.13.10"
    assert len(scene.did("upgrade")) == 1


def test_an_installation_of_another_release_in_this_boot_is_started_first_too(
    scene: Scene,
) -> None:
    """A run was killed, then the settings were changed: a second installation is one too many."""
    machine, image = scene.machine(), f"factory/vmware-installer/{SCHEMATIC}:v1.13.11"
    installing = {INSTALLING: f"{machine.boot} {image}"}
    scene.kubernetes.nodes["node01"]["metadata"]["annotations"] = installing
    machine.installed = ("v1.13.11", SCHEMATIC)
    scene.run()
    assert scene.did("reboot", "upgrade --image")[0].startswith("reboot")
    assert machine.version == "v1.13.10"
    assert scene.kubernetes.cordoned() == []
    assert scene.kubernetes.nodes["node01"]["metadata"]["annotations"] == {}


def test_a_node_takes_pods_again_when_what_follows_a_cut_short_installation_is_refused(
    scene: Scene,
) -> None:
    machine, image = scene.machine(), f"factory/vmware-installer/{SCHEMATIC}:v1.13.10"
    installing = {INSTALLING: f"{machine.boot} {image}"}
    scene.kubernetes.nodes["node01"]["metadata"]["annotations"] = installing
    talos_run = scene.talos.run

    def run(arguments: Any, seconds: float) -> Any:
        if arguments[0] == "reboot":
            scene.talos.images = frozenset()
        return talos_run(arguments, seconds)

    scene.talos.run = run  # type: ignore[method-assign]
    assert "cannot fetch the installer" in scene.refused()
    assert scene.did("reboot")
    assert scene.kubernetes.cordoned() == []


def test_a_cordoned_node_is_not_forgotten_while_etcd_elects_a_leader(scene: Scene) -> None:
    left = scene.kubernetes.nodes["node01"]
    left["spec"]["unschedulable"] = True
    left["metadata"]["annotations"][CORDONED_FOR] = "upgrade to v1.13.10"
    scene.machine().version = "v1.13.10"
    for one in scene.talos.machines[:3]:
        one.alone = True

    def elect() -> None:
        for one in scene.talos.machines:
            one.alone = False

    later(scene, 4, elect)
    scene.run()
    assert scene.kubernetes.cordoned() == []


def test_a_lost_quorum_is_named_where_a_killed_run_is_to_be_finished(scene: Scene) -> None:
    for one in scene.talos.machines[:3]:
        one.alone = True
    assert "etcd has lost its quorum" in scene.refused(version="v1.13.9")


def test_a_new_boot_owes_nothing_to_an_earlier_installation(scene: Scene) -> None:
    installing = {INSTALLING: f"another-boot {scene.machine().boot}"}
    scene.kubernetes.nodes["node01"]["metadata"]["annotations"] = installing
    scene.run()
    assert scene.did("reboot") == []


@pytest.mark.parametrize("step", range(1, 60))
def test_a_run_that_is_killed_at_any_call_is_finished_by_the_next_one(
    scene: Scene, step: int
) -> None:
    """A kill leaves what was done; the next run knows nothing but the machine and its node."""
    calls = 0
    talos_run, kubernetes = scene.talos.run, scene.kubernetes

    def counted(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt

    def run(arguments: Any, seconds: float) -> Any:
        answer = talos_run(arguments, seconds)
        counted()
        return answer

    scene.talos.run = run  # type: ignore[method-assign]
    kubernetes.called = counted  # type: ignore[method-assign]
    try:
        scene.run()
    except KeyboardInterrupt:
        assert step <= calls
    else:
        assert step > calls  # the run has fewer calls: it was not killed
    scene.talos.run = talos_run  # type: ignore[method-assign]
    kubernetes.called = lambda: None  # type: ignore[method-assign]
    scene.snapshots = Snapshots(scene.where, "prod")
    scene.run()
    assert scene.machine().version == "v1.13.10"
    assert kubernetes.cordoned() == []
    assert kubernetes.pods == []


def test_a_run_that_is_asked_to_end_while_it_drains_leaves_the_node_as_it_was(
    scene: Scene,
) -> None:
    scene.kubernetes.keeps = {"web-2": BUDGET}

    def stop() -> None:
        raise StoppedError("stopped by Ctrl-C")

    later(scene, 10, stop)
    with pytest.raises(StoppedError):
        scene.run()
    assert scene.kubernetes.cordoned() == []


# --- A machine that comes back with the old Talos -------------------------------------------------


def test_a_machine_that_rolled_back_stops_the_chain_with_its_own_reason(scene: Scene) -> None:
    machine = scene.machine()
    machine.boots_into = ("v1.13.9", SCHEMATIC)
    machine.kernel_log = 'ordinary line\n[talos] reverting failed upgrade, switching to "A"\n'
    said = scene.refused()
    assert "came back with Talos v1.13.9" in said
    assert 'reverting failed upgrade, switching to "A"' in said
    assert "ordinary line" not in said
    assert "No other machine is touched" in said
    assert scene.kubernetes.cordoned() == []


def test_the_api_may_be_away_while_its_machine_reboots(scene: Scene) -> None:
    machine = scene.machine()
    real = scene.talos.upgrade

    def upgrade(*given: Any) -> Any:
        scene.kubernetes.away = 5
        return real(*given)

    scene.talos.upgrade = upgrade  # type: ignore[assignment, method-assign]
    scene.run()
    assert machine.version == "v1.13.10"
    assert scene.kubernetes.cordoned() == []


# --- The hook -------------------------------------------------------------------------------------


def test_a_machine_that_this_run_made_is_not_asked() -> None:
    async def test() -> None:
        fake = FakeTalos([FakeMachine("node01", "172.16.20.51", up=False)])
        member = Member("node01", "172.16.20.51", control_plane=True)
        rollout = Rollout([member], pulumi.Output.secret("talosconfig"))
        args = pulumi.ResourceHookArgs(urn="", id="", name="", type="")
        await rollout.made(member)(args)
        target = Target(Release("v1.13.9", SCHEMATIC), "image", DRAIN_SECONDS)
        await rollout.upgrade(member, pulumi.Output.secret("x"), target)(args)
        assert fake.commands == []

    asyncio.run(test())


def later(scene: Scene, seconds: float, act: Callable[[], None]) -> None:
    """Let something happen once, after so many seconds."""
    done: list[bool] = []

    def tick() -> None:
        if not done and scene.talos.now >= seconds:
            done.append(True)
            act()

    scene.talos.tick = tick
