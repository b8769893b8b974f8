"""Layer Kubernetes: a namespace and its network policies, as every layer makes them.

An isolated namespace denies all traffic but DNS queries; its layer opens what it needs.
Ports that the API server calls (webhooks, aggregated APIs), and the API server itself, are opened
without a peer: its traffic comes from and goes to machines, which no selector matches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pulumi

from components.kubernetes.objects import KubernetesObject, Metadata

Level = Literal["restricted", "baseline", "privileged"]
Rule = dict[str, Any]

DNS_PORT = 53
HTTPS_PORT = 443
MONITORING_LABEL = {"platform.io/scrapes-metrics": "true"}
"""The label of a namespace whose pods may read metrics."""


class IsolatedNamespace:
    """A namespace with Pod Security labels that denies by default."""

    def __init__(
        self,
        name: str,
        level: Level,
        parent: pulumi.Resource,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Make the namespace; `level` is what its pods are held to, `labels` are further ones."""
        self.name = name
        self._parent = parent
        modes = ("enforce", "audit", "warn")
        self.resource = KubernetesObject(
            "v1",
            "Namespace",
            name,
            metadata={
                "name": name,
                "labels": {
                    **{f"pod-security.kubernetes.io/{mode}": level for mode in modes},
                    **(labels or {}),
                },
            },
            opts=pulumi.ResourceOptions(parent=parent),
        )
        name_service = {
            "to": [
                {
                    "namespaceSelector": in_namespace("kube-system"),
                    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                }
            ],
            "ports": [*ports(DNS_PORT, protocol="UDP"), *ports(DNS_PORT)],
        }
        self._policy(
            "default-deny",
            {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [name_service]},
        )

    def options(self, *after: pulumi.Input[pulumi.Resource]) -> pulumi.ResourceOptions:
        """Give options for what is made in this namespace, and after these."""
        return pulumi.ResourceOptions(parent=self._parent, depends_on=[self.resource, *after])

    def allow(
        self,
        what: str,
        pods: Mapping[str, str],
        *,
        ingress: Sequence[Rule] = (),
        egress: Sequence[Rule] = (),
    ) -> None:
        """Open what the pods with these labels need; `what` names the policy."""
        spec: dict[str, Any] = {"podSelector": {"matchLabels": dict(pods)}, "policyTypes": []}
        for kind, rules in (("Ingress", ingress), ("Egress", egress)):
            if rules:
                spec["policyTypes"].append(kind)
                spec[kind.lower()] = list(rules)
        self._policy(what, spec)

    def secret(
        self,
        name: str,
        texts: Mapping[str, pulumi.Input[str]],
        *,
        kind: str = "Opaque",
        labels: Mapping[str, str] | None = None,
    ) -> KubernetesObject:
        """Make a Secret of texts.

        What is empty is left out: the API server drops it, and every preview would put it back.
        Its metadata are secret in the state too: whoever gives it to `kubectl apply` leaves a copy
        of all it holds in an annotation, and the provider hides only the data.
        """
        hidden = pulumi.ResourceOptions(
            additional_secret_outputs=["data", "stringData", "metadata"]
        )
        metadata: Metadata = {"name": name, "namespace": self.name}
        if labels:
            metadata["labels"] = labels
        return KubernetesObject(
            "v1",
            "Secret",
            f"{self.name}/{name}",
            metadata=metadata,
            type=kind,
            stringData=pulumi.Output.secret(texts) if texts else None,
            opts=pulumi.ResourceOptions.merge(self.options(), hidden),
        )

    def _policy(self, what: str, spec: Rule) -> None:
        KubernetesObject(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            f"{self.name}/{what}",
            metadata={"name": what, "namespace": self.name},
            spec=spec,
            opts=self.options(),
        )


def in_namespace(name: str) -> Rule:
    """Select a namespace by its name."""
    return {"matchLabels": {"kubernetes.io/metadata.name": name}}


def ports(*numbers: int, protocol: str = "TCP") -> list[Rule]:
    """Name ports in a rule."""
    return [{"port": number, "protocol": protocol} for number in numbers]


def anybody(*numbers: int) -> Rule:
    """Let everybody in, or out to everybody, on these ports."""
    return {"ports": ports(*numbers)}


def metrics(*numbers: int) -> Rule:
    """Let monitoring's namespaces read metrics on these ports."""
    return {
        "from": [{"namespaceSelector": {"matchLabels": MONITORING_LABEL}}],
        "ports": ports(*numbers),
    }
