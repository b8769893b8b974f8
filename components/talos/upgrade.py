"""Layer Talos: brings one machine to another release of Talos, or to another schematic.

The order of Talos' page on upgrading (docs.siderolabs.com/talos, lifecycle management), with the
checks that `talosctl upgrade` leaves out since 1.13: whether etcd can spare the machine, and which
disruption budget holds a pod. Every step looks at the machine first, so that a run which was killed
in any of them is finished by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.node_drain import DrainError, Node, is_ready
from clients.talosctl import TalosctlError
from clients.waiting import NotYetError, OverdueError
from components.talos import refusals
from components.talos.etcd import POLL_SECONDS, HealthError, Member
from components.talos.health import GUARD_SECONDS, REBOOT_SECONDS, Before, Observer
from components.talos.snapshots import Snapshots

API_SECONDS = 180.0
"""Patience with the Kubernetes API, whose address moves when its machine goes."""
INSTALL_SECONDS = 900.0
"""Patience with an installation that another run has begun."""
INSTALLING = "platform.io/installing"
"""An annotation of a node: its machine's boot, and the installer that was run in it."""
STAYS = frozenset(["running", "booting"])
"""Stages of a machine that is not about to go, or to be installed."""
IN_PROGRESS = "is already in progress"
"""What Talos answers while it installs (internal/app/lifecycle)."""
TELLS = re.compile(r"revert|roll(ing|ed)? ?back|upgrade|not boot", re.IGNORECASE)
TOLD_LINES = 3
PAGE = "docs/procedures/upgrade-talos.md"

T = TypeVar("T")


@dataclass(frozen=True)
class Release:
    """What a machine runs, or is to run: a version of Talos, of a schematic."""

    version: str
    """Such as `v1.13.9`."""
    schematic: str
    """Empty when the machine does not tell."""

    def __str__(self) -> str:
        """Name it; two schematics are told apart by their first digits."""
        return f"Talos {self.version}, schematic {self.schematic[:8] or 'unknown'}"

    def is_that_of(self, other: Release) -> bool:
        """Tell whether it is the other; what a machine does not tell is not held against it."""
        same = self.schematic == other.schematic or "" in {self.schematic, other.schematic}
        return self.version == other.version and same


@dataclass(frozen=True)
class Target:
    """Where the machines of a cluster are to be."""

    release: Release
    image: str
    """The installer of that release."""
    drain_seconds: float
    """How long pods may take to go elsewhere."""


