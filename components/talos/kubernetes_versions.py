"""Layer Kubernetes: which versions of its programs may run beside each other, and the way between.

Rules: https://kubernetes.io/releases/version-skew-policy/. The order is that of `talosctl
upgrade-k8s` (siderolabs/talos, pkg/cluster/kubernetes/talos_managed.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from config.problems import Problem
from config.versions import minor, parse

API_SERVER = "kube-apiserver"
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
KUBELET = "kubelet"

OLDER_KUBELET = 3
"""A kubelet may be so many minor versions older than an API server, and never newer."""

KEY = "platform:kubernetes.version"
PAGE = "docs/procedures/upgrade-kubernetes.md"


@dataclass(frozen=True)
class Running:
    """Versions of what runs, such as `1.34.1`, by the machine."""

    api_servers: Mapping[str, str]
    controllers: Mapping[tuple[str, str], str]
    """By machine and program: controller managers and schedulers."""
    kubelets: Mapping[str, str]

    @property
    def all(self) -> set[str]:
        """Every version that runs somewhere."""
        parts = (self.api_servers, self.controllers, self.kubelets)
        return {version for part in parts for version in part.values()}

    @property
    def stopped(self) -> bool:
        """Whether an upgrade stopped among the control planes: they run several versions."""
        return len({*self.api_servers.values(), *self.controllers.values()}) > 1

    @property
    def oldest(self) -> str:
        """The oldest version of a control plane's program: where an upgrade starts."""
        return min([*self.api_servers.values(), *self.controllers.values()], key=parse)


def number(version: str) -> int:
    """Give the minor version of `1.34.1` as a number that can be counted with."""
    return parse(version)[1]


def skew(running: Running) -> list[str]:
    """Say what runs beside each other and must not; empty when Kubernetes supports it all."""
    servers = [number(one) for one in running.api_servers.values()]
    if not servers:
        return []
    oldest, newest = min(servers), max(servers)
    faults = []
    if newest - oldest > 1:
        faults.append(f"API servers of 1.{oldest} and 1.{newest}")
    for (machine, name), version in running.controllers.items():
        if not newest - 1 <= number(version) <= oldest:
            faults.append(f"{name} {version} on {machine} with API servers up to 1.{newest}")
    for machine, version in running.kubelets.items():
        if not newest - OLDER_KUBELET <= number(version) <= oldest:
            faults.append(f"kubelet {version} on {machine} with API servers up to 1.{newest}")
    return faults


def steps(running: Running, wanted: str) -> Iterator[Running]:
    """Give what runs after each step of an upgrade, in its order."""
    now = running
    for machine in running.api_servers:
        now = replace(now, api_servers={**now.api_servers, machine: wanted})
        yield now
    for name in CONTROLLERS:
        for machine in running.api_servers:
            if (machine, name) in running.controllers:
                now = replace(now, controllers={**now.controllers, (machine, name): wanted})
                yield now
    for machine in (*running.api_servers, *running.kubelets):
        if now.kubelets.get(machine, wanted) != wanted:
            now = replace(now, kubelets={**now.kubelets, machine: wanted})
            yield now


def refusals(running: Running, wanted: str) -> list[Problem]:
    """Say why the versions that run must not become this one; empty when they may."""
    oldest, newest = running.oldest, max(running.all, key=parse)
    step = number(wanted) - number(oldest)
    if number(wanted) < number(newest):
        where = ", ".join(_at(running, newest))
        return [
            _refused(
                wanted,
                f"{newest} runs already on {where}, and Kubernetes goes down across no minor "
                "version: what a newer API server has stored an older one may not read",
                f"set {newest}, or another one of {minor(newest)}; the way back is a backup "
                "(docs/procedures/restore-etcd.md)",
            )
        ]
    if step > 1:
        where = ", ".join(_at(running, oldest))
        return [
            _refused(
                wanted,
                f"{oldest} runs on {where}, and Kubernetes goes up by one minor version at a time",
                f"set a version of 1.{number(oldest) + 1} first ({PAGE})",
            )
        ]
    behind = {
        machine: version
        for machine, version in running.kubelets.items()
        if number(wanted) - number(version) > OLDER_KUBELET
    }
    if behind:
        listed = ", ".join(f"{machine}: {version}" for machine, version in behind.items())
        return [
            _refused(
                wanted,
                f"its API servers would have kubelets that are older than Kubernetes supports, "
                f"{OLDER_KUBELET} minor versions ({listed})",
                f"set {oldest}, which upgrades these kubelets first ({PAGE})",
            )
        ]
    return []


def _at(running: Running, version: str) -> list[str]:
    """Name the machines that run something of a version."""
    places = [
        *running.api_servers.items(),
        *((machine, has) for (machine, _), has in running.controllers.items()),
        *running.kubelets.items(),
    ]
    return list(dict.fromkeys(machine for machine, has in places if has == version))


def _refused(wanted: str, fault: str, fix: str) -> Problem:
    return Problem(KEY, fault, fix, wanted)
