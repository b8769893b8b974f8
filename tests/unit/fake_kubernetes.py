"""A cluster whose Kubernetes API is this file: nodes, the control plane's pods, and who asks what.

`upgrade` is the order of `talosctl upgrade-k8s` (siderolabs/talos, talos_managed.go), which can be
killed after any of its steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.waiting import Result
from components.talos.kubernetes_versions import API_SERVER, CONTROLLERS

METRIC = (
    "# TYPE apiserver_requested_deprecated_apis gauge\n"
    'apiserver_requested_deprecated_apis{{group="{group}",removed_release="{removed}",'
    'resource="{resource}",subresource="",version="{version}"}} 1\n'
)


class KilledError(BaseException):
    """The run was killed here."""


@dataclass
class FakeKubernetes:
    """The versions that run, and what the API knows."""

    control_planes: dict[str, str]
    """Address by name."""
    workers: dict[str, str]
    version: str = "1.34.1"
    metrics: dict[str, str] = field(default_factory=dict)
    """Text of the API server's metrics, by address."""
    served: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Resources of an API version."""
    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Items by the path of their list."""
    releases: list[dict[str, Any]] = field(default_factory=list)
    down: bool = False
    upgrades: list[tuple[str, str]] = field(default_factory=list)
    """From and to of each run of `talosctl upgrade-k8s`."""
    killed_after: int | None = None
    """Steps of the next run after which it is killed."""
    fails_after: int | None = None
    """Steps of the next run after which it stops with an error."""
    after_step: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.programs = {
            (machine, name): self.version
            for machine in self.control_planes
            for name in (API_SERVER, *CONTROLLERS)
        }
        self.kubelets = dict.fromkeys({**self.control_planes, **self.workers}, self.version)

    def api(self, kubeconfig: str, machine: str | None) -> KubernetesApi:
        assert kubeconfig == "kubeconfig"
        return cast("KubernetesApi", _Api(self, machine))

    def follow(
        self, arguments: Sequence[str], seconds: float, line: Callable[[str], None]
    ) -> Result:
        assert seconds > 0
        assert arguments[0] == "upgrade-k8s"
        assert {"--with-docs=false", "--with-examples=false"} <= set(arguments)
        start, wanted = (arguments[arguments.index(name) + 1] for name in ("--from", "--to"))
        self.upgrades.append((start, wanted))
        line(f' > "172.16.20.51": pre-pulling registry.k8s.io/kube-apiserver:v{wanted}')
        left, self.killed_after = self.killed_after, None
        for step in self._steps(wanted):
            if left == 0:
                raise KilledError
            left = None if left is None else left - 1
            if self.fails_after == 0:
                return Result(1, "", "error pulling image: not found\n")
            self.fails_after = None if self.fails_after is None else self.fails_after - 1
            step()
            self.after_step()
        if left == 0:
            raise KilledError
        line(" < configured v1/Secret/bootstrap-token")
        line("+  token: not to be shown")
        return Result(0, "", "")

    def _steps(self, wanted: str) -> list[Callable[[], None]]:
        def program(key: tuple[str, str]) -> Callable[[], None]:
            return lambda: self.programs.update({key: wanted})

        def kubelet(machine: str) -> Callable[[], None]:
            return lambda: self.kubelets.update({machine: wanted})

        names = (API_SERVER, *CONTROLLERS)
        static = [program((one, name)) for name in names for one in self.control_planes]
        return static + [kubelet(one) for one in {**self.control_planes, **self.workers}]

    def answer(  # noqa: PLR0911 one case a path
        self, machine: str | None, path: str
    ) -> Any:
        if self.down:
            message = "Connection refused"
            raise ApiError(message)
        path, _, query = path.partition("?")
        if path == "/api/v1/nodes":
            return {"items": [self._node(name) for name in self.kubelets]}
        if path == "/api/v1/namespaces/kube-system/pods":
            assert API_SERVER in unquote(query)
            return {"items": [_pod(*key, version) for key, version in self.programs.items()]}
        if path == "/api/v1/secrets":
            return {"items": self.releases}
        if path == "/metrics":
            assert machine is not None, "each API server counts for itself"
            return self.metrics.get(machine, "")
        if path in self.objects:
            return {"items": self.objects[path]}
        if match := re.fullmatch(r"/apis/([^/]+)/([^/]+)", path):
            known = self.served.get(f"{match[1]}/{match[2]}")
            return None if known is None else {"resources": known}
        if match := re.fullmatch(r"/apis/([^/]+)", path):
            names = [one for one in self.served if one.startswith(f"{match[1]}/")]
            return {"versions": [{"groupVersion": one} for one in names]}
        if re.fullmatch(r"/apis/[^/]+/[^/]+/[a-z]+", path):
            return {"items": []}
        raise AssertionError(path)

    def _node(self, name: str) -> dict[str, Any]:
        labels = {"node-role.kubernetes.io/control-plane": ""}
        return {
            "metadata": {"name": name, "labels": labels if name in self.control_planes else {}},
            "status": {
                "addresses": [
                    {
                        "type": "InternalIP",
                        "address": {**self.control_planes, **self.workers}[name],
                    }
                ],
                "nodeInfo": {"kubeletVersion": f"v{self.kubelets[name]}"},
            },
        }


@dataclass
class _Api:
    cluster: FakeKubernetes
    machine: str | None

    def get(self, path: str) -> Any:
        found = self.find(path)
        assert found is not None, path
        return found

    def find(self, path: str) -> Any:
        return self.cluster.answer(self.machine, path)

    def text(self, path: str) -> str:
        return str(self.cluster.answer(self.machine, path))


def _pod(machine: str, name: str, version: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"k8s-app": name}},
        "spec": {
            "nodeName": machine,
            "containers": [{"image": f"registry.k8s.io/{name}:v{version}"}],
        },
    }


def volume_attributes_class(
    manager: str, operation: str = "Update", last_applied: str = ""
) -> dict[str, Any]:
    """Make an object that was written as storage.k8s.io/v1alpha1."""
    meta: dict[str, Any] = {
        "name": "gold",
        "managedFields": [
            {"manager": manager, "operation": operation, "apiVersion": "storage.k8s.io/v1alpha1"}
        ],
    }
    if last_applied:
        applied = json.dumps({"apiVersion": last_applied})
        meta["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": applied}
    return {"metadata": meta}
