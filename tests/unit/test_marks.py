"""The labels and taints of a machine's configuration are awaited on its node."""

from __future__ import annotations

from typing import Any

import pytest

from clients import talosctl
from clients.waiting import Clock
from components.talos import growth
from components.talos.etcd import HealthError, Member
from components.talos.health import Observer
from components.talos.marks import Marks, lacking
from tests.unit.fake_talos import FakeMachine, FakeTalos

CONFIGURED = {
    "nodeLabels": {"example.com/rack": "r1"},
    "nodeTaints": {"gpu": "a:NoSchedule", "bare": "NoExecute"},
    "kubelet": {"extraConfig": {"registerWithTaints": [{"key": "own", "effect": "NoExecute"}]}},
}


def node(*, labels: Any = None, taints: Any = ()) -> dict[str, Any]:
    return {"metadata": {"name": "node01", "labels": labels}, "spec": {"taints": list(taints)}}


def wait(monkeypatch: pytest.MonkeyPatch, seen: list[dict[str, Any]], wanted: Marks) -> None:
    class Api:
        def get(self, path: str) -> dict[str, Any]:
            assert path == "/api/v1/nodes/node01"
            return seen.pop(0) if len(seen) > 1 else seen[0]

    fake = FakeTalos([FakeMachine("node01", "172.16.20.51")])
    monkeypatch.setattr(growth, "KubernetesApi", lambda _: Api())
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        member = Member("node01", "172.16.20.51", control_plane=True)
        clock = Clock(lambda: fake.now, fake.sleep)
        Observer(talos, [member], clock).wait_marked(member, wanted)


def test_a_gate_tells_the_labels_and_taints_of_both_kinds_of_machines() -> None:
    wanted = Marks.of_gate({"fields": {"v1alpha1": {"machine": CONFIGURED}}})
    assert wanted.labels == {"example.com/rack": "r1"}
    assert wanted.taints == {
        ("gpu", "NoSchedule"): "a",
        ("bare", "NoExecute"): "",
        ("own", "NoExecute"): "",
    }


@pytest.mark.parametrize("inputs", [None, {}, {"fields": {}}, {"fields": {"v1alpha1": {}}}])
def test_a_gate_of_a_machine_without_them_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any] | None
) -> None:
    wanted = Marks.of_gate(inputs)
    assert not wanted
    wait(monkeypatch, [], wanted)


def test_a_node_that_takes_them_after_a_while_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = Marks({"a": "b"}, {("gpu", "NoSchedule"): "a"})
    taint = {"key": "gpu", "value": "a", "effect": "NoSchedule"}
    wait(monkeypatch, [node(), node(labels={"a": "b"}, taints=[taint])], wanted)


def test_a_node_that_never_takes_them_is_an_error_with_the_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = Marks({"a": "b"}, {("gpu", "NoSchedule"): "a"})
    with pytest.raises(HealthError) as caught:
        wait(monkeypatch, [node(labels={"a": "c"})], wanted)
    assert "kubectl label --overwrite node node01 a=b" in str(caught.value)
    assert "kubectl taint --overwrite node node01 gpu=a:NoSchedule" in str(caught.value)


def test_what_a_node_has_besides_is_no_lack() -> None:
    other = {"key": "other", "effect": "NoSchedule"}
    assert lacking(node(labels={"a": "b", "c": "d"}, taints=[other]), Marks({"a": "b"})) == ""
