"""Layer Kubernetes: rules that the API server itself holds, whoever writes (in CEL).

What the platform promises about namespaces would else be convention: no port on a machine past the
ingress, no namespace with fewer restrictions than it may have, and no application that answers for
a name of the platform's. Expressions are CEL (https://kubernetes.io/docs/reference/using-api/cel/);
one that fails refuses the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pulumi

from components.kubernetes.objects import KubernetesObject

if TYPE_CHECKING:
    from config.settings import Services

LEVELS: Mapping[str, str] = {
    "argocd": "restricted",
    "cert-manager": "restricted",
    "kubelet-serving-cert-approver": "restricted",
    "logging": "privileged",
    "metallb-system": "privileged",
    "metrics-server": "restricted",
    "monitoring": "restricted",
    "platform-backup": "restricted",
    "traefik": "restricted",
}
"""The Pod Security level of each of the platform's namespaces."""

FREE = ("kube-system",)
"""Namespaces that Pod Security leaves alone; Talos' configuration of the API server says so too."""

APPLICATIONS = "app-"
"""Namespaces of applications (apps/README.md) begin like this, and are restricted."""

ROUTE_PRIORITY = 1_000_000
"""Of the platform's own routes; others stay below. A route without one has its rule's length."""

LABEL = "pod-security.kubernetes.io/enforce"


class Check(NamedTuple):
    """An expression that must be true, and what its author is told when it is not."""

    expression: str
    message: str


class Policy(NamedTuple):
    """What is checked when objects of these resources are created or changed."""

    name: str
    resources: Mapping[str, Sequence[str]]
    """By API group, without versions."""
    checks: Sequence[Check]
    variables: Mapping[str, str]


