"""Layer Talos: what a patch must not say, though Talos takes it as a configuration.

Some of it the machine refuses only when it runs, some would win over a setting without a word.
Field names and rules are those of Talos 1.13.9; the source of each stands beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from config.rules import KEEPS_PODS_AWAY, may_set
from config.settings import API_PORT, Machine, Settings
from config.shown import escaped, key_text

Document = Mapping[str, Any]
DIRECTIVE = "$patch"
"""The key with which a patch tells how it is merged."""

ELSEWHERE = {
    "machine.type": "the machine's `role` in platform:machines",
    "machine.install.diskSelector": "platform:talos.installDisk, over which it would win",
    "machine.kubelet.extraArgs.hostname-override": "the machine's `name` in platform:machines",
    "machine.kubelet.extraArgs.node-ip": "the machine's `address` in platform:machines",
    "cluster.clusterName": "platform:cluster.name",
    "cluster.controlPlane.endpoint": "platform:network.vip",
    "cluster.apiServer.extraArgs.service-cluster-ip-range": "platform:network.services",
    "cluster.controllerManager.extraArgs.service-cluster-ip-range": "platform:network.services",
    "cluster.controllerManager.extraArgs.cluster-cidr": "platform:network.pods",
}
"""Where a value is set instead: here it would contradict what follows from the settings."""

ONLY = {
    "cluster.network.dnsDomain": "cluster.local",
    "cluster.controlPlane.localAPIServerPort": API_PORT,
    "cluster.controllerManager.extraArgs.allocate-node-cidrs": "true",
}
"""Values that the layers stand on, and that no setting changes."""

DENIED = {
    # internal/app/machined/pkg/controllers/k8s: kubelet_spec.go, control_plane_static_pod.go,
    # what is merged by MergeDenied: the component would not start.
    "machine.kubelet": "bootstrap-kubeconfig cert-dir config container-runtime "
    "container-runtime-endpoint kubeconfig",
    "cluster.apiServer": "authorization-config client-ca-file encryption-provider-config "
    "etcd-cafile etcd-certfile etcd-keyfile etcd-servers kubelet-client-certificate "
    "kubelet-client-key proxy-client-cert-file proxy-client-key-file requestheader-client-ca-file "
    "service-account-key-file service-account-signing-key-file tls-cert-file tls-private-key-file",
    "cluster.controllerManager": "authentication-kubeconfig authorization-kubeconfig "
    "cluster-signing-cert-file cluster-signing-key-file root-ca-file "
    "service-account-private-key-file",
    "cluster.scheduler": "authentication-kubeconfig authorization-kubeconfig config kubeconfig",
}
"""Arguments of a component that Talos takes from nobody."""

WRITABLE = ("/var", "/etc/kubernetes/manifests")
CONTAINERD = "/etc/cri/conf.d/20-customization.part"
"""Of files outside of /var only these are made (v1alpha1_sequencer_tasks.go, WriteUserFiles)."""


def did_you_mean(
    key: str, known: Iterable[str], *, alike: float = 0.6, otherwise: str = "remove it"
) -> str:
    """Give the fix for a key that is not among the known ones; `alike` is difflib's ratio."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=alike)
    return f"did you mean `{close[0]}`?" if close else otherwise


def faults(settings: Settings, machine: Machine, given: Document, *, shared: bool) -> Iterator[str]:
    """Find what is wrong with a document for a machine; `shared` by all machines of its role."""
    yield from _elsewhere(given)
    yield from _arguments(given)
    yield from _files(given)
    yield from _mirrors(settings, given)
    yield from _firewall(settings, given)
    alone = shared or len(settings.control_planes) == 1
    if alone and machine.is_control_plane and not any(map(_takes_pods, settings.workers)):
        yield from _nowhere_to_run(given)


def field(given: Any, path: str) -> Any:  # noqa: ANN401 YAML values
    """Give a field of a document; None where there is none."""
    for key in path.split("."):
        given = given.get(key) if isinstance(given, Mapping) else None
    return given


def _elsewhere(given: Document) -> Iterator[str]:
    for written, instead in ELSEWHERE.items():
        if field(given, written) is not None:
            yield f"{written}: the platform sets it; remove it, and set {instead}"
    for written, only in ONLY.items():
        value = field(given, written)
        if value is not None and str(value).lower() != str(only):
            yield f"{written}: the platform's layers stand on {only}; remove it"


def _arguments(given: Document) -> Iterator[str]:
    for component, names in DENIED.items():
        arguments = field(given, f"{component}.extraArgs")
        for name in sorted(set(names.split()) & _keys(arguments)):
            yield (
                f"{component}.extraArgs.{name}: Talos sets it itself, and starts no component that "
                "is told otherwise; remove it"
            )
    value = field(given, "machine.kubelet.extraArgs.node-labels")
    for text in value if isinstance(value, list) else [value or ""]:
        for label in (one.partition("=")[0].strip() for one in str(text).split(",")):
            if label and not may_set(label):
                yield (
                    f"machine.kubelet.extraArgs.node-labels: {key_text(label)} is a label that no "
                    "kubelet may set, and with which it does not start; use a domain of your own"
                )


def _files(given: Document) -> Iterator[str]:
    files = field(given, "machine.files")
    for number, one in enumerate(files if isinstance(files, list) else ()):
        path = str(field(one, "path") or "")
        if field(one, "op") != "create" or path == CONTAINERD:
            continue
        if not path.startswith("/var/") and str(PurePosixPath(path).parent) not in WRITABLE:
            yield (
                f"machine.files[{number}].path = {escaped(path)}: Talos makes files below /var "
                "alone, and does not start with this one; put it there, or use the extension or "
                "the field that is for it"
            )


def _mirrors(settings: Settings, given: Document) -> Iterator[str]:
    own = {one.registry for one in settings.talos.mirrors}
    for registry in sorted(own & _keys(field(given, "machine.registries.mirrors"))):
        yield (
            f"machine.registries.mirrors.{key_text(registry)}: platform:talos.mirrors replaces it; "
            "remove it, and list its endpoints there"
        )


def _firewall(settings: Settings, given: Document) -> Iterator[str]:
    if given.get("kind") == "NetworkDefaultActionConfig" and settings.network.firewall is None:
        yield (
            "NetworkDefaultActionConfig: without the platform's rules nobody reaches the machines; "
            "remove it, and set platform:network.firewall"
        )


def _takes_pods(machine: Machine) -> bool:
    return not any(one.effect in KEEPS_PODS_AWAY for one in machine.taints)


def _nowhere_to_run(given: Document) -> Iterator[str]:
    """Find what keeps pods off all control planes, where no worker takes them."""
    if field(given, "cluster.allowSchedulingOnControlPlanes") is False:
        yield (
            "cluster.allowSchedulingOnControlPlanes = False: without workers nothing could "
            "run; remove it, or add workers without taints to platform:machines"
        )
    taints = field(given, "machine.nodeTaints")
    values = taints.values() if isinstance(taints, Mapping) else ()
    if any(str(one).rpartition(":")[2] in KEEPS_PODS_AWAY for one in values):
        yield (
            "machine.nodeTaints: keeps pods away from every machine, and the platform's own "
            "services find none to run on; remove it, or add workers without taints to "
            "platform:machines"
        )


def _keys(value: object) -> set[str]:
    return {str(one) for one in value} if isinstance(value, Mapping) else set()
