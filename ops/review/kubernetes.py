"""Layer Review: what changes of Kubernetes objects do; of releases see charts.py.

Immutable fields are the API server's (k8s.io/kubernetes, pkg/apis/*/validation); the provider makes
a replacement of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ops.engine.operations import WORDS
from ops.engine.preview import Change
from ops.review.difference import leaves
from ops.review.verdict import Effect, Verdict

PREFIX = "kubernetes:"
PROVIDER = "pulumi:providers:kubernetes"

STATELESS = {
    "platform:kubernetes:Backup",
    "platform:kubernetes:MetalLB",
    "platform:kubernetes:MetricsServer",
    "platform:kubernetes:ServingCertificateApprover",
}
"""Layers in whose namespaces nothing is that the next installation does not make again."""

PASSIVE = frozenset(
    [
        "APIService",
        "CiliumBGPAdvertisement",
        "CiliumBGPClusterConfig",
        "CiliumBGPPeerConfig",
        "CiliumGatewayClassConfig",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterIssuer",
        "ConfigMap",
        "GatewayClass",
        "HorizontalPodAutoscaler",
        "IngressClass",
        "Issuer",
        "L2Advertisement",
        "LimitRange",
        "MutatingWebhookConfiguration",
        "PodDisruptionBudget",
        "PriorityClass",
        "Role",
        "RoleBinding",
        "ResourceQuota",
        "RuntimeClass",
        "ServiceAccount",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    ]
)
"""A change of them stops no pod and no connection by itself."""
ROUTES = frozenset(
    [
        "Gateway",
        "HTTPRoute",
        "Ingress",
        "IngressRoute",
        "IngressRouteTCP",
        "Middleware",
        "ServersTransport",
        "TLSOption",
        "TLSStore",
    ]
)
WORKLOADS = frozenset(["DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"])


LOCAL_SOURCE = "kubernetes.io, persistent volumes: Retain"


def kind_of(change: Change) -> str:
    """Give the object's kind: `kubernetes:core/v1:Secret` is a Secret."""
    kind = change.type.rsplit(":", 1)[-1]
    return kind.removesuffix("Patch")


def judge(change: Change) -> Effect:
    """Judge an object of the API."""
    kind = kind_of(change)
    if change.operation == "create":
        return Effect(Verdict.SAFE, f"{kind} {WORDS['create']}")
    if rule := RULES.get(kind):
        return rule(change)
    if kind in WORKLOADS:
        return workload(change)
    if kind in ROUTES:
        return route(change)
    if kind in PASSIVE:
        return Effect(Verdict.SAFE, f"{kind} {WORDS[change.operation]}; no pod restarts")
    return Effect(Verdict.UNKNOWN, f"{kind}: ops/review/kubernetes.py has no rule for it")


def workload(change: Change) -> Effect:
    """Judge what runs pods."""
    kind = kind_of(change)
    if change.operation == "delete":
        return Effect(Verdict.RESTARTS, f"{kind} stops for good", "its pods, for good")
    if change.operation == "replace":
        return Effect(
            Verdict.RESTARTS,
            f"{kind} is deleted and recreated ({', '.join(change.replacing)} cannot change)",
            "all its pods at once, until the new ones are ready",
            "apps/v1: spec.selector is immutable",
        )
    paths = [one.path for one in leaves(change.before("spec"), change.after("spec"))]
    if any(path[:1] == ("template",) for path in paths):
        return Effect(
            Verdict.RESTARTS, f"{kind} rolls out new pods", "one pod after the other, seconds"
        )
    return Effect(Verdict.SAFE, f"{kind} changes without new pods")


def route(change: Change) -> Effect:
    """Judge what leads requests to workloads."""
    kind = kind_of(change)
    if change.operation == "delete":
        return Effect(Verdict.RESTARTS, f"{kind} is deleted", "what it leads to, for good")
    if change.operation == "replace":
        return Effect(Verdict.RESTARTS, f"{kind} is recreated", "what it leads to, seconds")
    return Effect(Verdict.SAFE, f"{kind} changes: requests follow the new rules at once")


def _namespace(change: Change) -> Effect:
    if change.operation == "update":
        return Effect(Verdict.SAFE, "labels change; they hold for new pods only")
    if change.operation == "delete" and change.ancestry and change.ancestry[-1] in STATELESS:
        return Effect(
            Verdict.RESTARTS,
            "the layer is deleted with its namespace; nothing in it is lost that is not made again",
            "the layer, for good",
        )
    return Effect(
        Verdict.LOSES,
        "the namespace is deleted, and everything in it: Secrets, certificates and volumes too",
        "all that is in it",
        "kubernetes.io, namespaces: deletion is cascading",
    )


def _volume(change: Change) -> Effect:
    if change.operation == "update":
        return Effect(Verdict.SAFE, "the volume grows or is labelled; it cannot shrink")
    if kept(change.before("spec")):
        why = "the volume can be claimed no more; what it holds stays on its disk"
        return Effect(Verdict.RESTARTS, why, "pods that have claimed it, for good", LOCAL_SOURCE)
    return Effect(Verdict.LOSES, "the volume is deleted", "its data")


def kept(spec: Any) -> bool:  # noqa: ANN401 JSON
    """Say whether a PersistentVolume's data outlives the object, as that of a local one does."""
    of = spec if isinstance(spec, Mapping) else {}
    return bool(of.get("local")) and of.get("persistentVolumeReclaimPolicy") == "Retain"


