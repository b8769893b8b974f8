"""Layer Kubernetes: another version for the programs that run, in Talos' own order.

A gate stands before the machines. When the version of the settings changes, its hook first looks
for everything that speaks against it, and then lets `talosctl upgrade-k8s` move the API servers,
the controller managers and the schedulers, one control plane after the other, and the kubelets, one
machine after the other. The machines' configurations are afterwards what the stack makes of the new
version, so what follows in the chain finds nothing to do. A run that is killed leaves the gate as
it was: the next one looks at what runs, and goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pulumi

from clients import removed_requests
from clients.kubernetes_api import ApiError, KubernetesApi
from clients.removed_requests import Use
from clients.talosctl import Talosctl, TalosctlError, connect
from clients.waiting import Clock, OverdueError
from components.gate import Gate
from components.hooks import Hook, in_thread, resolved
from components.talos import kubernetes_versions as versions
from components.talos.etcd import POLL_SECONDS, Member
from components.talos.health import GUARD_SECONDS, Observer
from components.talos.kubernetes_versions import API_SERVER, CONTROLLERS, KEY, PAGE, Running
from config.problems import Problem, listed
from config.removed_apis import GUIDE
from config.versions import TALOS_KUBERNETES, describe, fits, minor

if TYPE_CHECKING:
    from components.talos.identity import Identity

GATE_NAME = "kubernetes-version"
CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
API_SECONDS = 60.0
"""Bridges an API server that restarts, and the VIP's move after it."""
CALL_SECONDS = 30.0
"""An API server's metrics are some megabytes."""

OWN = frozenset({"staticPods", "static pods"})
"""What a machine lacks whose API server, controller manager or scheduler does not run."""
EXACT = re.compile(r"v?\d+\.\d+\.\d+")
"""What a tag must be, so that two can be compared."""

Api = Callable[[str, str | None], KubernetesApi]
"""Makes the API of a kubeconfig: that of everybody, or the API server at an address."""


class UpgradeError(Exception):
    """Kubernetes cannot become the version of the settings, or did not; the text says why."""

    page = PAGE


def kubernetes_api(kubeconfig: str, machine: str | None) -> KubernetesApi:
    """Make the API with the patience that its metrics need."""
    return KubernetesApi(kubeconfig, CALL_SECONDS, machine)


