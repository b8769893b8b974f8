"""Data disks: the volumes that Talos makes of them, and that the gate waits for."""

from __future__ import annotations

from typing import Any

import pytest

from clients import talosctl
from clients.kubernetes_api import ApiError
from clients.waiting import Clock
from components.talos import claims, health, refusals, volumes
from components.talos.configuration import documents, written
from components.talos.etcd import HealthError, Member
from components.talos.growth import Size
from components.talos.health import Observer
from components.talos.inputs import TalosInputs
from config import parse
from config.settings import DataDisk
from ops.review import talos as review
from ops.review.difference import NOTHING, Leaf
from ops.review.verdict import Verdict
from tests.unit.fake_talos import FakeMachine, FakeTalos
from tests.unit.recorder import machine, production, without_services

GIB = 1 << 30


def disk(name: str, **more: Any) -> DataDisk:
    return DataDisk.model_validate({"name": name, "sizeGiB": 50, **more})


def of(**given: Any) -> list[dict[str, Any]]:
    """Give the documents of volumes of a machine with one data disk."""
    talos = given.pop("talos", {})
    node = machine("node01", "172.16.20.51", dataDisks=[{"name": "data", "sizeGiB": 50, **given}])
    given = {"machines": [node], "talos": production()["talos"] | talos}
    model = parse(without_services(production()) | given)
    found = documents(TalosInputs.of(model), model.machines[0])
    return [one for one in found if one.get("kind") == volumes.KIND]


def test_a_data_disk_becomes_a_volume_that_takes_the_whole_disk_and_grows_with_it() -> None:
    (found,) = of(unit=3)
    assert found == {
        "apiVersion": "v1alpha1",
        "kind": "UserVolumeConfig",
        "name": "data",
        "provisioning": {
            "diskSelector": {"match": 'disk.bus_path.endsWith(":0:3:0") && !system_disk'},
            "minSize": "512MiB",
            "grow": True,
        },
        "filesystem": {"type": "xfs"},
    }


@pytest.mark.parametrize(("unit", "target"), [(1, 1), (6, 6), (7, 8), (14, 15)])
def test_a_disk_is_taken_by_its_target_which_leaves_out_that_of_the_controller(
    unit: int, target: int
) -> None:
    assert disk("data", unit=unit).target == target


def test_a_disk_without_a_filesystem_is_left_to_others() -> None:
    assert of(filesystem="none") == []


def test_a_volume_is_encrypted_where_the_machines_own_partitions_are() -> None:
    (found,) = of(talos={"diskEncryption": {"key": "nodeId"}})
    assert found["encryption"] == {"provider": "luks2", "keys": [{"slot": 0, "nodeID": {}}]}


@pytest.mark.parametrize(
    ("path", "old", "new", "verdict", "says"),
    [
        ((), NOTHING, {}, Verdict.SAFE, "the volume data is made, live"),
        ((), {}, NOTHING, Verdict.RESTARTS, "what it holds stays on its disk"),
        (("filesystem", "type"), "xfs", "ext4", Verdict.REFUSED, "keeps its filesystem"),
        (("provisioning", "grow"), True, False, Verdict.SAFE, "takes its provisioning when"),
    ],
)
def test_the_review_says_what_becomes_of_a_volume(
    path: tuple[str, ...],
    old: Any,
    new: Any,
    verdict: Verdict,
    says: str,
) -> None:
    found = review.field(Leaf(("UserVolumeConfig/data", *path), old, new))
    assert found.verdict is verdict
    assert says in found.why


def wait(machine: FakeMachine, size: float = 50) -> FakeTalos:
    fake = FakeTalos([machine])
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        member = Member("node01", "172.16.20.51", control_plane=True, volumes=("data",))
        clock = Clock(lambda: fake.now, fake.sleep)
        Observer(talos, [member], clock).wait_volumes(member, Size(4, 8192, 100, {"data": size}))
    return fake


def node(**spec: Any) -> FakeMachine:
    given = {"u-data": spec} if spec else {}
    return FakeMachine("node01", "172.16.20.51", volumes=given)


def test_a_volume_of_its_disks_size_is_all_that_is_asked_for() -> None:
    fake = wait(node(phase="ready", size=50 * GIB - (2 << 20)))
    assert fake.now == 0


