"""Layer Kubernetes: the cluster's name servers are on two machines.

Talos brings CoreDNS with two pods that prefer to be apart. In a new cluster the scheduler places
both as soon as one machine is Ready, and leaves them there. When that machine is lost, no pod
resolves a name until Kubernetes starts the two elsewhere, five minutes later: nothing finds the API
of what it depends on, and nobody is told (siderolabs/talos, k8stemplates/coredns.go; kubernetes.io,
Taint based evictions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pulumi

from clients.kubernetes_api import POLL_SECONDS, ApiError, KubernetesApi
from clients.node_drain import is_ready
from clients.waiting import Clock
from components.gate import Gate
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from components.hooks import Hook

SECONDS = 180.0
"""Machines turn Ready within seconds of one another; a pod's image may have to come first."""
AGAIN_SECONDS = 30.0
"""How long after a pod was moved the next one is."""
NAMESPACE = "kube-system"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/coredns"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=k8s-app%3Dkube-dns"
NODES = "/api/v1/nodes"
NO_HINDRANCE = {
    "node-role.kubernetes.io/control-plane",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
}
"""Taints of machines: those that CoreDNS's pods tolerate, and those that are waited out."""


class NameServersError(Exception):
    """All name servers are on one machine."""

    page = "docs/operations.md"


def apart(
    machines: Sequence[str],
    *,
    release: pulumi.Resource,
    kubeconfig: pulumi.Output[str],
    parent: pulumi.Resource,
) -> Gate:
    """Give the gate that opens once two of these machines have name servers.

    `release` is the pod network's, without which no machine is Ready. Nothing waits for this gate.
    """
    hook = _spread(kubeconfig)
    return Gate(
        "name-servers",
        {"machines": sorted(machines)},
        after=release,
        on_create=hook,
        on_update=hook,
        opts=pulumi.ResourceOptions(parent=parent),
    )


def _spread(kubeconfig: pulumi.Output[str]) -> Hook:
    async def spread(args: pulumi.ResourceHookArgs) -> None:
        api = KubernetesApi(await resolved(kubeconfig))
        await in_thread(args, lambda clock: wait_apart(api, clock))

    return spread


def wait_apart(api: KubernetesApi, clock: Clock) -> None:
    """Move one name server away from the others, and wait until it serves.

    There is nothing to do where a patch of Talos' configuration has turned CoreDNS off, has given
    it one pod, or where only one machine takes pods. Raises `NameServersError`.
    """
    moves = _Moves(api, clock)
    lacks = clock.wait(
        "name servers on two machines", moves.lacking, seconds=SECONDS, poll=POLL_SECONDS
    )
    if lacks:
        message = (
            f"name servers: not on two machines after {SECONDS:.0f} s: {lacks}; look at `kubectl "
            f"get pods --namespace {NAMESPACE} --selector k8s-app=kube-dns --output wide` and at "
            "`kubectl get nodes`, then run `pulumi up` again"
        )
        raise NameServersError(message)


class _Moves:
    """Looks where the pods are, and moves one when all are together."""

    def __init__(self, api: KubernetesApi, clock: Clock) -> None:
        self._api, self._clock = api, clock
        self._moved = clock.now() - AGAIN_SECONDS

    def lacking(self) -> str:
        """Say what is missing until two machines have name servers, "" when nothing is."""
        try:
            return self._lacking()
        except ApiError as error:
            return str(error)

    def _lacking(self) -> str:
        deployment = self._api.find(DEPLOYMENT)
        wanted = 0 if deployment is None else int(deployment["spec"].get("replicas", 1))
        if wanted <= 1:
            return ""
        ready = [one for one in self._api.get(PODS)["items"] if _serves(one)]
        if len({one["spec"]["nodeName"] for one in ready}) > 1:
            return ""
        if len(ready) < wanted:
            return f"{len(ready)} of {wanted} pods are ready"
        return self._all_on(ready[0]["spec"]["nodeName"], ready)

    def _all_on(self, machine: str, pods: list[dict[str, Any]]) -> str:
        nodes = [one for one in self._api.get(NODES)["items"] if _takes_pods(one)]
        others = [one for one in nodes if one["metadata"]["name"] != machine]
        if not others:
            return ""
        together = f"all are on {machine}"
        if not any(is_ready(one) for one in others):
            names = ", ".join(sorted(one["metadata"]["name"] for one in others))
            return f"{together}, and none of {names} is ready"
        if self._clock.now() - self._moved < AGAIN_SECONDS:
            return f"{together}; one of them was moved before"
        refused = self._api.evict(NAMESPACE, pods[-1]["metadata"]["name"])
        if refused:
            return f"{together}, and none may be moved: {refused}"
        self._moved = self._clock.now()
        return f"{together}; one is being moved"


def _serves(pod: Mapping[str, Any]) -> bool:
    return is_ready(pod) and "deletionTimestamp" not in pod["metadata"]


def _takes_pods(node: Mapping[str, Any]) -> bool:
    taints = {
        one["key"] for one in node["spec"].get("taints", []) if one["effect"] != "PreferNoSchedule"
    }
    return not node["spec"].get("unschedulable") and taints <= NO_HINDRANCE
