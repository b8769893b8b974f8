"""Layer Drift: each node's labels, taints and annotations, and whether it takes pods.

Talos sets what the machine's configuration says; Kubernetes, Cilium and Talos set their own. What
else is there, somebody set by hand.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clients.kubernetes_api import KubernetesApi
from clients.node_drain import cordoned_for
from components.talos import redaction
from components.talos.marks import Marks
from ops.drift.finding import PULUMI, Field, Finding
from ops.drift.machines import Machine
from ops.drift.undeclared import NOT_SET, OF_TOOLS, set_by_people
from ops.review.difference import shown

NODES = "/api/v1/nodes"
SYSTEM = ("kubernetes.io", "k8s.io", "talos.dev", "cilium.io")
"""Domains of labels and taints that the platform's own parts set."""
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"

Object = Mapping[str, Any]


def findings(api: KubernetesApi, machines: Sequence[Machine]) -> Iterator[Finding]:
    """Compare every node with its machine's configuration. Raises `ApiError`."""
    nodes = {_address(one): one for one in (api.find(NODES) or {}).get("items", ())}
    for machine in machines:
        node = nodes.pop(machine.address, None)
        if node is None:
            yield _finding(
                machine.name,
                "is not a node of the cluster",
                f"`talosctl -n {machine.address} service kubelet` tells more",
            )
        elif isinstance(machine.wanted, Mapping):
            wanted = machine.wanted.get(redaction.MAIN) or {}
            yield from _node(node, wanted)
            yield from _kubelet(node, wanted)
    for address, node in nodes.items():
        name = node["metadata"]["name"]
        yield _finding(
            name,
            f"is a node that the stack does not know ({address})",
            f"find out who joined it. Left by a machine that is gone? `kubectl delete node {name}`",
        )


def _node(node: Object, wanted: Object) -> Iterator[Finding]:
    name = str(node["metadata"]["name"])
    machine = wanted.get("machine") or {}
    told = [
        *_labels(node, machine.get("nodeLabels") or {}),
        *_annotations(node, machine.get("nodeAnnotations") or {}),
        *_taints(node, Marks.of_machine(machine).taints, _schedules(wanted)),
    ]
    if (node.get("spec") or {}).get("unschedulable"):
        why = cordoned_for(node)
        left = f" (left by a `pulumi up` that was killed in its {why})" if why else ""
        found = f"true: it takes no new pods{left}"
        field = Field(where="spec.unschedulable", wanted=NOT_SET, found=found)
        told.append((field, f"kubectl uncordon {name}"))
    if told:
        fixes = list(dict.fromkeys(fix for _, fix in told))
        yield _finding(name, "changed", f"`{' && '.join(fixes)}`", [field for field, _ in told])


def _kubelet(node: Object, wanted: Object) -> Iterator[Finding]:
    """Find what an upgrade that was stopped left behind, also when its setting was taken back."""
    image = str(((wanted.get("machine") or {}).get("kubelet") or {}).get("image") or "")
    tag = image.partition("@")[0].rpartition(":")[2]
    found = str(((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion") or "")
    if tag and found and tag != found:
        yield _finding(
            str(node["metadata"]["name"]),
            "changed",
            "an upgrade of Kubernetes was stopped half way: `pulumi up` with the newer version as "
            "kubernetes.version goes on with it (docs/procedures/upgrade-kubernetes.md)",
            [Field(where="status.nodeInfo.kubeletVersion", wanted=tag, found=found)],
        )


def _labels(node: Object, wanted: Object) -> Iterator[tuple[Field, str]]:
    name, live = node["metadata"]["name"], node["metadata"].get("labels") or {}
    by_hand = set_by_people(node, "metadata", "labels")
    for key in sorted(live.keys() - wanted.keys()):
        if key in by_hand or not _of_system(key):
            yield _field("labels", key, None, live[key]), f"kubectl label node {name} {key}-"
    for key, value in sorted(wanted.items()):
        if str(live.get(key)) != str(value):
            fix = f"kubectl label --overwrite node {name} {key}={value}"
            yield _field("labels", key, value, live.get(key)), fix


def _annotations(node: Object, wanted: Object) -> Iterator[tuple[Field, str]]:
    name, live = node["metadata"]["name"], node["metadata"].get("annotations") or {}
    by_hand = set_by_people(node, "metadata", "annotations") - OF_TOOLS
    for key in sorted((live.keys() & by_hand) - wanted.keys()):
        yield _field("annotations", key, None, live[key]), f"kubectl annotate node {name} {key}-"
    for key, value in sorted(wanted.items()):
        if str(live.get(key)) != str(value):
            pair = shlex.quote(f"{key}={value}")
            fix = f"kubectl annotate --overwrite node {name} {pair}"
            yield _field("annotations", key, value, live.get(key)), fix


def _taints(
    node: Object,
    declared: Mapping[tuple[str, str], str],
    schedules: bool,  # noqa: FBT001
) -> Iterator[tuple[Field, str]]:
    name = node["metadata"]["name"]
    live = {
        (one["key"], one["effect"]): str(one.get("value") or "")
        for one in (node.get("spec") or {}).get("taints") or ()
    }
    for (key, effect), value in sorted(live.items()):
        own = _of_system(key) and (key != CONTROL_PLANE or not schedules)
        if (key, effect) not in declared and not own:
            field = Field(where=f"spec.taints.{key}", wanted=NOT_SET, found=f"{value}:{effect}")
            yield field, f"kubectl taint node {name} {key}:{effect}-"
    for (key, effect), value in sorted(declared.items()):
        if live.get((key, effect)) != value:
            found = live.get((key, effect))
            field = Field(
                where=f"spec.taints.{key}", wanted=f"{value}:{effect}",
                found=NOT_SET if found is None else f"{found}:{effect}",
            )  # fmt: skip
            yield field, f"kubectl taint --overwrite node {name} {key}={value}:{effect}"


def _schedules(wanted: Object) -> bool:
    """Say whether control planes take workloads, so that their taint is none of Talos'."""
    cluster = wanted.get("cluster") or {}
    plane = (wanted.get("machine") or {}).get("type") == "controlplane"
    return bool(cluster.get("allowSchedulingOnControlPlanes")) or not plane


def _of_system(key: str) -> bool:
    domain = key.rpartition("/")[0]
    return any(domain == one or domain.endswith(f".{one}") for one in SYSTEM)


def _field(what: str, key: str, wanted: Any, found: Any) -> Field:  # noqa: ANN401 JSON
    return Field(
        where=f'metadata.{what}["{key}"]',
        wanted=NOT_SET if wanted is None else shown(wanted),
        found=NOT_SET if found is None else shown(found),
    )


def _address(node: Object) -> str:
    for one in (node.get("status") or {}).get("addresses") or ():
        if one.get("type") == "InternalIP":
            return str(one["address"])
    return str(node["metadata"]["name"])


def _finding(name: str, what: str, fix: str, fields: Sequence[Field] = ()) -> Finding:
    return Finding(
        place="cluster",
        who=f"Node {name}",
        owner=PULUMI,
        what=what,
        fields=tuple(fields),
        fix=fix,
    )