@pytest.mark.parametrize(
    ("machine", "lacks"),
    [
        (node(), "volume data: not there"),
        (node(phase="waiting"), "volume data: waiting"),
        (
            node(phase="failed", errorMessage="no disks matched selector for volume"),
            "volume data: failed no disks matched selector for volume",
        ),
        (node(phase="ready", size=40 * GIB), "volume data: has 40.0 of 50 GiB"),
    ],
)
def test_a_volume_that_is_not_ready_stops_the_chain_with_what_talos_says(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine, lacks: str
) -> None:
    monkeypatch.setattr(health, "VOLUMES_SECONDS", 10.0)
    with pytest.raises(HealthError, match="not done with its data disks") as caught:
        wait(machine)
    assert lacks in str(caught.value)


def test_a_machine_without_data_disks_is_not_asked() -> None:
    fake = FakeTalos([FakeMachine("node01", "172.16.20.51")])
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        member = Member("node01", "172.16.20.51", control_plane=True)
        Observer(talos, [member]).wait_volumes(member, Size(4, 8192, 100, {"raw": 50}))
    assert fake.commands == []


@pytest.mark.parametrize(("new", "refused"), [("xfs", False), ("ext4", True)])
def test_a_volume_that_is_there_is_not_formatted_again(new: str, refused: bool) -> None:  # noqa: FBT001
    running, wanted = (
        written(volumes.document(disk("data", filesystem=one), None)) for one in ("xfs", new)
    )
    found = refusals.of(running, wanted, "v1.13.9")
    assert bool(found) is refused
    assert not refused or "dataDisks data, filesystem = ext4" in found[0]


class Api:
    """A Kubernetes API that knows the volume of one disk, in this phase."""

    def __init__(self, phase: str | None) -> None:
        self.phase = phase

    def find(self, path: str) -> dict[str, Any] | None:
        assert path == "/api/v1/persistentvolumes/node01.data"
        if self.phase is None:
            return None
        if self.phase == "away":
            raise ApiError("no route to host")
        spec = {"claimRef": {"namespace": "app-db", "name": "data"}}
        return {"spec": spec, "status": {"phase": self.phase}}


@pytest.mark.parametrize(
    ("phase", "refusal"),
    [
        ("Bound", r"dataDisks data: its volume is claimed by app-db/data; delete that claim first"),
        ("away", r"nobody says whether a pod uses .* \(the Kubernetes API: no route to host\)"),
        ("Released", None),
        (None, None),
    ],
)
def test_a_disk_is_not_taken_away_from_a_pod(
    monkeypatch: pytest.MonkeyPatch, phase: str | None, refusal: str | None
) -> None:
    monkeypatch.setattr(claims, "KubernetesApi", lambda _: Api(phase))
    fake = FakeTalos([node()])
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        member = Member("node01", "172.16.20.51", control_plane=True)
        observer = Observer(talos, [member])
        observer.refuse_claimed(member, [])
        assert fake.commands == [], "nothing goes, and nobody is asked"
        if refusal is None:
            observer.refuse_claimed(member, ["data"])
            return
        with pytest.raises(HealthError, match=refusal):
            observer.refuse_claimed(member, ["data"])


def cut_off(*machines: FakeMachine) -> str:
    """Give what keeps worker01's disk when no control plane answers; "" when nothing does."""
    fake = FakeTalos([node(), *machines])
    fake.machine("172.16.20.51").up = False
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        members = [
            Member("node01", "172.16.20.51", control_plane=True),
            Member("worker01", "172.16.20.61", control_plane=False),
        ]
        try:
            Observer(talos, members).refuse_claimed(members[1], ["data"])
        except HealthError as error:
            return str(error)
    return ""


def test_a_disk_stays_when_no_control_plane_says_who_uses_it() -> None:
    """vCenter would delete it with its data, and it may well answer while they do not."""
    said = cut_off(FakeMachine("worker01", "172.16.20.61", etcd=False))
    assert said.startswith(
        "worker01 (172.16.20.61): not touched. platform:machines, worker01, dataDisks data: nobody "
        "says whether a pod uses what is to go (172.16.20.51: "
    )
    assert "Bring a control plane back" in said


def test_a_disk_of_a_machine_that_was_never_configured_may_go_without_a_cluster() -> None:
    assert cut_off(FakeMachine("worker01", "172.16.20.61", maintenance=True)) == ""


def test_a_volume_that_leaves_the_configuration_is_held_against_its_claims(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "KubernetesApi", lambda _: Api("Bound"))
    running = written(volumes.document(disk("data"), None))
    machine = node()
    machine.configuration = running
    fake = FakeTalos([machine])
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        member = Member("node01", "172.16.20.51", control_plane=True)
        observer = Observer(talos, [member], Clock(lambda: fake.now, fake.sleep))
        assert observer.before_configuration(member, running) is not None
        with pytest.raises(HealthError, match=r"not touched\. .*claimed by app-db/data"):
            observer.before_configuration(member, "machine: {}")