@dataclass(frozen=True)
class Upgrade:
    """The upgrade of one machine."""

    cluster: Observer
    member: Member
    target: Target
    configuration: str
    """The configuration that the machine gets in this run; full of secrets."""
    snapshots: Snapshots
    kubernetes: Callable[[str], KubernetesApi] = KubernetesApi

    def run(self) -> None:
        """Bring the machine to its target, unless it is there. Raises `HealthError`."""
        runs = self._running()
        if runs is None:  # it was made from the new image, and waits for its configuration
            return
        if runs.is_that_of(self.target.release):
            self._finish()
            return
        before = self._check(runs)
        node = self._node()
        interrupted = self._was_installing(node, before)
        self._snapshot()
        try:
            self._drain(node)
            # Fetching, the snapshot and the pods took minutes: another machine may be away by now.
            self.cluster.guard(self.member)
            if interrupted:
                self._reboot()
            else:
                self._take_on(node, before)
        except Exception:
            self._give_back(node)
            raise
        self.cluster.wait_rebooted(self.member, before)
        if interrupted and not self._release().is_that_of(self.target.release):
            self.cluster.wait_healthy(self.member, before, settle=False)
            self._uncordon()  # what refuses it now must not leave a cordoned node
            self.run()  # it runs what it boots: now there is nothing to overwrite
            return
        self._see_release(runs, before)
        self.cluster.wait_healthy(self.member, before, settle=False)
        self._see_release(runs, before)
        self._uncordon()

    # --- Before ---------------------------------------------------------------------------------

    def _running(self) -> Release | None:
        """Ask the machine what it runs, once it is not about to go; None in maintenance mode."""
        talos, address = self.cluster.talos, self.member.address

        def look() -> Release | None:
            try:
                stage = talos.machine_status(address).stage
                if stage not in STAYS:
                    raise NotYetError(f"it is {stage}")
                return Release(talos.version(address), talos.schematic(address))
            except TalosctlError:
                if talos.in_maintenance(address):
                    return None
                raise

        what = f"{self.member} to say which Talos it runs"
        return self._wait(what, look, REBOOT_SECONDS, "Bring it back, or replace it")

    def _check(self, runs: Release) -> Before:
        """Refuse what must not be begun, while nothing is touched yet."""
        if why := refusals.of_talos(runs.version, self.target.release.version):
            raise HealthError(f"{self.member}: not touched. {'. '.join(why)}")
        self.cluster.guard(self.member)
        self._others_ready()
        before = self.cluster.before_configuration(self.member, self.configuration)
        if before is None:
            raise HealthError(
                f"{self.member}: it has no configuration any more; run `pulumi up` again"
            )
        self.cluster.clock.tell(f"{self.member}: from {runs} to {self.target.release}")
        try:
            self.cluster.talos.pull(self.member.address, self.target.image)
        except TalosctlError as error:
            message = (
                f"{self.member}: not touched. It cannot fetch the installer {self.target.image}: "
                f"{error}. Is there such a version (platform:talos.version), with these extensions "
                "(platform:talos.extensions), and does the machine reach the image factory?"
            )
            raise HealthError(message) from None
        return before

    def _others_ready(self) -> None:
        """Wait a little for the other nodes; one that stays unhealthy stops the upgrade."""
        others = {one.name for one in self.cluster.members} - {self.member.name}

        def look() -> None:
            nodes = self._ask(lambda api: api.get("/api/v1/nodes"))["items"]
            if not any(map(is_ready, nodes)):  # the cluster has no CNI yet
                return
            unready = [
                str(one["metadata"]["name"])
                for one in nodes
                if one["metadata"]["name"] in others and not is_ready(one)
            ]
            if unready:
                raise NotYetError(f"not ready: {', '.join(unready)}")

        what = f"the other nodes to be ready, before {self.member} is touched"
        self._wait(what, look, GUARD_SECONDS, "Nothing was touched. Bring them back")

    def _node(self) -> Node:
        return Node(self._ask(lambda api: api), self.member.name)

    def _snapshot(self) -> None:
        """Keep etcd's data before the first control plane goes."""
        if not self.member.control_plane:
            return
        addresses = [one.address for one in self.cluster.control_planes]
        name = f"etcd-before-talos-{self.target.release.version}"
        try:
            file = self.snapshots.take(self.cluster.talos, addresses, name)
        except (TalosctlError, OSError) as error:
            message = f"{self.member}: not touched. No snapshot of etcd could be taken: {error}"
            raise HealthError(f"{message}. Fix it, then run `pulumi up` again") from None
        if file is not None:
            self.cluster.clock.tell(
                f"a snapshot of etcd is in {file}; it holds all Secrets: delete it when all is well"
            )

    # --- The machine goes, and comes back -------------------------------------------------------

    def _drain(self, node: Node) -> None:
        why = f"upgrade to {self.target.release.version}"
        try:
            if self._retried(partial(node.cordon, why)):
                node.drain(self.cluster.clock, self.target.drain_seconds)
        except DrainError as error:
            message = (
                f"{self.member}: not upgraded, and its node takes pods again. {error}. Then run "
                f"`pulumi up` again ({PAGE})"
            )
            raise HealthError(message) from None

    def _installation(self, before: Before) -> str:
        return f"{before.boot_id} {self.target.image}"

    def _was_installing(self, node: Node, before: Before) -> bool:
        """Tell whether a run was killed in this boot while the machine installed something.

        The installation may have ended since, and the boot loader has two places only: a second one
        before a reboot would overwrite the Talos that the machine goes back to, whatever release
        the first one was of.
        """
        noted = self._retried(partial(node.noted, INSTALLING)) or ""
        return noted.partition(" ")[0] == before.boot_id

    def _reboot(self) -> None:
        """Let the machine start what it has installed; that is the old Talos if it was not done."""
        self.cluster.clock.tell(f"{self.member}: reboots, to see what a killed run installed")
        try:
            self.cluster.talos.reboot(self.member.address)
        except TalosctlError as error:
            raise HealthError(f"{self.member}: does not reboot: {error}") from None

    def _take_on(self, node: Node, before: Before) -> None:
        """Let the machine install its target, and its new configuration for the same boot."""
        if before.reboots:
            self._stage()
        self._retried(partial(node.note, INSTALLING, self._installation(before)))
        self._install()

    def _stage(self) -> None:
        """Let the machine take its new configuration on at the same boot.

        One that it does not take now comes after the upgrade, as a change of its own.
        """
        try:
            self.cluster.talos.stage_configuration(self.member.address, self.configuration)
        except TalosctlError as error:
            self.cluster.clock.tell(
                f"{self.member}: its new configuration follows after the upgrade: {error}"
            )

    def _install(self) -> None:
        wanted = self.target.release
        major, minor = wanted.version.lstrip("v").split(".")[:2]

        def install() -> None:
            try:
                self.cluster.talos.upgrade(
                    self.member.address, self.target.image, (int(major), int(minor))
                )
            except TalosctlError as error:
                if IN_PROGRESS in str(error):
                    raise
                message = f"{self.member}: the upgrade to {wanted} failed: {error}"
                raise HealthError(
                    f"{message}. Fix it, then run `pulumi up` again ({PAGE})"
                ) from None

        what = f"{self.member} to install {wanted}"
        self._wait(what, install, INSTALL_SECONDS, "Wait until it is done")

    def _see_release(self, old: Release, before: Before) -> None:
        """See the machine run its target; one that came back with another stops the chain."""
        now = self._release()
        if not now.is_that_of(self.target.release):
            raise HealthError(self._rolled_back(now, old, before))

    def _release(self) -> Release:
        """Ask the machine what it runs; it is on its way back."""
        talos, address = self.cluster.talos, self.member.address
        return self._wait(
            f"{self.member} to say which Talos it runs now",
            lambda: Release(talos.version(address), talos.schematic(address)),
            REBOOT_SECONDS,
            "Look at its console",
        )

    def _rolled_back(self, runs: Release, old: Release, before: Before) -> str:
        """Say what became of a failed upgrade, with the machine's own words."""
        try:
            lines = self.cluster.talos.kernel_log(self.member.address)
        except TalosctlError as error:
            lines = [str(error)]
        words = [line for line in lines if TELLS.search(line)][-TOLD_LINES:]
        says = " | ".join(words) or "nothing about it since this boot; the console may"
        self._wait_healthy_again(before)
        kept = ""
        if before.reboots:
            kept = " It runs on the new configuration, which was to be taken on at the same boot."
        return (
            f"{self.member}: came back with {runs}, not with {self.target.release}: the new one "
            f"did not start, and Talos went back by itself. It says: {says}.{kept} No other "
            f"machine is touched. Set platform:talos back to what runs ({old}), or to a release "
            f"that starts, then run `pulumi up` again ({PAGE})"
        )

    def _wait_healthy_again(self, before: Before) -> None:
        """Let the node take pods again, if the machine came back healthy with what it had."""
        try:
            self.cluster.wait_healthy(self.member, before, settle=False)
            self._uncordon()
        except HealthError as error:
            self.cluster.clock.tell(str(error))

    # --- After ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Finish what a killed run left of an upgrade that is done: a cordoned node."""
        if not self._cluster_is_there():
            return
        node = self._node()
        if self._retried(node.cordoned_for) is None:
            return
        was_ready = Before("", reboots=True, node_ready=True)
        self.cluster.wait_healthy(self.member, was_ready, settle=False)
        self._uncordon()

    def _cluster_is_there(self) -> bool:
        """Tell whether there is a cluster yet; one that has lost its quorum is no new one."""
        without_majority = self.cluster.quorum_watch()

        def look() -> bool:
            if self.cluster.etcd_members(self.cluster.control_planes):
                return True
            if without_majority():
                raise NotYetError("etcd runs, and finds no majority of its members")
            return False

        what = f"etcd to say whether {self.member} is in a cluster"
        return self._wait(what, look, GUARD_SECONDS, "Look at the control planes")

    def _uncordon(self) -> None:
        node = self._node()
        if self._retried(partial(node.noted, INSTALLING)) is not None:
            self._retried(partial(node.note, INSTALLING, None))
        self._retried(node.uncordon)

    def _give_back(self, node: Node) -> None:
        """Let a node take pods again whose machine was not touched after all."""
        try:
            node.uncordon()
        except ApiError as error:
            self.cluster.clock.tell(f"{self.member}: its node is still cordoned: {error}")

    # --- The Kubernetes API ---------------------------------------------------------------------

    def _ask(self, question: Callable[[KubernetesApi], T]) -> T:
        """Ask the Kubernetes API, with the kubeconfig of a control plane that answers."""
        return self._retried(partial(self._asked, question))

    def _asked(self, question: Callable[[KubernetesApi], T]) -> T:
        problem: TalosctlError | None = None
        for one in self.cluster.control_planes:
            try:
                kubeconfig = self.cluster.talos.kubeconfig(one.address)
            except TalosctlError as error:
                problem = error
            else:
                return question(self.kubernetes(kubeconfig))
        raise problem or ApiError("there is no control plane")

    def _retried(self, call: Callable[[], T]) -> T:
        """Make a call until the Kubernetes API answers; for API_SECONDS at most."""
        what = f"the Kubernetes API to answer about {self.member}"
        return self._wait(what, call, API_SECONDS, "Look at its control planes")

    def _wait(self, what: str, look: Callable[[], T], seconds: float, advice: str) -> T:
        errors = (ApiError, NotYetError, TalosctlError)
        try:
            return self.cluster.clock.wait_for(
                what, look, seconds=seconds, poll=POLL_SECONDS, errors=errors
            )
        except OverdueError as lacks:
            message = f"waited {seconds:.0f} s for {what}; last seen: {lacks}. {advice}"
            raise HealthError(
                f"{message}, then run `pulumi up` again: it goes on from here"
            ) from None