class Guardrails(pulumi.ComponentResource):
    """The rules, in force for everybody."""

    def __init__(
        self,
        name: str,
        hosts: Mapping[str, tuple[str, ...]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make a policy and its binding for each rule; `hosts` are what `hosts_of` gives."""
        super().__init__("platform:kubernetes:Guardrails", name, None, opts)
        rules = policies(hosts)
        for policy in rules:
            made = KubernetesObject(
                "admissionregistration.k8s.io/v1",
                "ValidatingAdmissionPolicy",
                policy.name,
                metadata={"name": policy.name},
                spec=_spec(policy),
                opts=pulumi.ResourceOptions(parent=self),
            )
            KubernetesObject(
                "admissionregistration.k8s.io/v1",
                "ValidatingAdmissionPolicyBinding",
                policy.name,
                metadata={"name": policy.name},
                spec={"policyName": policy.name, "validationActions": ["Deny"]},
                opts=pulumi.ResourceOptions(parent=self, depends_on=[made]),
            )
        self.register_outputs({"policies": [policy.name for policy in rules]})


def policies(hosts: Mapping[str, tuple[str, ...]]) -> list[Policy]:
    """List the rules; `hosts` are what `hosts_of` gives."""
    return [_ports(), _levels(), *_hosts(hosts)]


def hosts_of(services: Services) -> dict[str, tuple[str, ...]]:
    """Give the namespaces that alone may answer for each name of the platform's."""
    owners = dict[str, tuple[str, ...]]()
    if services.argocd is not None:
        # The dashboards are below it (components/kubernetes/monitoring.py). Also as long as there
        # are none: a rule that changes is in force on one API server earlier than on the next.
        owners[services.argocd.domain] = ("argocd", "logging", "monitoring")
    if services.traefik is not None and services.traefik.dashboard_domain is not None:
        owners[services.traefik.dashboard_domain] = ("traefik",)
    return owners


def _ports() -> Policy:
    return Policy(
        "platform-no-machine-ports",
        {"": ["services"]},
        [
            Check(
                "object.spec.type != 'NodePort'",
                "a NodePort opens a port on every machine, past the ingress: use ClusterIP behind "
                "the ingress, or LoadBalancer with allocateLoadBalancerNodePorts: false",
            ),
            Check(
                "object.spec.type != 'LoadBalancer' || "
                "(has(object.spec.allocateLoadBalancerNodePorts) && "
                "!object.spec.allocateLoadBalancerNodePorts)",
                "a LoadBalancer opens ports on every machine too: set "
                "allocateLoadBalancerNodePorts: false",
            ),
            Check(
                "!has(object.spec.externalIPs) || object.spec.externalIPs.size() == 0",
                "externalIPs take any address of the network for this Service: use LoadBalancer, "
                "which gets one of the platform's pools",
            ),
        ],
        {},
    )


def _levels() -> Policy:
    restricted = "variables.level == 'restricted'"
    kept = (
        f"!(object.metadata.name in {json.dumps(dict(LEVELS))}) || "
        f"variables.level == {json.dumps(dict(LEVELS))}[object.metadata.name]"
    )
    others = json.dumps([*LEVELS, *FREE])
    return Policy(
        "platform-pod-security",
        {"": ["namespaces"]},
        [
            Check(kept, f"a namespace of the platform keeps its level of {LABEL}"),
            Check(
                f"!object.metadata.name.startsWith('{APPLICATIONS}') || {restricted}",
                f"a namespace of an application has the label {LABEL}: restricted",
            ),
            Check(
                f"object.metadata.name in {others} || variables.level != 'privileged'",
                f"{LABEL}: privileged is for namespaces of the platform only: baseline or "
                "restricted, or a line in components/kubernetes/guardrails.py",
            ),
        ],
        {
            "level": "has(object.metadata.labels) && "
            f"'{LABEL}' in object.metadata.labels ? object.metadata.labels['{LABEL}'] : 'baseline'"
        },
    )


def _hosts(taken: Mapping[str, tuple[str, ...]]) -> list[Policy]:
    """Keep the platform's names for its own namespaces, whatever kind of route asks for them."""
    if not taken:
        return []
    own = json.dumps(sorted({one for owners in taken.values() for one in owners}))
    variables = {"taken": json.dumps(dict(taken)), "own": f"object.metadata.namespace in {own}"}
    told = f"{', '.join(sorted(taken))}: names of the platform's own, for its namespaces only"
    too_high = f"a priority of {ROUTE_PRIORITY} or more is for routes of the platform"

    def free(name: str) -> str:
        """Say that a text of CEL names no name that is taken by another namespace."""
        return f"variables.taken.all(h, object.metadata.namespace in variables.taken[h] || {name})"

    annotation = "traefik.ingress.kubernetes.io/router.priority"
    return [
        Policy(
            "platform-names-ingress",
            {"networking.k8s.io": ["ingresses"]},
            [
                Check(
                    "!has(object.spec.rules) || object.spec.rules.all(r, !has(r.host) || "
                    + free("r.host.lowerAscii() != h")
                    + ")",
                    told,
                ),
                Check(
                    "variables.own || !has(object.metadata.annotations) || "
                    f"!('{annotation}' in object.metadata.annotations) || "
                    f"int(object.metadata.annotations['{annotation}']) < {ROUTE_PRIORITY}",
                    too_high,
                ),
            ],
            variables,
        ),
        Policy(
            "platform-names-traefik",
            {"traefik.io": ["ingressroutes", "ingressroutetcps"]},
            [
                Check(
                    "object.spec.routes.all(r, !has(r.match) || "
                    + free("!r.match.lowerAscii().contains(h)")
                    + ")",
                    told,
                ),
                Check(
                    "variables.own || object.spec.routes.all(r, !has(r.priority) || "
                    f"r.priority < {ROUTE_PRIORITY})",
                    too_high,
                ),
            ],
            variables,
        ),
        Policy(
            "platform-names-gateway",
            {"gateway.networking.k8s.io": ["httproutes", "grpcroutes", "tlsroutes"]},
            [
                Check(
                    "!has(object.spec.hostnames) || object.spec.hostnames.all(n, "
                    + free("n.lowerAscii() != h")
                    + ")",
                    told,
                )
            ],
            variables,
        ),
    ]


def _spec(policy: Policy) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [group],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": list(resources),
                }
                for group, resources in policy.resources.items()
            ]
        },
        "validations": [
            {"expression": check.expression, "message": check.message, "reason": "Forbidden"}
            for check in policy.checks
        ],
    }
    if policy.variables:
        spec["variables"] = [
            {"name": name, "expression": text} for name, text in policy.variables.items()
        ]
    return spec