def _definition(change: Change) -> Effect:
    if change.operation in ("delete", "replace"):
        return Effect(
            Verdict.LOSES,
            "the definition is deleted, and with it every object of its kind",
            "all objects of its kind",
            "kubernetes.io, custom resources: deleting a definition deletes its objects",
        )
    lost = set(_versions(change.old)) - set(_versions(change.new))
    if lost:
        return Effect(
            Verdict.UNKNOWN,
            f"the definition no longer serves {', '.join(sorted(lost))}: who still uses it fails",
        )
    return Effect(Verdict.SAFE, "the definition changes; all served versions stay")


def _versions(state: Any) -> Iterator[str]:  # noqa: ANN401 State or None
    spec = (state.inputs.get("spec") or {}) if state else {}
    for one in spec.get("versions") or ():
        if one.get("served", True):
            yield str(one.get("name"))


def _secret(change: Change) -> Effect:
    if change.operation == "delete":
        return Effect(
            Verdict.RESTARTS, "the Secret is deleted", "pods that read it fail at their next start"
        )
    return Effect(
        Verdict.SAFE,
        "the Secret changes; pods that read it only at their start keep the old one until then",
    )


def _service(change: Change) -> Effect:
    if change.operation == "delete":
        return Effect(
            Verdict.RESTARTS, "the Service is deleted", "whatever is reached through it, for good"
        )
    if change.operation == "replace":
        return Effect(
            Verdict.RESTARTS, "the Service is recreated", "its address, seconds to minutes"
        )
    old, new = (_annotations(one) for one in (change.old, change.new))
    key = "metallb.io/loadBalancerIPs"
    if old.get(key) != new.get(key):
        return Effect(
            Verdict.RESTARTS,
            f"the address moves from {old.get(key, '-')} to {new.get(key, '-')}",
            "the old address, for good; DNS must follow",
        )
    return Effect(Verdict.SAFE, "the Service changes; its address stays")


def _annotations(state: Any) -> Mapping[str, str]:  # noqa: ANN401 State or None
    metadata = (state.inputs.get("metadata") or {}) if state else {}
    return metadata.get("annotations") or {}


def _policy(change: Change) -> Effect:
    return Effect(
        Verdict.UNKNOWN,
        f"the NetworkPolicy {WORDS[change.operation]}: traffic opens or closes; read it",
    )


def _pool(change: Change) -> Effect:
    if change.operation != "update":
        return Effect(
            Verdict.RESTARTS,
            "the pool is deleted",
            "Services with its addresses, until they get others",
        )
    old, new = (_addresses(one) for one in (change.before("spec"), change.after("spec")))
    if old <= new:
        return Effect(Verdict.SAFE, "the pool grows; addresses that were given stay")
    return Effect(
        Verdict.RESTARTS,
        f"the pool loses {len(old - new)} addresses",
        "Services with one of them, until they get others",
        "metallb.io/configuration: a Service loses an address that no pool has",
    )


def addresses_lost(change: Change) -> int:
    """Count the addresses of a pool that it has no longer."""
    old, new = (_addresses(one) for one in (change.before("spec"), change.after("spec")))
    return len(old - new)


def _addresses(spec: Any) -> set[int]:  # noqa: ANN401 JSON
    found: set[int] = set()
    for text in (spec or {}).get("addresses") or ():
        first, _, last = str(text).partition("-")
        if last:
            low, high = (int(ipaddress.ip_address(one.strip())) for one in (first, last))
        else:
            network = ipaddress.ip_network(first, strict=False)
            low, high = int(network.network_address), int(network.broadcast_address)
        found |= set(range(low, high + 1))
    return found


def _certificate(change: Change) -> Effect:
    if change.operation == "delete":
        return Effect(Verdict.SAFE, "the certificate is no longer renewed; its Secret stays")
    return Effect(Verdict.SAFE, "the certificate is issued again; the old one serves until then")


def _job(change: Change) -> Effect:
    if change.operation == "delete":
        return Effect(Verdict.RESTARTS, f"{kind_of(change)} stops for good", "its runs, for good")
    return Effect(Verdict.SAFE, f"{kind_of(change)} changes; its next run is the new one")


def _application(change: Change) -> Effect:
    if change.operation == "delete":
        return Effect(
            Verdict.SAFE,
            "Argo CD forgets it; without a finalizer its objects run on, and nothing updates them",
        )
    return Effect(
        Verdict.UNKNOWN, "Argo CD follows another source or other rules; see what it would sync"
    )


RULES: Mapping[str, Callable[[Change], Effect]] = {
    "Application": _application,
    "ApplicationSet": _application,
    "AppProject": _application,
    "Certificate": _certificate,
    "CronJob": _job,
    "CustomResourceDefinition": _definition,
    "IPAddressPool": _pool,
    "Job": _job,
    "Namespace": _namespace,
    "NetworkPolicy": _policy,
    "PersistentVolume": _volume,
    "PersistentVolumeClaim": _volume,
    "Secret": _secret,
    "Service": _service,
}


def provider(change: Change) -> Effect:
    """Judge the provider of everything on the cluster."""
    if change.operation == "replace":
        return Effect(
            Verdict.LOSES,
            "the provider is replaced, and with it everything that it made on the cluster",
            "everything on the cluster",
            "pulumi-kubernetes: a changed cluster entry replaces; set cluster_identifier",
        )
    return Effect(Verdict.SAFE, "the access to the cluster is renewed; nothing is touched")
