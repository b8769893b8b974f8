"""Layer Render: what the platform asks of everything that runs on it.

The rules follow Kubernetes' Pod Security standard `restricted`
(https://kubernetes.io/docs/concepts/security/pod-security-standards) and the project's own: nothing
without requests, no port on the machines, nothing that blocks a drain. What cannot keep to a rule
stands in `ops.render.exceptions` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ops.render.difference import name_of, written
from ops.render.workloads import Cluster, Container, Object, Workload

Fault = tuple[str, str]
"""The container that it is about (empty for all of it), and what is wrong."""

NEEDED = (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
"""No limit of CPU: config/charts.py says why."""
SECCOMP = {"RuntimeDefault", "Localhost"}
EXACT_TAG = re.compile(r"v?\d+\.\d+\.\d+([-+._]?[0-9A-Za-z][0-9A-Za-z.+_-]*)?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
IMAGE_ARGUMENT = re.compile(r"--[a-z0-9-]*image=(?P<image>\S+)")
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL|KEY", re.IGNORECASE)
PLACE = re.compile(r"_(PATH|FILE|DIR|NAME)$", re.IGNORECASE)
"""A variable that says where a secret is."""
REFERENCE = re.compile(r"\$\([A-Za-z_][A-Za-z0-9_]*\)")
"""Kubernetes puts another variable there, which may come from a Secret."""


@dataclass(frozen=True)
class Finding:
    """Something that does not keep to a rule."""

    rule: str
    workload: str
    part: str
    what: str

    def __str__(self) -> str:
        """Say it in a line."""
        where = f"{self.workload}, container {self.part}" if self.part else self.workload
        return f"{where}: {self.what} [{self.rule}]"


@dataclass(frozen=True)
class Allowed:
    """An exception with its reason."""

    rule: str
    workload: str
    """`Deployment traefik/traefik`; `*` stands for anything, as in a generated name."""
    why: str
    parts: tuple[str, ...] = ("",)
    """The containers that it is about; empty for the whole pod."""

    def covers(self, finding: Finding, part: str) -> bool:
        """Say whether it allows this, for this one of its parts."""
        return (
            self.rule == finding.rule
            and part == finding.part
            and fnmatchcase(finding.workload, self.workload)
        )


def judge(objects: Iterable[Object], allowed: Iterable[Allowed]) -> list[str]:
    """Say what keeps to no rule and is not allowed, and which exceptions nothing needs any more."""
    found, exceptions = list(findings(objects)), tuple(allowed)
    faults = [
        str(one)
        for one in found
        if not any(each.covers(one, part) for each in exceptions for part in each.parts)
    ]
    return faults + [
        f"the exception for {each.workload}{f', container {part}' if part else ''} [{each.rule}] "
        "matches nothing any more: take it out of ops/render/exceptions.py"
        for each in exceptions
        for part in each.parts
        if not any(each.covers(one, part) for one in found)
    ]


def findings(objects: Iterable[Object]) -> Iterator[Finding]:
    """Hold everything against every rule."""
    cluster = Cluster(objects)
    for workload in cluster.workloads:
        for rule, check in WORKLOAD_RULES.items():
            for part, what in check(workload, cluster):
                yield Finding(rule, workload.written, part, what)
        for container in workload.containers:
            for rule, look in CONTAINER_RULES.items():
                for what in look(container):
                    yield Finding(rule, workload.written, container.name, what)
    for service in cluster.all("Service"):
        for what in _node_ports(service["spec"]):
            yield Finding("node-port", written(name_of(service)), "", what)


# --- Of a container ------------------------------------------------------------------------------


def _resources(container: Container) -> Iterator[str]:
    given = container.spec.get("resources") or {}
    for kind, what in NEEDED:
        if not (given.get(kind) or {}).get(what):
            yield f"has no {what} in resources.{kind}"


def _escalation(container: Container) -> Iterator[str]:
    if container.security.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation is not false"


def _privileged(container: Container) -> Iterator[str]:
    if container.security.get("privileged"):
        yield "is privileged"


def _read_only(container: Container) -> Iterator[str]:
    if container.security.get("readOnlyRootFilesystem") is not True:
        yield "securityContext.readOnlyRootFilesystem is not true"


def _non_root(container: Container) -> Iterator[str]:
    if container.security.get("runAsUser") == 0:
        yield "runs as root: runAsUser is 0"
    elif container.security.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot is not true, of the container or the pod"


def _seccomp(container: Container) -> Iterator[str]:
    profile = container.security.get("seccompProfile") or {}
    if profile.get("type") not in SECCOMP:
        yield "seccompProfile.type is not RuntimeDefault, of the container or the pod"


def _dropped(container: Container) -> Iterator[str]:
    if "ALL" not in ((container.security.get("capabilities") or {}).get("drop") or ()):
        yield "securityContext.capabilities.drop does not name ALL"


def _added(container: Container) -> Iterator[str]:
    if added := (container.security.get("capabilities") or {}).get("add"):
        yield f"adds capabilities: {', '.join(added)}"


def _image(container: Container) -> Iterator[str]:
    arguments = [str(one) for one in container.spec.get("args") or ()]
    named = [found["image"] for one in arguments if (found := IMAGE_ARGUMENT.fullmatch(one))]
    for image in [container.spec.get("image") or "", *named]:
        if not is_exact(image):
            yield f"image {image!r} is not exact: give a full version or a digest"


def is_exact(image: str) -> bool:
    """Say whether an image names one build: a digest, or a tag with a full version."""
    name, _, digest = image.partition("@")
    if digest:
        return DIGEST.fullmatch(digest) is not None
    _, colon, tag = name.rpartition("/")[2].partition(":")
    return bool(colon) and EXACT_TAG.fullmatch(tag) is not None


def _plain_secret(container: Container) -> Iterator[str]:
    for variable in container.spec.get("env") or ():
        name, value = variable["name"], str(variable.get("value") or "")
        if not value or REFERENCE.fullmatch(value):
            continue
        if SECRET_NAME.search(name) and not PLACE.search(name):
            # Never the value itself: this is printed.
            yield f"the variable {name} is in plain text; take it from a Secret"


CONTAINER_RULES: Mapping[str, Callable[[Container], Iterator[str]]] = {
    "resources": _resources,
    "escalation": _escalation,
    "privileged": _privileged,
    "read-only": _read_only,
    "non-root": _non_root,
    "seccomp": _seccomp,
    "capabilities": _dropped,
    "added-capabilities": _added,
    "image": _image,
    "plain-secret": _plain_secret,
}


# --- Of a pod and what makes it ------------------------------------------------------------------


def _host_namespaces(workload: Workload, _: Cluster) -> Iterator[Fault]:
    for kind in ("hostNetwork", "hostPID", "hostIPC"):
        if workload.pod.get(kind):
            yield "", f"{kind} is true"


def _host_path(workload: Workload, _: Cluster) -> Iterator[Fault]:
    paths = [
        volume["hostPath"]["path"]
        for volume in workload.pod.get("volumes") or ()
        if volume.get("hostPath")
    ]
    if paths:
        yield "", f"mounts folders of its machine: {', '.join(paths)}"


def _host_port(workload: Workload, _: Cluster) -> Iterator[Fault]:
    if workload.pod.get("hostNetwork"):
        return  # every port is one of the machine: that is another rule's
    for container in workload.containers:
        for port in container.spec.get("ports") or ():
            if port.get("hostPort"):
                yield container.name, f"takes port {port['hostPort']} of its machine"


def _token(workload: Workload, cluster: Cluster) -> Iterator[Fault]:
    if cluster.mounts_token(workload):
        yield "", "gets a token of its service account; automountServiceAccountToken: false"


def _priority(workload: Workload, _: Cluster) -> Iterator[Fault]:
    if not workload.pod.get("priorityClassName"):
        yield "", "has no priority class"


def _spread(workload: Workload, _: Cluster) -> Iterator[Fault]:
    affinity = workload.pod.get("affinity") or {}
    spread = workload.pod.get("topologySpreadConstraints") or affinity.get("podAntiAffinity")
    if workload.replicas > 1 and not spread:
        yield "", f"may run all {workload.replicas} replicas on one machine"


def _budget(workload: Workload, cluster: Cluster) -> Iterator[Fault]:
    budgets = cluster.budgets(workload)
    if workload.replicas > 1 and not budgets:
        yield "", f"has {workload.replicas} replicas and no PodDisruptionBudget"
    if len(budgets) > 1:
        names = ", ".join(one.name for one in budgets)
        yield "", f"has more than one PodDisruptionBudget ({names}): no pod of it can be evicted"
    for budget in budgets:
        if budget.blocks(workload.replicas):
            yield "", f"PodDisruptionBudget {budget.name} lets none of {workload.replicas} go"


WORKLOAD_RULES: Mapping[str, Callable[[Workload, Cluster], Iterator[Fault]]] = {
    "host-namespaces": _host_namespaces,
    "host-path": _host_path,
    "host-port": _host_port,
    "token": _token,
    "priority": _priority,
    "spread": _spread,
    "budget": _budget,
}


# --- Of a Service --------------------------------------------------------------------------------


def _node_ports(spec: Mapping[str, Any]) -> Iterator[str]:
    if spec.get("type") == "NodePort":
        yield "is of type NodePort"
    if numbers := [str(one["nodePort"]) for one in spec.get("ports") or () if one.get("nodePort")]:
        yield f"asks for ports of the machines: {', '.join(numbers)}"
    if (
        spec.get("type") == "LoadBalancer"
        and spec.get("allocateLoadBalancerNodePorts") is not False
    ):
        yield "gets ports of the machines; allocateLoadBalancerNodePorts: false"


RULES = (*CONTAINER_RULES, *WORKLOAD_RULES, "node-port")
