"""Layer Render: rendered objects as the policies see them: workloads with their pods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.render.difference import name_of, written

Object = Mapping[str, Any]

TEMPLATED = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
SCALED = {"Deployment", "StatefulSet"}


@dataclass(frozen=True)
class Container:
    """A container with the pod's settings that it inherits."""

    name: str
    spec: Object
    security: Object
    """Its security context over the pod's."""


@dataclass(frozen=True)
class Workload:
    """What makes pods, or a pod."""

    kind: str
    namespace: str
    name: str
    replicas: int
    """As few as there are in quiet times: an autoscaler's minimum. For all but those, one."""
    pod: Object
    labels: Mapping[str, str]
    """Of its pods."""

    @property
    def written(self) -> str:
        """Its name: `Deployment traefik/traefik`."""
        return written((self.kind, self.namespace, self.name))

    @property
    def containers(self) -> Iterator[Container]:
        """Its containers, those that only begin included."""
        shared = self.pod.get("securityContext") or {}
        for kind in ("initContainers", "containers"):
            for spec in self.pod.get(kind) or ():
                security = {**shared, **(spec.get("securityContext") or {})}
                yield Container(spec["name"], spec, security)


@dataclass(frozen=True)
class Budget:
    """A PodDisruptionBudget."""

    name: str
    spec: Object

    def blocks(self, replicas: int) -> bool:
        """Say whether it lets no pod go while all are well."""
        if (unavailable := self.spec.get("maxUnavailable")) not in {None, ""}:
            return _count(unavailable, replicas) == 0
        return _count(self.spec.get("minAvailable") or 0, replicas) >= replicas


def _count(amount: int | str, of: int) -> int:
    """Count pods; Kubernetes rounds percentages up."""
    text = str(amount)
    return math.ceil(float(text[:-1]) * of / 100) if text.endswith("%") else int(text)


@dataclass(frozen=True)
class Cluster:
    """Everything that was rendered together."""

    objects: tuple[Object, ...]
    workloads: tuple[Workload, ...] = field(init=False)

    def __init__(self, objects: Iterable[Object]) -> None:
        """Find the workloads in it."""
        object.__setattr__(self, "objects", tuple(one for one in objects if not _is_test(one)))
        found = tuple(one for each in self.objects for one in self._workloads(each))
        object.__setattr__(self, "workloads", found)

    def all(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Give the objects of a kind."""
        return [
            one
            for one in self.objects
            if one["kind"] == kind and namespace in {None, one["metadata"].get("namespace")}
        ]

    def budgets(self, workload: Workload) -> list[Budget]:
        """Give the budgets that select a workload's pods."""
        return [
            Budget(one["metadata"]["name"], one["spec"])
            for one in self.all("PodDisruptionBudget", workload.namespace)
            if selects(one["spec"].get("selector") or {}, workload.labels)
        ]

    def mounts_token(self, workload: Workload) -> bool:
        """Say whether the pods get a token of their service account."""
        own = workload.pod.get("automountServiceAccountToken")
        if own is None:
            name = workload.pod.get("serviceAccountName") or "default"
            accounts = self.all("ServiceAccount", workload.namespace)
            named = (one for one in accounts if one["metadata"]["name"] == name)
            own = next(named, {}).get("automountServiceAccountToken")
        sources = [
            source
            for volume in workload.pod.get("volumes") or ()
            for source in (volume.get("projected") or {}).get("sources") or ()
        ]
        return own is not False or any("serviceAccountToken" in one for one in sources)

    def _workloads(self, one: Object) -> Iterator[Workload]:
        kind, namespace, name = name_of(one)
        spec = one.get("spec") or {}
        if kind == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
        elif kind in TEMPLATED:
            template = spec["template"]
        elif kind == "Pod":
            template = one
        else:
            return
        labels = (template.get("metadata") or {}).get("labels") or {}
        replicas = self._replicas(one) if kind in SCALED else 1
        yield Workload(kind, namespace, name, replicas, template["spec"], labels)

    def _replicas(self, one: Object) -> int:
        """Give how many there are; an autoscaler decides where there is one."""
        for scaler in self.all("HorizontalPodAutoscaler", one["metadata"].get("namespace")):
            target = scaler["spec"]["scaleTargetRef"]
            if (target["kind"], target["name"]) == (one["kind"], one["metadata"]["name"]):
                return int(scaler["spec"].get("minReplicas") or 1)
        replicas = one["spec"].get("replicas")
        return 1 if replicas is None else int(replicas)


def _is_test(one: Object) -> bool:
    """Say whether Helm makes it for `helm test` only."""
    annotations = one["metadata"].get("annotations") or {}
    return annotations.get("helm.sh/hook") in {"test", "test-success"}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Say whether a label selector matches; an empty one matches everything."""
    exact = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in exact.items()):
        return False
    return all(_meets(one, labels) for one in selector.get("matchExpressions") or ())


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