@dataclass(frozen=True)
class Upgrade:
    """The programs of Kubernetes on all machines of a cluster, and their way to a version."""

    talos: Talosctl
    members: Sequence[Member]
    clock: Clock = field(default_factory=Clock)
    api: Api = kubernetes_api

    def first(self, wanted: str) -> None:
        """Bring a cluster that an older program made to the version; a new one has nothing yet."""
        found = self._kubeconfig()
        if found is None:
            return
        address, kubeconfig = found
        try:
            running, nodes = self._look(kubeconfig)
        except ApiError:
            return  # it is only being made: nothing runs that could be moved
        if running.all - {wanted}:
            self._move(address, kubeconfig, running, nodes, wanted)

    def again(self, wanted: str) -> None:
        """Bring the cluster to the version; one that is there already is only brought in line.

        A run that was killed may have moved all programs, and not have synced the manifests.
        """
        found = self._kubeconfig()
        if found is None:
            raise UpgradeError(
                f"{KEY} = {wanted}: no control plane gives its kubeconfig, so nobody knows which "
                "version runs. Set the version back until a control plane answers"
            )
        address, kubeconfig = found
        self._move(address, kubeconfig, *self._seen(kubeconfig), wanted)

    def _move(
        self, address: str, kubeconfig: str, running: Running, nodes: list[Member], wanted: str
    ) -> None:
        problems = [
            *versions.refusals(running, wanted),
            *self._unsupported(nodes, wanted),
            *self._removed(kubeconfig, running, nodes, wanted),
            *self._unhealthy(nodes, running),
        ]
        if problems:
            raise UpgradeError(f"Kubernetes is not touched. {listed(problems)}")
        try:
            self.talos.upgrade_kubernetes(address, running.oldest, wanted, self.clock.tell)
        except TalosctlError as error:
            left = self._left(kubeconfig, running)
            text = f"{KEY} = {wanted}: `talosctl upgrade-k8s` stopped: {error}. {left}: {PAGE}"
            raise UpgradeError(text) from None
        running, _ = self._seen(kubeconfig)
        if others := sorted(running.all - {wanted}):
            raise UpgradeError(
                f"{KEY} = {wanted}: `talosctl upgrade-k8s` ended, and {', '.join(others)} runs "
                "still. Run `pulumi up` again"
            )
        self.clock.tell(f"Kubernetes {wanted} runs on {len(nodes)} machines")

    def _left(self, kubeconfig: str, before: Running) -> str:
        """Say where a run that stopped has left the cluster, and what to do."""
        try:
            untouched = self._look(kubeconfig)[0] == before
        except ApiError:
            untouched = False
        if untouched:
            return f"Nothing was upgraded. Fix the reason, or set {before.oldest} again"
        return (
            "What it has upgraded stays so, and Kubernetes supports that. Fix the reason, then run "
            f"`pulumi up` again: it goes on from there. Do not set {before.oldest} again"
        )

    def _kubeconfig(self) -> tuple[str, str] | None:
        """Ask all control planes at once: before the first installation none is there to answer."""
        asked = [one.address for one in self.members if one.control_plane]

        def ask(address: str) -> str | None:
            try:
                return self.talos.kubeconfig(address)
            except TalosctlError:
                return None

        with ThreadPoolExecutor(max_workers=len(asked) or 1) as pool:
            answers = zip(asked, pool.map(ask, asked), strict=True)
            return next(((address, text) for address, text in answers if text), None)

    def _seen(self, kubeconfig: str) -> tuple[Running, list[Member]]:
        try:
            return self.clock.wait_for(
                "the Kubernetes API to say what runs",
                lambda: self._look(kubeconfig),
                seconds=API_SECONDS,
                poll=POLL_SECONDS,
                errors=ApiError,
            )
        except OverdueError as reason:
            raise UpgradeError(
                f"the Kubernetes API does not say which versions run: {reason}. Kubernetes is not "
                "touched; see `talosctl health`, then run `pulumi up` again"
            ) from None

    def _look(self, kubeconfig: str) -> tuple[Running, list[Member]]:
        api = self.api(kubeconfig, None)
        nodes = [_Node.of(one) for one in api.get("/api/v1/nodes")["items"]]
        selector = quote(f"k8s-app in ({', '.join([API_SERVER, *CONTROLLERS])})")
        pods = api.get(f"/api/v1/namespaces/kube-system/pods?labelSelector={selector}")["items"]
        programs = {
            (str(pod["spec"]["nodeName"]), str(pod["metadata"]["labels"]["k8s-app"])): _version(
                str(pod["spec"]["containers"][0]["image"])
            )
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp")
        }
        servers = {node: v for (node, name), v in programs.items() if name == API_SERVER}
        if not servers:
            message = "no API server's pod is known to it"
            raise ApiError(message)
        running = Running(
            servers,
            {key: version for key, version in programs.items() if key[1] != API_SERVER},
            {one.member.name: one.kubelet for one in nodes},
        )
        return running, [one.member for one in nodes]

    def _unsupported(self, nodes: Sequence[Member], wanted: str) -> list[Problem]:
        """Refuse what the Talos that runs does not support, and say which order there is."""
        problems = []
        for node in nodes:
            try:
                tag = self.talos.version(node.address).removeprefix("v")
            except TalosctlError:
                continue  # told as unhealthy
            span = TALOS_KUBERNETES.get(minor(tag))
            if span is None or fits(minor(wanted), span):
                continue
            problems.append(
                Problem(
                    KEY,
                    f"{node} runs Talos {tag}, which supports Kubernetes {describe(span)}",
                    "when Talos changes too, it goes first: set Kubernetes back, run `pulumi up` "
                    "with the new talos.version, then change Kubernetes "
                    "(docs/procedures/upgrade-talos.md)",
                    wanted,
                )
            )
        return problems

    def _removed(
        self, kubeconfig: str, running: Running, nodes: Sequence[Member], wanted: str
    ) -> list[Problem]:
        servers = {
            one.name: self.api(kubeconfig, one.address)
            for one in nodes
            # One that is there already serves none of them any more, and may not even start.
            if minor(running.api_servers.get(one.name, wanted)) != minor(wanted)
        }
        try:
            api = self.api(kubeconfig, None)
            found = removed_requests.uses(api, servers, running.oldest, wanted)
        except ApiError as error:
            return [
                Problem(
                    KEY,
                    f"the API servers do not say which removed APIs are used: {error}",
                    "see `talosctl health`, and whether this computer reaches each control plane",
                    wanted,
                )
            ]
        return [_in_use(use, wanted) for use in found]

    def _unhealthy(self, nodes: Sequence[Member], running: Running) -> list[Problem]:
        """Wait for all machines; the one that a stopped upgrade had in hand may be unhealthy.

        Else a version whose programs do not start could not be followed by one whose do: Talos
        moves that machine like the others, and goes on only when its programs run.
        """
        observer = Observer(self.talos, nodes, self.clock)
        unhealthy: dict[str, str] = {}

        def lacking() -> str:
            missing = {str(one): lacks for one in nodes if (lacks := observer.missing(one))}
            if running.stopped and len(missing) == 1:
                missing = {name: one for name, one in missing.items() if not one.keys() <= OWN}
            unhealthy.clear()
            for name, lacks in missing.items():
                unhealthy[name] = "; ".join(f"{key}: {why}" for key, why in lacks.items())
            return ". ".join(f"{name} lacks {text}" for name, text in unhealthy.items())

        what = "all machines to be healthy, before Kubernetes is touched"
        self.clock.wait(what, lacking, seconds=GUARD_SECONDS, poll=POLL_SECONDS)
        fix = "bring it back, or remove it with the version set back (docs/procedures/README.md)"
        return [Problem(name, f"lacks {text}", fix) for name, text in unhealthy.items()]


