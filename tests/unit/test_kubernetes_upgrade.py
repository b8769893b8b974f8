"""Another version of Kubernetes: what refuses it, its order, and what a killed run leaves."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.talosctl import connect
from clients.waiting import Clock
from components.talos import kubernetes_versions as versions
from components.talos.etcd import Member
from components.talos.kubernetes_upgrade import Upgrade, UpgradeError
from components.talos.kubernetes_versions import CONTROLLERS, Running
from tests.unit.fake_kubernetes import METRIC, FakeKubernetes, KilledError, volume_attributes_class
from tests.unit.fake_talos import FakeMachine, FakeTalos

CONTROL_PLANES = {f"node0{n}": f"172.16.20.5{n}" for n in (1, 2, 3)}
WORKERS = {"worker01": "172.16.20.61"}
ALPHA = {"group": "storage.k8s.io", "version": "v1alpha1", "resource": "volumeattributesclasses"}
CLASSES = [{"name": "volumeattributesclasses", "kind": "VolumeAttributesClass"}]


class Site:
    """Three control planes and a worker, all healthy."""

    def __init__(self, version: str = "1.34.1") -> None:
        machines = [FakeMachine(name, address) for name, address in CONTROL_PLANES.items()]
        machines += [
            FakeMachine(name, one, etcd=False, pods=False) for name, one in WORKERS.items()
        ]
        self.talos = FakeTalos(machines)
        self.cluster = FakeKubernetes(CONTROL_PLANES, WORKERS, version)
        self.told: list[str] = []
        self.cluster.served["storage.k8s.io/v1"] = CLASSES

    @contextmanager
    def upgrade(self) -> Iterator[Upgrade]:
        members = [Member(name, one, control_plane=True) for name, one in CONTROL_PLANES.items()]
        members += [Member(name, one, control_plane=False) for name, one in WORKERS.items()]
        clock = Clock(lambda: self.talos.now, self.talos.sleep, self.told.append)
        with connect("c", self.talos.run, self.talos.dial, self.cluster.follow) as client:
            yield Upgrade(client, members, clock, self.cluster.api)

    def again(self, wanted: str) -> None:
        with self.upgrade() as upgrade:
            upgrade.again(wanted)

    def refused(self, wanted: str) -> str:
        before = dict(self.cluster.programs), dict(self.cluster.kubelets)
        with pytest.raises(UpgradeError) as caught:
            self.again(wanted)
        assert self.cluster.upgrades == [], "it was touched"
        assert before == (self.cluster.programs, self.cluster.kubelets)
        return str(caught.value)

    @property
    def running(self) -> Running:
        programs = self.cluster.programs
        return Running(
            {one: v for (one, name), v in programs.items() if name == versions.API_SERVER},
            {key: v for key, v in programs.items() if key[1] != versions.API_SERVER},
            self.cluster.kubelets,
        )


@pytest.mark.parametrize("tag", ["latest", "1.34", "1.34.1-hardened"])
def test_a_program_whose_tag_is_no_exact_version_is_named_with_its_image(tag: str) -> None:
    site = Site()
    site.cluster.programs["node01", versions.API_SERVER] = tag
    said = site.refused("1.34.10")
    assert f"registry.k8s.io/kube-apiserver:v{tag} runs, whose tag is no exact version" in said
    assert "remove `image` there" in said


# --- The way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["1.34.10", "1.35.6"])
def test_every_program_is_of_the_new_version_afterwards(wanted: str) -> None:
    site = Site()
    site.again(wanted)
    assert site.running.all == {wanted}
    assert site.cluster.upgrades == [("1.34.1", wanted)]


def test_what_talosctl_prints_of_objects_is_not_told() -> None:
    site = Site()
    site.again("1.34.10")
    assert any("pre-pulling registry.k8s.io/kube-apiserver:v1.34.10" in one for one in site.told)
    assert not any("token" in one for one in site.told)


def test_a_patch_release_can_be_taken_back() -> None:
    site = Site("1.34.10")
    site.again("1.34.1")
    assert site.running.all == {"1.34.1"}


def test_a_run_that_was_killed_before_the_manifests_syncs_them_the_next_time() -> None:
    site = Site("1.34.10")
    site.again("1.34.10")
    assert site.cluster.upgrades == [("1.34.10", "1.34.10")]


def test_a_first_installation_waits_for_nothing_and_touches_nothing() -> None:
    site = Site()
    for machine in site.talos.machines:
        machine.up = False
    with site.upgrade() as upgrade:
        upgrade.first("1.34.1")
    assert site.talos.now == 0
    assert site.cluster.upgrades == []


def test_a_cluster_of_an_older_program_is_left_alone_when_its_version_is_the_wanted_one() -> None:
    site = Site()
    with site.upgrade() as upgrade:
        upgrade.first("1.34.1")
        assert site.cluster.upgrades == []
        upgrade.first("1.34.10")
    assert site.running.all == {"1.34.10"}


def test_a_cluster_that_is_only_being_made_has_nothing_to_move() -> None:
    site = Site()
    site.cluster.down = True
    with site.upgrade() as upgrade:
        upgrade.first("1.34.10")
    assert site.cluster.upgrades == []


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "wanted", "part"),
    [
        ("1.34.1", "1.36.0", "goes up by one minor version at a time; set a version of 1.35 first"),
        ("1.34.1", "1.33.5", "1.34.1 runs already"),
        ("1.35.6", "1.34.10", "restore-etcd.md"),
    ],
)
def test_kubernetes_goes_up_by_one_minor_version_and_never_down(
    runs: str, wanted: str, part: str
) -> None:
    text = Site(runs).refused(wanted)
    assert text.startswith(f"Kubernetes is not touched. platform:kubernetes.version = {wanted}: ")
    assert part in text


def test_a_talos_that_does_not_support_the_version_names_the_order() -> None:
    site = Site("1.35.6")
    for machine in site.talos.machines:
        machine.version = "v1.12.4"
    text = site.refused("1.36.0")
    assert "node02 (172.16.20.52) runs Talos 1.12.4, which supports Kubernetes 1.30 to 1.35" in text
    assert "run `pulumi up` with the new talos.version, then change Kubernetes" in text


def test_an_unhealthy_machine_refuses_it_and_all_problems_are_told_at_once() -> None:
    site = Site()
    site.talos.machines[1].unmet = {"services": "etcd is not healthy"}
    site.talos.machines[3].up = False
    text = site.refused("1.36.0")
    assert text.startswith(
        "Kubernetes is not touched. 3 problems:\n  - platform:kubernetes.version"
    )
    assert "node02 (172.16.20.52): lacks services: etcd is not healthy" in text
    assert "worker01 (172.16.20.61): lacks Talos API" in text


def stopped(wanted: str) -> Site:
    """Give a site whose upgrade stopped at its first machine, whose API server does not start."""
    site = Site()
    site.cluster.programs["node01", "kube-apiserver"] = wanted
    site.talos.machines[0].unmet = {"staticPods": "kube-system/kube-apiserver-node01 not ready"}
    return site


@pytest.mark.parametrize(("broken", "wanted"), [("1.34.9", "1.34.10"), ("1.35.5", "1.35.6")])
def test_a_version_whose_programs_do_not_start_is_followed_by_one_whose_do(
    broken: str, wanted: str
) -> None:
    site = stopped(broken)
    asked: list[str] = []
    real = site.cluster.answer

    def answer(machine: str | None, path: str) -> Any:
        if path == "/metrics":
            assert machine != CONTROL_PLANES["node01"], "it does not answer"
            asked.append(str(machine))
        return real(machine, path)

    site.cluster.answer = answer  # type: ignore[method-assign]
    site.again(wanted)
    assert site.running.all == {wanted}
    assert len(asked) == (0 if wanted.startswith("1.34") else 2)


def test_a_second_unhealthy_machine_or_another_reason_refuses_it_all_the_same() -> None:
    site = stopped("1.34.9")
    site.talos.machines[1].unmet = {"staticPods": "not ready"}
    assert "node01" in site.refused("1.34.10")
    site = stopped("1.34.9")
    site.talos.machines[0].unmet["services"] = "etcd is not healthy"
    assert "etcd is not healthy" in site.refused("1.34.10")


def test_programs_that_do_not_run_refuse_an_upgrade_that_has_not_begun() -> None:
    site = Site()
    site.talos.machines[0].unmet = {"staticPods": "not ready"}
    assert "lacks staticPods" in site.refused("1.34.10")


def test_nobody_who_says_what_runs_refuses_it() -> None:
    site = Site()
    for machine in site.talos.machines:
        machine.up = False
    assert "no control plane gives its kubeconfig" in site.refused("1.34.10")
    site = Site()
    site.cluster.down = True
    assert "does not say which versions run: Connection refused" in site.refused("1.34.10")


def test_kubelets_that_were_left_behind_go_first() -> None:
    site = Site("1.34.1")
    site.cluster.kubelets["worker01"] = "1.31.4"
    text = site.refused("1.35.6")
    assert "worker01: 1.31.4" in text
    assert "set 1.34.1, which upgrades these kubelets first" in text
    site.again("1.34.1")
    site.again("1.35.6")
    assert site.running.all == {"1.35.6"}


def test_a_removed_api_that_is_asked_for_is_told_with_its_object_writer_and_replacement() -> None:
    site = Site()
    site.cluster.served["storage.k8s.io/v1alpha1"] = CLASSES
    site.cluster.metrics["172.16.20.52"] = METRIC.format(removed="1.35", **ALPHA)
    path = "/apis/storage.k8s.io/v1/volumeattributesclasses"
    site.cluster.objects[path] = [volume_attributes_class("kubectl-create")]
    text = site.refused("1.35.6")
    assert (
        "Kubernetes 1.35 no longer serves storage.k8s.io/v1alpha1 volumeattributesclasses" in text
    )
    assert "gold (written by kubectl-create), requests to node02" in text
    assert "write storage.k8s.io/v1 instead" in text
    site.again("1.34.10")


@pytest.mark.parametrize(
    ("item", "refused"),
    [
        (volume_attributes_class("argocd", "Apply"), True),
        (volume_attributes_class("x", last_applied="storage.k8s.io/v1alpha1"), True),
        (volume_attributes_class("kubectl-create"), False),
        (volume_attributes_class("x", last_applied="storage.k8s.io/v1"), False),
    ],
)
def test_an_object_that_is_declared_with_a_removed_api_refuses_it_without_a_request(
    item: dict[str, Any],
    refused: bool,  # noqa: FBT001 a case
) -> None:
    site = Site()
    site.cluster.objects["/apis/storage.k8s.io/v1/volumeattributesclasses"] = [item]
    if refused:
        assert "gold (written by" in site.refused("1.35.6")
    else:
        site.again("1.35.6")


def test_a_later_removal_refuses_nothing_yet() -> None:
    site = Site()
    site.cluster.metrics["172.16.20.51"] = METRIC.format(removed="1.37", **ALPHA)
    site.again("1.35.6")
    assert site.running.all == {"1.35.6"}


def test_a_helm_release_that_renders_a_removed_api_refuses_it() -> None:
    manifest = (
        "apiVersion: storage.k8s.io/v1alpha1\nkind: VolumeAttributesClass\nmetadata: {name: a}"
    )
    record = json.dumps({"manifest": manifest}).encode()
    packed = base64.b64encode(base64.b64encode(gzip.compress(record))).decode()
    site = Site()
    site.cluster.releases = [
        {
            "metadata": {"namespace": "disks", "labels": {"name": "csi", "version": "1"}},
            "data": {"release": packed},
        }
    ]
    text = site.refused("1.35.6")
    assert "VolumeAttributesClass a of the Helm release disks/csi" in text


# --- Killed ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    kills=st.lists(st.integers(0, 13), max_size=4),
    wanted=st.sampled_from(["1.34.10", "1.35.6"]),
    behind=st.integers(0, 3),
)
def test_a_run_killed_at_any_step_keeps_to_the_skew_and_the_next_one_goes_on(
    kills: list[int], wanted: str, behind: int
) -> None:
    site = Site()
    site.cluster.kubelets["worker01"] = f"1.{34 - behind}.1"
    if versions.refusals(site.running, wanted):
        site.again("1.34.1")

    def look() -> None:
        assert versions.skew(site.running) == []

    site.cluster.after_step = look
    for after in kills:
        site.cluster.killed_after = after
        with pytest.raises(KilledError):
            site.again(wanted)
        if wanted == "1.35.6" and wanted in site.running.all:
            with pytest.raises(UpgradeError, match=r"1\.35\.6 runs already"):
                site.again("1.34.1")
    site.again(wanted)
    assert site.running.all == {wanted}


@pytest.mark.parametrize(
    ("steps", "part"),
    [
        (0, "Nothing was upgraded. Fix the reason, or set 1.34.1 again"),
        (4, "Do not set 1.34.1 again"),
    ],
)
def test_a_run_that_stops_says_why_and_whether_it_has_moved_something(
    steps: int, part: str
) -> None:
    site = Site()
    site.cluster.fails_after = steps
    with pytest.raises(UpgradeError, match="error pulling image: not found") as caught:
        site.again("1.35.6")
    assert part in str(caught.value)
    site.cluster.fails_after = None
    site.again("1.35.6")
    assert site.running.all == {"1.35.6"}


VERSIONS = st.sampled_from([f"1.{line}.{patch}" for line in range(31, 38) for patch in (1, 9)])


@settings(deadline=None)
@given(oldest=VERSIONS, kubelets=st.lists(VERSIONS, min_size=4, max_size=4), wanted=VERSIONS)
def test_no_step_of_a_change_that_is_not_refused_leaves_the_skew(
    oldest: str, kubelets: list[str], wanted: str
) -> None:
    names = [*CONTROL_PLANES, *WORKERS]
    start = Running(
        dict.fromkeys(CONTROL_PLANES, oldest),
        {(one, name): oldest for one in CONTROL_PLANES for name in CONTROLLERS},
        dict(zip(names, kubelets, strict=True)),
    )
    if versions.skew(start):
        return
    faults = [versions.skew(one) for one in versions.steps(start, wanted)]
    if versions.refusals(start, wanted):
        assert any(faults) or versions.number(wanted) < versions.number(oldest)
    else:
        assert not any(faults)


def test_the_steps_are_those_of_kubernetes_own_order() -> None:
    site = Site()
    moved = [
        sum(version == "1.35.6" for part in vars(one).values() for version in part.values())
        for one in versions.steps(site.running, "1.35.6")
    ]
    assert moved == list(range(1, 14))
    first_kubelet = next(
        one for one in versions.steps(site.running, "1.35.6") if "1.35.6" in one.kubelets.values()
    )
    assert set(first_kubelet.api_servers.values()) == {"1.35.6"}
    assert set(first_kubelet.controllers.values()) == {"1.35.6"}


@pytest.mark.parametrize(
    ("part", "machine", "version", "fault"),
    [
        ("api_servers", "node01", "1.36.0", "API servers of 1.34 and 1.36"),
        ("controllers", ("node01", "kube-scheduler"), "1.35.6", "kube-scheduler 1.35.6 on node01"),
        ("kubelets", "worker01", "1.35.6", "kubelet 1.35.6 on worker01"),
        ("kubelets", "worker01", "1.30.2", "kubelet 1.30.2 on worker01"),
    ],
)
def test_a_version_that_must_not_be_beside_the_others_is_named(
    part: str,
    machine: Any,
    version: str,
    fault: str,
) -> None:
    running = Site().running
    changed = Running(
        **{
            name: {**getattr(running, name), machine: version}
            if name == part
            else getattr(running, name)
            for name in ("api_servers", "controllers", "kubelets")
        }
    )
    assert any(fault in one for one in versions.skew(changed))
