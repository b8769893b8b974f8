"""Name servers on two machines: one is moved when all are together, and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from clients.kubernetes_api import ApiError, KubernetesApi
from components.kubernetes.name_servers import (
    AGAIN_SECONDS,
    DEPLOYMENT,
    NODES,
    PODS,
    SECONDS,
    NameServersError,
    wait_apart,
)
from tests.unit.hand_clock import Time

Taint = dict[str, str]
CONTROL_PLANE: Taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
STORAGE: Taint = {"key": "example.com/storage", "effect": "NoSchedule"}
NOT_READY: Taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}


@dataclass
class Cluster:
    """Where CoreDNS's pods are, and which pods were asked to go."""

    pods: dict[str, str]
    """Machine by pod."""
    nodes: dict[str, list[Taint]] = field(
        default_factory=lambda: {name: [CONTROL_PLANE] for name in ("node01", "node02", "node03")}
    )
    replicas: int | None = 2
    cordoned: set[str] = field(default_factory=set)
    unready: set[str] = field(default_factory=set)
    """Pods and machines."""
    refuses: str | None = None
    down: int = 0
    """Calls that fail first."""
    lands: str = "node02"
    """Where a pod that was moved starts."""
    evicted: list[str] = field(default_factory=list)

    def find(self, path: str) -> dict[str, Any] | None:
        assert path == DEPLOYMENT
        if self.down:
            self.down -= 1
            message = "Connection refused"
            raise ApiError(message)
        return None if self.replicas is None else {"spec": {"replicas": self.replicas}}

    def get(self, path: str) -> dict[str, Any]:
        if path == NODES:
            return {"items": [self._node(name) for name in self.nodes]}
        assert path == PODS
        return {"items": [self._pod(name) for name in self.pods]}

    def evict(self, namespace: str, name: str) -> str | None:
        assert namespace == "kube-system"
        if self.refuses:
            return self.refuses
        self.evicted.append(name)
        del self.pods[name]
        self.pods[f"{name}-next"] = self.lands
        return None

    def wait(self, change: Callable[[], None] = lambda: None) -> Time:
        """Wait as the hook does; `change` is called whenever time has passed."""
        time = Time()
        time.after = change
        wait_apart(cast("KubernetesApi", self), time.clock())
        return time

    def _pod(self, name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "spec": {"nodeName": self.pods[name]},
            "status": self._status(name),
        }

    def _node(self, name: str) -> dict[str, Any]:
        spec = {"taints": self.nodes[name], "unschedulable": name in self.cordoned}
        return {"metadata": {"name": name}, "spec": spec, "status": self._status(name)}

    def _status(self, name: str) -> dict[str, Any]:
        status = "False" if name in self.unready else "True"
        return {"conditions": [{"type": "Ready", "status": status}]}


def together() -> Cluster:
    return Cluster({"a": "node01", "b": "node01"})


def test_name_servers_on_two_machines_stay_where_they_are() -> None:
    cluster = Cluster({"a": "node01", "b": "node03"})
    assert cluster.wait().now == 0
    assert cluster.evicted == []


def test_one_of_two_on_the_same_machine_is_moved() -> None:
    cluster = together()
    cluster.wait()
    assert cluster.evicted == ["b"]
    assert set(cluster.pods.values()) == {"node01", "node02"}


def test_none_is_moved_before_both_serve() -> None:
    cluster = together()
    cluster.unready = {"b"}

    def change() -> None:
        assert cluster.evicted == [] or not cluster.unready
        cluster.unready = set()

    cluster.wait(change)
    assert cluster.evicted == ["b"]


def test_none_is_moved_before_another_machine_is_ready() -> None:
    cluster = together()
    cluster.unready = {"node02", "node03"}
    cluster.nodes["node02"] = [CONTROL_PLANE, NOT_READY]

    def change() -> None:
        assert cluster.evicted == [] or not cluster.unready
        cluster.unready = set()

    cluster.wait(change)
    assert cluster.evicted == ["b"]


def test_one_that_comes_back_to_the_same_machine_is_moved_again_later() -> None:
    cluster = together()
    cluster.lands = "node01"

    def change() -> None:
        cluster.lands = "node02" if cluster.evicted else "node01"

    time = cluster.wait(change)
    assert len(cluster.evicted) == 2
    assert time.now >= AGAIN_SECONDS


@pytest.mark.parametrize("replicas", [None, 0, 1])
def test_coredns_that_was_turned_off_or_has_one_pod_is_left_alone(replicas: int | None) -> None:
    cluster = together()
    cluster.replicas = replicas
    assert cluster.wait().now == 0
    assert cluster.evicted == []


def test_where_one_machine_takes_pods_there_is_nothing_to_do() -> None:
    cluster = together()
    cluster.nodes["node02"] = [STORAGE]
    cluster.cordoned = {"node03"}
    assert cluster.wait().now == 0
    assert cluster.evicted == []


def test_an_api_that_does_not_answer_is_asked_again() -> None:
    cluster = together()
    cluster.down = 3
    cluster.wait()
    assert cluster.evicted == ["b"]


def test_machines_that_never_turn_ready_are_named_with_what_to_look_at() -> None:
    cluster = together()
    cluster.unready = {"node02", "node03"}
    with pytest.raises(NameServersError) as caught:
        cluster.wait()
    assert str(caught.value) == (
        f"name servers: not on two machines after {SECONDS:.0f} s: all are on node01, and none of "
        "node02, node03 is ready; look at `kubectl get pods --namespace kube-system --selector "
        "k8s-app=kube-dns --output wide` and at `kubectl get nodes`, then run `pulumi up` again"
    )


def test_why_none_may_be_moved_is_told() -> None:
    cluster = together()
    cluster.refuses = "the disruption budget coredns needs 2 healthy pods"
    with pytest.raises(NameServersError, match="none may be moved: the disruption budget coredns"):
        cluster.wait()


def test_pods_that_never_serve_are_counted() -> None:
    cluster = together()
    cluster.unready = {"a", "b"}
    with pytest.raises(NameServersError, match="0 of 2 pods are ready"):
        cluster.wait()