@dataclass(frozen=True)
class _Node:
    member: Member
    kubelet: str

    @classmethod
    def of(cls, node: dict[str, Any]) -> _Node:
        """Read a Node object."""
        meta, status = node["metadata"], node["status"]
        addresses = {one["type"]: str(one["address"]) for one in status.get("addresses") or []}
        member = Member(
            str(meta["name"]),
            addresses.get("InternalIP", str(meta["name"])),
            control_plane=CONTROL_PLANE_LABEL in (meta.get("labels") or {}),
        )
        return cls(member, str(status["nodeInfo"]["kubeletVersion"]).removeprefix("v"))


def _version(image: str) -> str:
    """Read the version of an image; raises UpgradeError where its tag tells none."""
    tag = image.partition("@")[0].rpartition(":")[2]
    if EXACT.fullmatch(tag) is None:
        raise UpgradeError(
            f"{image} runs, whose tag is no exact version, so that nobody can say what it would be "
            "upgraded from. Somebody set it by hand: see `talosctl get machineconfig -o yaml`, "
            "remove `image` there, then run `pulumi up` again"
        )
    return tag.removeprefix("v")


def _in_use(use: Use, wanted: str) -> Problem:
    instead = f"write {use.replacement} instead" if use.replacement else "remove it"
    return Problem(
        KEY,
        f"Kubernetes {use.removed} no longer serves {use.api}, which is used: {', '.join(use.by)}",
        f"{instead} ({GUIDE}); requests count since an API server's start ({PAGE})",
        wanted,
    )


def version_gate(
    wanted: str,
    identity: Identity,
    members: Sequence[Member],
    parent: pulumi.Resource,
) -> pulumi.Output[pulumi.Resource]:
    """Make the gate before the machines; it opens once Kubernetes is of the settings' version."""

    def hook(bring: Callable[[Upgrade, str], None]) -> Hook:
        async def kubernetes_version(args: pulumi.ResourceHookArgs) -> None:
            talosconfig = await resolved(identity.talosconfig)

            def work(clock: Clock) -> None:
                with connect(talosconfig) as talos:
                    bring(Upgrade(talos, members, clock), wanted)

            await in_thread(args, work)

        return kubernetes_version

    return Gate(
        GATE_NAME,
        {"version": wanted},
        after=identity.secrets,
        on_create=hook(Upgrade.first),
        on_update=hook(Upgrade.again),
        opts=pulumi.ResourceOptions(parent=parent),
    ).opened
