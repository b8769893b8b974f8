"""Layer Review: what another version of Kubernetes does to the machines that run.

The gate before the machines moves all programs in Talos' order, before any machine is touched
otherwise (components/talos/kubernetes_upgrade.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from components.talos.kubernetes_upgrade import GATE_NAME
from components.talos.kubernetes_versions import number
from config.resource_types import GATE
from config.versions import parse
from ops.engine.preview import Change
from ops.review.verdict import Effect, Verdict

SOURCE = "`talosctl upgrade-k8s`; kubernetes.io, version skew policy"
POD_SECONDS, KUBELET_SECONDS = 30, 20
"""What a static pod and a kubelet take until they are seen ready; images are pulled before."""
PODS = 3
"""Of a control plane: API server, controller manager, scheduler."""
IMAGES = (
    ("machine", "kubelet", "image"),
    ("cluster", "apiServer", "image"),
    ("cluster", "controllerManager", "image"),
    ("cluster", "scheduler", "image"),
    ("cluster", "proxy", "image"),
)
"""Fields of a configuration that the upgrade has written when the configuration comes."""


def is_kubernetes(change: Change) -> bool:
    """Say whether a change moves Kubernetes to another version."""
    return (change.type, change.name, change.operation) == (GATE, GATE_NAME, "update")


def kubernetes(change: Change, planes: Sequence[str], workers: Sequence[str]) -> Effect:
    """Judge another version, given the machines that run, each in the order of changes."""
    old, new = str(change.before("version")), str(change.after("version"))
    if refusal := _refusal(old, new):
        return Effect(Verdict.REFUSED, refusal, source=SOURCE)
    seconds = len(planes) * PODS * POD_SECONDS + (len(planes) + len(workers)) * KUBELET_SECONDS
    turns = " then ".join(planes)
    return Effect(
        Verdict.RESTARTS,
        f"Kubernetes {old} becomes {new}: images are pulled, then the API servers restart "
        f"({turns}), then the controller managers, then the schedulers, then the kubelets "
        f"({' then '.join([*planes, *workers])}), each seen ready before the next; about "
        f"{max(1, round(seconds / 60))} minutes. No machine reboots, and etcd goes on",
        "one API server at a time, for seconds: the others answer; pods run on",
        SOURCE,
    )


def _refusal(old: str, new: str) -> str:
    """Say what `pulumi up` will refuse, as far as the versions alone tell it."""
    try:
        step = number(new) - number(old) if parse(old)[0] == parse(new)[0] else None
    except (ValueError, IndexError):
        return ""
    if step in (0, 1):
        return ""
    way = "up by one minor version at a time, and not down across one"
    return f"Kubernetes goes {way}: not from {old} to {new}; `pulumi up` refuses it"
