"""What is waited for in a cluster that Omni manages, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from clients.kubernetes_api import KubernetesApi
from clients.omnictl import Cluster, Member, OmnictlError, SlowError, Upgrade
from components.omni.machine_ids import forms, swapped
from components.omni.observer import (
    BOOT_SECONDS,
    CLUSTER_SECONDS,
    JOIN_SECONDS,
    OTHER_SECONDS,
    TOKEN_SECONDS,
    Made,
    Observer,
    OmniError,
    Wanted,
    gone,
)
from config import plain_yaml
from tests.unit.fake_omni import UUIDS, FakeOmni, machine
from tests.unit.hand_clock import Time

NODE01 = Wanted("node01", "172.16.20.51")
UUID = UUIDS["node01"]
HEALTHY = Cluster(ready=True, kubernetes_ready=True, talos="1.13.9", kubernetes="1.34.1")
WITHOUT_CNI = Cluster(ready=False, kubernetes_ready=True, talos="1.13.9", kubernetes="1.34.1")


class FakeNodes(KubernetesApi):
    """The nodes of a cluster, by name: whether each is ready, and its boot."""

    def __init__(self, **nodes: tuple[bool, str]) -> None:
        self.nodes = nodes

    def get(self, path: str) -> dict[str, Any]:
        items = {
            name: {
                "metadata": {"name": name},
                "status": {
                    "nodeInfo": {"bootID": boot},
                    "conditions": [{"type": "Ready", "status": str(ready)}],
                },
            }
            for name, (ready, boot) in self.nodes.items()
        }
        name = path.removeprefix("/api/v1/nodes").strip("/")
        return items[name] if name else {"items": list(items.values())}


def observer(omni: FakeOmni, time: Time | None = None, nodes: FakeNodes | None = None) -> Observer:
    clock = (time or Time()).clock()
    if nodes is None:
        return Observer(omni, "prod", clock)
    return Observer(omni, "prod", clock, "kubeconfig", lambda _: nodes)


def member(name: str, *, ready: bool = True, stage: str = "running") -> Member:
    return Member(UUIDS[name], ready=ready, stage=stage, error="")


def fake() -> FakeOmni:
    return FakeOmni()


def render(ids: Any) -> str:
    return " ".join(f"{name}={one}" for name, one in ids.items())


# --- Before anything is made -------------------------------------------------------------------


def test_an_omni_without_such_a_cluster_is_taken() -> None:
    observer(fake()).answers()


def test_an_omni_that_is_away_for_a_while_is_waited_for() -> None:
    time = Time()
    omni = fake()
    omni.away = 5
    observer(omni, time).answers()
    assert time.now > 0


def test_an_omni_that_stays_away_is_told_with_its_setting() -> None:
    omni = fake()
    omni.away = 10_000
    with pytest.raises(OmniError, match=r"platform:omni\.endpoint: Omni does not answer"):
        observer(omni).answers()


def test_a_cluster_that_a_destroy_left_in_omni_is_not_taken_over() -> None:
    omni = fake()
    omni.status, omni.listed = HEALTHY, [member("node01")]
    with pytest.raises(OmniError, match="already, with 1 machines that this stack did not make"):
        observer(omni).answers()
    assert omni.done == []


def test_a_machine_in_no_cluster_waits_for_its_first_configuration() -> None:
    assert observer(fake().with_machines("node01")).waits(UUID)
    assert observer(fake().with_machines("node01", in_other_order=True)).waits(UUID)


def test_a_machine_that_omni_uses_or_does_not_know_is_no_leftover() -> None:
    omni = fake()
    omni.known[UUID] = machine("node01", UUID, cluster="prod", maintenance=False)
    time = Time()
    assert not observer(omni, time).waits(UUID)
    assert time.now == 0
    assert not observer(fake(), time).waits(UUID)
    assert time.now >= BOOT_SECONDS


# --- Joining -----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [False, True])
def test_a_machine_is_known_by_its_uuid_in_either_order(*, other: bool) -> None:
    omni = fake().with_machines("node01", in_other_order=other)
    wanted = swapped(UUID) if other else UUID
    assert observer(omni).joined(NODE01, UUID) == wanted


def test_a_machine_that_does_not_join_is_told_with_the_token_and_the_way() -> None:
    time = Time()
    with pytest.raises(OmniError) as caught:
        observer(fake(), time).joined(NODE01, UUID)
    assert time.now >= JOIN_SECONDS
    for word in ("platform:machines, node01", "platform:omniJoinToken", "platform:omni.machineApi"):
        assert word in str(caught.value)
    assert "Omni does not know it yet" in str(caught.value)


@pytest.mark.parametrize(
    ("other", "known"),
    [
        ({"hostname": "talos-x1y"}, "Omni knows it as talos-x1y at 172.16.20.51"),
        ({"addresses": ("172.16.20.99",)}, "Omni knows it as node01 at 172.16.20.99"),
    ],
    ids=["name", "address"],
)
def test_a_machine_that_joins_as_another_one_is_told_with_both_before_all_patience_is_over(
    other: dict[str, Any], known: str
) -> None:
    omni = fake()
    omni.known[UUID] = machine("node01", UUID, **other)
    time = Time()
    with pytest.raises(OmniError) as caught:
        observer(omni, time).joined(NODE01, UUID)
    assert OTHER_SECONDS <= time.now < JOIN_SECONDS
    for word in ("joined, but not as node01 at 172.16.20.51", known, "guestinfo.metadata"):
        assert word in str(caught.value)
    assert "pulumi up --replace URN" in str(caught.value)


def test_a_machine_that_gets_its_name_late_is_the_one() -> None:
    omni = fake()
    omni.known[UUID] = machine("node01", UUID, hostname="")
    time = Time()

    def named() -> None:
        if time.now > OTHER_SECONDS / 2:
            omni.with_machines("node01")

    time.after = named
    assert observer(omni, time).joined(NODE01, UUID) == UUID


@pytest.mark.parametrize(
    ("state", "said"),
    [("", "does not know it"), ("revoked", "it is revoked"), ("expired", "it has ended")],
)
def test_a_token_that_omni_does_not_take_is_told_before_a_machine_is_made(
    state: str, said: str
) -> None:
    omni = fake()
    omni.tokens = {"token": state} if state else {}
    with pytest.raises(OmniError, match=said) as caught:
        observer(omni).token_taken("token")
    for word in ("platform:omniJoinToken", "omnictl jointoken create", "pulumi config set"):
        assert word in str(caught.value)


def test_a_token_that_omni_tells_nothing_of_is_tried() -> None:
    omni = fake()
    observer(omni).token_taken("token")
    omni.tokens = None
    observer(omni).token_taken("token")


def made(*old: str) -> dict[str, Made]:
    """Give machines that are there; the `old` ones were made with another token."""
    return {
        name: Made(uuid, f"urn:x::{name}", "old" if name in old else "token")
        for name, uuid in UUIDS.items()
    }


def test_a_machine_that_was_made_with_another_token_is_not_waited_for_till_the_end() -> None:
    omni = fake().with_machines("node03")
    time, seen = Time(), observer(omni)
    look = observer(omni, time)
    with pytest.raises(OmniError) as caught:
        look.joined(
            NODE01,
            UUID,
            lambda: seen.hopeless("node01", "token", lambda: made("node01", "node02", "node03")),
        )
    assert TOKEN_SECONDS <= time.now < JOIN_SECONDS
    said = str(caught.value)
    assert "is not the present platform:omniJoinToken: node01, node02." in said
    assert "`pulumi up --replace urn:x::node01 --replace urn:x::node02`" in said
    assert "old" not in said.split()


def test_a_machine_whose_token_is_good_may_still_join() -> None:
    look = observer(fake())
    assert look.hopeless("node01", "token", lambda: made("node02")) == ""
    omni = fake()
    omni.tokens = {"token": "revoked"}
    found = observer(omni).hopeless("node01", "token", made)
    assert found.startswith("platform:omniJoinToken: it is revoked in Omni")


def test_a_machine_that_is_not_connected_is_waited_for() -> None:
    omni = fake()
    omni.known[UUID] = machine("node01", UUID, connected=False, error="i/o timeout")
    with pytest.raises(OmniError, match="not connected i/o timeout"):
        observer(omni).joined(NODE01, UUID)


def test_a_machine_of_another_cluster_is_refused_at_once() -> None:
    time = Time()
    omni = fake()
    omni.known[UUID] = machine("node01", UUID, cluster="staging")
    with pytest.raises(OmniError, match="in the cluster staging; take it out there"):
        observer(omni, time).joined(NODE01, UUID)
    assert time.now == 0


def test_two_machines_of_one_uuid_are_refused_at_once() -> None:
    omni = fake().with_machines("node01").with_machines("node01", in_other_order=True)
    with pytest.raises(OmniError, match="Omni knows two machines by its UUID"):
        observer(omni).joined(NODE01, UUID)


# --- Changes of machines -----------------------------------------------------------------------


def test_a_machine_is_not_touched_while_another_one_is_not_ready() -> None:
    omni = fake()
    omni.listed = [member("node01"), member("node02", ready=False), member("node03")]
    with pytest.raises(OmniError, match=f"node01: not touched: not ready: {UUIDS['node02']}"):
        observer(omni).guard("node01", UUID)


def test_an_unhealthy_machine_itself_may_be_changed() -> None:
    omni = fake()
    omni.listed = [member("node01", ready=False), member("node02")]
    assert observer(omni).guard("node01", UUID) is None


def test_before_there_is_a_cni_no_machine_is_ready_and_all_may_be_changed() -> None:
    omni = fake()
    omni.listed = [member("node01", ready=False), member("node02", ready=False)]
    observer(omni).guard("node01", UUID)


def test_kubernetes_too_is_asked_before_a_machine_is_touched() -> None:
    nodes = FakeNodes(node01=(True, "a"), node02=(False, "b"))
    with pytest.raises(OmniError, match="not touched: not ready: node02"):
        observer(fake(), nodes=nodes).guard("node01", UUID)
    nodes = FakeNodes(node01=(True, "a"), node02=(True, "b"))
    assert observer(fake(), nodes=nodes).guard("node01", UUID) == "a"


def test_a_machine_is_back_only_after_another_boot() -> None:
    omni = fake().with_machines("node01")
    omni.listed = [member("node01")]
    same, other = FakeNodes(node01=(True, "a")), FakeNodes(node01=(True, "b"))
    with pytest.raises(OmniError, match="it has not restarted yet"):
        observer(omni, nodes=same).back(NODE01, UUID, "a", restarted=True)
    observer(omni, nodes=other).back(NODE01, UUID, "a", restarted=True)
    observer(omni, nodes=same).back(NODE01, UUID, "a", restarted=False)


def test_a_machine_whose_node_or_whose_services_are_not_ready_is_not_back() -> None:
    omni = fake().with_machines("node01")
    with pytest.raises(OmniError, match="its node is not ready"):
        observer(omni, nodes=FakeNodes(node01=(False, "b"))).back(NODE01, UUID, "a", restarted=True)
    omni.listed = [member("node01", ready=False)]
    with pytest.raises(OmniError, match=f"not ready: {UUID}"):
        observer(omni, nodes=FakeNodes(node01=(True, "b"))).back(NODE01, UUID, "a", restarted=True)


# --- The cluster -------------------------------------------------------------------------------


def now(*names: str) -> dict[str, str]:
    return {name: UUIDS[name] for name in names}


def test_a_cluster_is_synced_with_the_ids_that_omni_knows_and_its_api_is_waited_for() -> None:
    time = Time()
    omni = fake().with_machines("node01", in_other_order=True)

    def make(made: FakeOmni) -> None:
        made.status = WITHOUT_CNI

    omni.after_sync = make
    observer(omni, time).sync(render, now("node01"), {}, ())
    assert omni.done == [("sync", f"node01={swapped(UUID)}")]
    assert (0.0, "Omni: creating Clusters.omni.sidero.dev(prod)") in time.told


def test_what_a_cluster_was_restored_from_stays_in_its_template() -> None:
    omni = fake().with_machines("node01")
    omni.status, omni.backup = HEALTHY, {"clusterUUID": "u", "snapshot": "s.snapshot"}
    text = "---\nkind: ControlPlane\nmachines:\n- x\n---\nkind: Workers\nmachines: []\n"
    observer(omni).sync(lambda _: text, now("node01"), now("node01"), ())
    observer(omni).healthy(text)
    assert [kind for kind, _ in omni.done] == ["sync", "status"]
    for _, told in omni.done:
        control_planes, workers = plain_yaml.read_all(told)
        assert control_planes["bootstrapSpec"] == omni.backup
        assert "bootstrapSpec" not in workers


def test_a_first_sync_takes_no_machines_away_from_a_cluster_that_is_there() -> None:
    omni = fake().with_machines("node01")
    omni.status, omni.listed = HEALTHY, [member("node04")]
    with pytest.raises(OmniError, match="machines that this stack did not make"):
        observer(omni).sync(render, now("node01"), {}, ())
    assert omni.done == []


def test_a_sync_that_was_killed_may_be_done_again() -> None:
    omni = fake().with_machines("node01")
    omni.status, omni.listed = WITHOUT_CNI, [member("node01", ready=False)]
    observer(omni).sync(render, now("node01"), {}, ())
    assert [kind for kind, _ in omni.done] == ["sync"]


def test_a_cluster_that_was_healthy_is_healthy_again_before_anything_else_is_changed() -> None:
    omni = fake().with_machines("node01")
    omni.status = HEALTHY

    def break_it(made: FakeOmni) -> None:
        made.status = WITHOUT_CNI
        made.listed = [member("node01", ready=False, stage="rebooting")]

    omni.after_sync = break_it
    time = Time()
    with pytest.raises(OmniError, match=f"{UUID} rebooting"):
        observer(omni, time).sync(render, now("node01"), now("node01"), ())
    assert time.now >= CLUSTER_SECONDS


def test_an_upgrade_that_is_under_way_is_waited_for() -> None:
    omni = fake().with_machines("node01")
    omni.status = HEALTHY
    omni.under_way = {"Talos": Upgrade("upgrading", "", "node02")}
    with pytest.raises(OmniError, match="Talos: upgrading node02"):
        observer(omni).sync(render, now("node01"), now("node01"), ())


def test_an_upgrade_that_failed_ends_the_wait_at_once_with_the_setting() -> None:
    time = Time()
    omni = fake().with_machines("node01")
    omni.status = HEALTHY
    omni.under_way = {"Kubernetes": Upgrade("failed", "image not found", "")}
    with pytest.raises(OmniError, match=r"platform:kubernetes\.version: .*image not found"):
        observer(omni, time).sync(render, now("node01"), now("node01"), ())
    assert time.now < CLUSTER_SECONDS


def test_a_machine_whose_link_was_deleted_is_told() -> None:
    omni = fake().with_machines("node01")
    with pytest.raises(OmniError, match="node02: Omni knows no machines by its UUID"):
        observer(omni).sync(render, now("node01", "node02"), now("node01"), ())
    assert omni.done == []


def test_omni_does_not_wait_for_a_machine_whose_place_another_one_has() -> None:
    omni = fake().with_machines("node01", "node02")
    omni.status = HEALTHY
    before = now("node01") | {"node02": UUIDS["node05"]}
    observer(omni).sync(render, now("node01", "node02"), before, ())
    removed = [("remove lost", form) for form in forms(UUIDS["node05"])]
    assert omni.done[: len(removed)] == removed
    assert omni.done[len(removed)][0] == "sync"


def test_omni_waits_for_a_removed_machine_unless_it_is_lost() -> None:
    before = now("node01", "node02", "node03")
    assert gone(now("node01", "node02"), before, ()) == {}
    assert gone(now("node01", "node02"), before, ["node03"]) == now("node03")
    assert gone(before, before, ["node09"]) == {}


def test_a_sync_that_does_not_end_names_the_machine_and_the_way_out() -> None:
    omni = fake().with_machines("node01")
    omni.status, omni.refuses = HEALTHY, SlowError("not done within 900 s")
    with pytest.raises(OmniError, match=r"still waits for node02 to leave .* platform:omni\.lost"):
        observer(omni).sync(render, now("node01"), now("node01", "node02"), ())


def test_a_template_that_omni_refuses_is_told_in_its_words() -> None:
    omni = fake().with_machines("node01")
    omni.refuses = OmnictlError("talos version 1.13.9 is not available")
    with pytest.raises(OmnictlError, match=r"talos version 1\.13\.9 is not available"):
        observer(omni).sync(render, now("node01"), {}, ())


def test_a_healthy_cluster_is_judged_by_omnictl_too() -> None:
    omni = fake()
    omni.status = HEALTHY
    observer(omni).healthy("template")
    assert omni.done == [("status", "template")]


def test_a_cluster_that_does_not_get_healthy_says_which_machine_lacks() -> None:
    omni = fake()
    omni.status, omni.listed = WITHOUT_CNI, [member("node01", ready=False, stage="booting")]
    with pytest.raises(OmniError, match=f"the cluster prod is not healthy: {UUID} booting"):
        observer(omni).healthy("template")
