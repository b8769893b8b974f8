"""A node whose machine is about to go: no new pods on it, its pods elsewhere, and back again.

As `kubectl cordon`, `drain --force --ignore-daemonsets --delete-emptydir-data` and `uncordon` do
it, and Talos' own drain: with the API's eviction, which respects disruption budgets
(https://kubernetes.io/docs/tasks/administer-cluster/safely-drain-node/). A pod without a controller
goes too, and is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.waiting import Clock

CORDONED_FOR = "platform.io/cordoned-for"
"""An annotation of a node that says why this program cordoned it; one without it is left as it is,
since a person cordoned it."""
MIRROR = "kubernetes.io/config.mirror"
"""An annotation of a pod that the kubelet runs from a file: it goes and comes with the machine."""
POLL_SECONDS = 2.0
SHOWN = 10
"""Pods that a message names."""


class DrainError(Exception):
    """A node still has pods that must not go; the text names each, and what keeps it."""

    page = "docs/procedures/upgrade-talos.md"


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    api: KubernetesApi
    name: str

    @property
    def _path(self) -> str:
        return f"/api/v1/nodes/{self.name}"

    def cordoned_for(self) -> str | None:
        """Say why this program cordoned the node; None when it did not. Raises `ApiError`."""
        return cordoned_for(self.api.find(self._path) or {})

    def cordon(self, why: str) -> bool:
        """Let no new pod onto the node; tells whether there is one. Raises `ApiError`."""
        found = self.api.find(self._path)
        if found is None:
            return False
        if cordoned_for(found) is None and found.get("spec", {}).get("unschedulable"):
            return True
        self._change({CORDONED_FOR: why}, unschedulable=True)
        return True

    def uncordon(self) -> None:
        """Let pods onto a node that this program cordoned. Raises `ApiError`."""
        if self.cordoned_for() is not None:
            self._change({CORDONED_FOR: None}, unschedulable=None)

    def note(self, key: str, text: str | None) -> None:
        """Keep a text as an annotation of the node, if there is one. Raises `ApiError`."""
        if self.api.find(self._path) is not None:
            self.api.merge(self._path, {"metadata": {"annotations": {key: text}}})

    def noted(self, key: str) -> str | None:
        """Read an annotation of the node. Raises `ApiError`."""
        return _annotations(self.api.find(self._path) or {}).get(key)

    def _change(self, annotations: Mapping[str, str | None], *, unschedulable: bool | None) -> None:
        body = {
            "metadata": {"annotations": annotations},
            "spec": {"unschedulable": unschedulable},
        }
        self.api.merge(self._path, body)

    def drain(self, clock: Clock, seconds: float) -> None:
        """Evict the node's pods and wait until they are gone.

        Raises `DrainError` when some are still there after so many seconds.
        """
        told = False

        def lacking() -> str:
            nonlocal told
            try:
                pods = self._pods()
                alone = [_label(pod) for pod in pods if _is_alone(pod)]
                if alone and not told:
                    told = True
                    clock.tell(f"{self.name}: no controller makes these again: {_few(alone)}")
                return _few([f"{_label(pod)}: {self._why_there(pod)}" for pod in pods])
            except ApiError as error:
                return f"the Kubernetes API does not answer: {error}"

        left = clock.wait(
            f"the pods of {self.name} to go elsewhere",
            lacking,
            seconds=seconds,
            poll=POLL_SECONDS,
        )
        if left:
            raise DrainError(
                f"the pods of {self.name} did not go elsewhere within {seconds:.0f} s: {left}. A "
                "disruption budget lets a pod go only while enough others of its application are "
                "healthy: give it more replicas or a smaller budget (`kubectl get "
                "poddisruptionbudgets --all-namespaces`)"
            )

    def _pods(self) -> list[dict[str, Any]]:
        """List the pods that have to go first. Raises `ApiError`."""
        listed = self.api.get(f"/api/v1/pods?fieldSelector=spec.nodeName={self.name}")
        pods = [pod for pod in listed["items"] if goes(pod)]
        if any(map(_ends, pods)) and not is_ready(self.api.find(self._path) or {}):
            # Its kubelet tells the end of none: they end with the machine.
            return [pod for pod in pods if not _ends(pod)]
        return pods

    def _why_there(self, pod: Mapping[str, Any]) -> str:
        about = pod["metadata"]
        if _ends(pod):
            return f"it is ending, which may take {about.get('deletionGracePeriodSeconds', 0)} s"
        return self.api.evict(about["namespace"], about["name"]) or "it was asked to end"


def cordoned_for(node: Mapping[str, Any]) -> str | None:
    """Read from a node why this program cordoned it; None when it did not."""
    return _annotations(node).get(CORDONED_FOR)


def _annotations(node: Mapping[str, Any]) -> dict[str, str]:
    return node.get("metadata", {}).get("annotations") or {}


def goes(pod: Mapping[str, Any]) -> bool:
    """Tell whether a drain takes a pod away: not one that has ended, or belongs to its node."""
    about = pod["metadata"]
    if MIRROR in (about.get("annotations") or {}):
        return False
    if pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return False
    owners = about.get("ownerReferences") or []
    return not any(one.get("controller") and one.get("kind") == "DaemonSet" for one in owners)


def _ends(pod: Mapping[str, Any]) -> bool:
    """Tell whether the pod was asked to end."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def _is_alone(pod: Mapping[str, Any]) -> bool:
    """Tell whether no controller would make the pod again elsewhere: a drain is its end."""
    owners = pod["metadata"].get("ownerReferences") or []
    return not any(one.get("controller") for one in owners)


def is_ready(one: Mapping[str, Any]) -> bool:
    """Tell whether a node or a pod is Ready."""
    conditions = one.get("status", {}).get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _few(names: Sequence[str]) -> str:
    more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more


def _label(pod: Mapping[str, Any]) -> str:
    return f"pod {pod['metadata']['name']} in namespace {pod['metadata']['namespace']}"
