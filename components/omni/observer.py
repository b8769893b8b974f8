"""Layer Omni: what Omni says of the machines and the cluster, and what is to be waited for.

Blocking and without Pulumi; rollout.py binds it to the deployment. Every step looks before it acts,
so that a run which was killed in it may do it again.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from clients.kubernetes_api import ApiError, KubernetesApi
from clients.node_drain import is_ready
from clients.omnictl import AwayError, Machine, Omnictl, OmnictlError, SlowError
from clients.waiting import Clock, NotYetError, OverdueError
from components.omni.machine_ids import forms
from components.omni.template import begun_with

T = TypeVar("T")

JOIN_SECONDS = 900.0
"""A machine boots, finds its network, and joins twice: with the token, then with one of its own."""
AWAY_SECONDS = 300.0
"""Covers a restart of Omni."""
TOKEN_SECONDS = 60.0
"""A machine that Omni knows not yet after this may have a token that Omni does not take."""
OTHER_SECONDS = 120.0
"""A machine that is another one for so long stays it: it had its name and address long before."""
BOOT_SECONDS = 180.0
"""Of a machine that a killed run has made."""
GUARD_SECONDS = 60.0
BACK_SECONDS = 900.0
"""Of a machine that vCenter turns off and on."""
CLUSTER_SECONDS = 3600.0
"""Omni upgrades one machine after the other, and takes on configurations so."""
HEALTHY_SECONDS = 1800.0
STATUS_SECONDS = 60.0
"""For omnictl's own judgement, of a cluster that Omni calls ready."""
POLL_SECONDS = 5.0

PAGE = "docs/procedures/omni.md"
AGAIN = f"then run `pulumi up` again ({PAGE})"

OTHERS = "machines that this stack did not make"
"""Words of the errors after which a person decides what becomes of Omni's cluster."""
REPLACE = "make the machine again with `pulumi up --replace URN` (`pulumi stack --show-urns`)"
TOKEN_FAULTS = {
    "": "Omni does not know it",
    "revoked": "it is revoked in Omni",
    "expired": "it has ended in Omni",
}
ANOTHER = (
    "no machine joins with it. Make another with `omnictl jointoken create NAME`, and set it with "
    "`pulumi config set --secret platform:omniJoinToken`"
)

Uuids = Mapping[str, str]
"""Machines' UUIDs in vCenter, by their names."""


class OmniError(Exception):
    """A machine or the cluster is not what it is to be; the text says what to do."""

    page = PAGE


@dataclass(frozen=True)
class Made:
    """A virtual machine that is there, as it was made."""

    uuid: str
    urn: str
    token: str = field(repr=False)
    """With which it joins; a secret, "" when it has none."""


@dataclass(frozen=True)
class Wanted:
    """A machine as the settings have it."""

    name: str
    address: str


class Observer:
    """One cluster, seen by Omni and by its Kubernetes API."""

    def __init__(
        self,
        omni: Omnictl,
        cluster: str,
        clock: Clock,
        kubeconfig: str | None = None,
        kubernetes: Callable[[str], KubernetesApi] = KubernetesApi,
    ) -> None:
        """Take Omni, the cluster's name, and the kubeconfig of an earlier run, if there was one."""
        self.omni = omni
        self.clock = clock
        self._cluster = cluster
        self._kubeconfig = kubeconfig
        self._kubernetes = kubernetes

    # --- Before anything is made ----------------------------------------------------------------

    def answers(self) -> None:
        """See that Omni takes the key, and has no cluster of this name with machines in it yet."""
        self.retried("Omni to answer", lambda: self.omni.cluster(self._cluster))
        if found := self.retried("Omni to answer", lambda: self.omni.members(self._cluster)):
            raise OmniError(
                f"platform:cluster.name = {self._cluster}: Omni has this cluster already, with "
                f"{len(found)} {OTHERS}, as after `pulumi destroy`. "
                f"Nothing was made. {PAGE} says what of it you may still need, and how it goes"
            )

    def token_taken(self, token: str) -> None:
        """Fail when Omni says that no machine joins with this token.

        A machine that has joined has one of its own: only for new ones is it asked.
        """
        if fault := self.retried("Omni to answer", lambda: self._token_fault(token)):
            raise OmniError(fault)

    def waits(self, uuid: str) -> bool:
        """Tell whether a machine, which the stack does not know, waits for a configuration.

        It may have been switched on a moment ago: only after BOOT_SECONDS does silence mean no.
        """

        def look() -> bool:
            found = self._known(uuid)
            if any(one.cluster for one in found):
                return False
            if not found or not all(one.maintenance for one in found):
                raise NotYetError("Omni does not know it as one that waits")
            return True

        try:
            return self._wait(f"Omni to say what the machine {uuid} is", look, BOOT_SECONDS)
        except OverdueError:
            return False

    # --- A machine ------------------------------------------------------------------------------

    def joined(self, machine: Wanted, uuid: str, hopeless: Callable[[], str] = lambda: "") -> str:
        """Wait until Omni has the machine, as the one that it is; gives Omni's id of it.

        `hopeless` says why a machine that Omni does not know never joins; "" when it may.
        """
        key = f"platform:machines, {machine.name}"
        begun = self.clock.now()
        other: float | None = None

        def look() -> Machine:
            nonlocal other
            found = self._known(uuid)
            if not found:
                if self.clock.now() - begun >= TOKEN_SECONDS and (why := hopeless()):
                    raise OmniError(f"{key}: did not join Omni: {why}")
                raise NotYetError("Omni does not know it yet")
            if len(found) > 1:
                raise OmniError(
                    f"{key}: Omni knows two machines by its UUID, {found[0].id} and {found[1].id}; "
                    f"delete the one that is gone (`omnictl delete link ID`), {AGAIN}"
                )
            (one,) = found
            if one.cluster not in ("", self._cluster):
                raise OmniError(
                    f"{key}: Omni has it in the cluster {one.cluster}; take it out there, {AGAIN}"
                )
            if not one.connected:
                raise NotYetError(f"not connected {one.error}".strip())
            if one.hostname == machine.name and machine.address in one.addresses:
                return one
            at = ", ".join(one.addresses) or "no address"
            known = f"Omni knows it as {one.hostname or 'nobody'} at {at}"
            other = self.clock.now() if other is None else other
            if self.clock.now() - other >= OTHER_SECONDS:
                raise OmniError(
                    f"{key}: joined, but not as {machine.name} at {machine.address}: {known}. It "
                    "takes both from guestinfo.metadata of its virtual machine: was that changed, "
                    f"or does another machine have its UUID? Look, then {REPLACE} ({PAGE})"
                )
            raise NotYetError(known)

        what = f"{machine.name} to join Omni"
        try:
            return self._wait(what, look, JOIN_SECONDS).id
        except OverdueError as lacks:
            raise OmniError(
                f"{key}: did not join Omni as {machine.name} at {machine.address} within "
                f"{JOIN_SECONDS:.0f} s; last seen: {lacks}. Is platform:omniJoinToken good "
                "(`omnictl jointoken list`), and does the machine reach platform:omni.machineApi, "
                "by UDP too (if not: platform:omni.tunnel)? A machine keeps the token that it was "
                f"made with: after a new one, {REPLACE}; {AGAIN}"
            ) from None

    def hopeless(self, name: str, token: str, made: Callable[[], Mapping[str, Made]]) -> str:
        """Say why a machine that Omni does not know never joins; "" when it may.

        `token` is the one of the settings. A machine keeps the one that it was `made` with.
        """
        if fault := self._token_fault(token):
            return fault
        others = {one: how for one, how in made().items() if how.token != token}
        if name not in others:
            return ""
        lost = {one: how for one, how in others.items() if not self._known(how.uuid)}
        again = " ".join(f"--replace {shlex.quote(how.urn)}" for how in lost.values())
        return (
            "a machine keeps the token that it was made with, and of these it is not the present "
            f"platform:omniJoinToken: {', '.join(lost)}. Make them again with `pulumi up {again}`"
        )

    def guard(self, name: str, uuid: str) -> str | None:
        """Refuse to touch a machine while another one is not healthy; gives its boot's id."""
        nodes: dict[str, str] = {}

        def look() -> None:
            members = self.omni.members(self._cluster)
            own = set(forms(uuid))
            if any(one.ready for one in members):  # without a CNI none is
                _refuse_unready(one.id for one in members if not one.ready and one.id not in own)
            nodes.clear()
            nodes.update(self._boots(name))

        try:
            self._wait(f"the others to be healthy, before {name} is touched", look, GUARD_SECONDS)
        except OverdueError as lacks:
            raise OmniError(f"{name}: not touched: {lacks}. Bring them back, {AGAIN}") from None
        return nodes.get(name)

    def back(self, machine: Wanted, uuid: str, boot: str | None, *, restarted: bool) -> None:
        """Wait until a changed machine is back, by Omni and, where it was a node, by Kubernetes."""
        self.joined(machine, uuid)
        if boot is None:
            return

        def look() -> None:
            node = self._node(machine.name)
            if restarted and node["status"]["nodeInfo"]["bootID"] == boot:
                raise NotYetError("it has not restarted yet")
            if not is_ready(node):
                raise NotYetError("its node is not ready")
            own = set(forms(uuid))
            _refuse_unready(
                one.id
                for one in self.omni.members(self._cluster)
                if not one.ready and one.id in own
            )

        try:
            self._wait(f"{machine.name} to be back", look, BACK_SECONDS)
        except OverdueError as lacks:
            raise OmniError(
                f"{machine.name}: not back after {BACK_SECONDS:.0f} s: {lacks}. No other machine "
                f"was touched. Look at its console, {AGAIN}"
            ) from None

    # --- The cluster ----------------------------------------------------------------------------

    def ids(self, uuids: Uuids) -> dict[str, str]:
        """Give what Omni calls each machine."""
        found = {}
        for name, uuid in uuids.items():
            known = self.retried("Omni to answer", partial(self._known, uuid))
            if len(known) != 1:
                raise OmniError(
                    f"{name}: Omni knows {len(known) or 'no'} machines by its UUID; was its link "
                    f"deleted there? Restart the machine, so that it joins again, {AGAIN}"
                )
            found[name] = known[0].id
        return found

    def sync(
        self,
        render: Callable[[Mapping[str, str]], str],
        uuids: Uuids,
        before: Uuids,
        lost: Sequence[str],
    ) -> None:
        """Make the cluster what its template says, and wait until Omni has done so.

        `before` are the machines of the last sync. Of those that are gone for good, Omni is not to
        wait: those that are `lost`, and those whose place another one has.
        """
        was = self.retried("Omni to answer", lambda: self.omni.cluster(self._cluster))
        ids = self.ids(uuids)
        if not before:
            self._refuse_others(ids)
        for name, uuid in gone(uuids, before, lost).items():
            self.clock.tell(f"{name}: Omni takes it out of the cluster without waiting for it")
            for form in forms(uuid):
                self.retried("Omni to answer", partial(self.omni.remove_lost, form))
        template = self._as_begun(render(ids))
        try:
            changes = self.retried("Omni to answer", lambda: self.omni.sync(template))
        except SlowError:
            names = sorted(set(before) - set(uuids))
            raise OmniError(
                f"Omni still waits for {', '.join(names) or 'a machine'} to leave the cluster. "
                "Once it is gone for good, add its name to platform:omni.lost, so that Omni does "
                f"not wait for it; {AGAIN}"
            ) from None
        for line in filter(str.strip, changes.splitlines()):
            self.clock.tell(f"Omni: {line.strip().removeprefix('* ')}")
        self._settle(healthy=was is not None and was.ready)

    def healthy(self, template: str) -> None:
        """Wait until Omni calls the cluster healthy as a whole."""
        template = self._as_begun(template)

        def look() -> None:
            self._refuse_failed()
            found = self.omni.cluster(self._cluster)
            if found is None or not found.ready:
                raise NotYetError(self._unready())

        try:
            self._wait("Omni to call the cluster healthy", look, HEALTHY_SECONDS)
            self.retried("Omni to answer", lambda: self.omni.wait_ready(template, STATUS_SECONDS))
        except (OverdueError, OmnictlError) as lacks:
            raise OmniError(
                f"platform:omni: the cluster {self._cluster} is not healthy: {lacks}. See "
                f"`omnictl cluster status {self._cluster}`, {AGAIN}"
            ) from None

    def retried(self, what: str, call: Callable[[], T]) -> T:
        """Ask Omni, which may be away for a while."""
        try:
            return self.clock.wait_for(
                what, call, seconds=AWAY_SECONDS, poll=POLL_SECONDS, errors=AwayError
            )
        except OverdueError as lacks:
            raise OmniError(f"{lacks}, for {AWAY_SECONDS:.0f} s; {AGAIN}") from None

    # --- Looks ----------------------------------------------------------------------------------

    def _known(self, uuid: str) -> list[Machine]:
        return self.omni.machines(forms(uuid))

    def _as_begun(self, template: str) -> str:
        """Say in a template which backup the cluster was restored from, since Omni wants it to."""
        backup = self.retried("Omni to answer", lambda: self.omni.begun_with(self._cluster))
        return begun_with(template, backup)

    def _token_fault(self, token: str) -> str:
        """Say why Omni lets no machine join with a token; "" when it does, or does not tell."""
        state = self.omni.join_token(token)
        if state in (None, "active"):
            return ""
        return f"platform:omniJoinToken: {TOKEN_FAULTS.get(state, state)}: {ANOTHER}; {AGAIN}"

    def _refuse_others(self, ids: Mapping[str, str]) -> None:
        members = self.retried("Omni to answer", lambda: self.omni.members(self._cluster))
        if others := sorted({one.id for one in members} - set(ids.values())):
            raise OmniError(
                f"platform:cluster.name = {self._cluster}: Omni's cluster of this name has "
                f"{OTHERS}: {', '.join(others)}. Nothing was changed there. After a destroy that "
                "was killed they are gone for good: destroy the rest too "
                f"(docs/procedures/omni-destroy.md)"
            )

    def _settle(self, *, healthy: bool) -> None:
        """Wait until nothing of a change is under way.

        A new cluster cannot be healthy before it has a CNI, which a layer brings.
        """

        def look() -> None:
            self._refuse_failed()
            found = self.omni.cluster(self._cluster)
            if found is None:
                raise NotYetError("Omni has not made the cluster yet")
            for name, one in self.omni.upgrades(self._cluster).items():
                if one.is_running:
                    raise NotYetError(f"{name}: {one.phase} {one.step}".strip())
            if not found.kubernetes_ready:
                raise NotYetError(f"the Kubernetes API does not answer yet; {self._unready()}")
            if healthy and not found.ready:
                raise NotYetError(self._unready())

        try:
            self._wait("Omni to make the cluster so", look, CLUSTER_SECONDS)
        except OverdueError as lacks:
            raise OmniError(
                f"platform:omni: Omni has not made the cluster {self._cluster} what its template "
                f"says within {CLUSTER_SECONDS:.0f} s: {lacks}. See `omnictl cluster status "
                f"{self._cluster}`, {AGAIN}"
            ) from None

    def _refuse_failed(self) -> None:
        for name, one in self.omni.upgrades(self._cluster).items():
            if one.phase == "failed":
                key = f"platform:{name.lower()}.version"
                raise OmniError(
                    f"{key}: Omni's upgrade of {name} failed: {one.error or one.step}. Set the "
                    f"version back to the one that ran, or to one that works, {AGAIN}"
                )

    def _unready(self) -> str:
        members = self.omni.members(self._cluster)
        words = [f"{one.id} {one.stage} {one.error}".strip() for one in members if not one.ready]
        return "; ".join(words) or "not ready as a whole"

    def _boots(self, name: str) -> dict[str, str]:
        """Give each node's boot; fails while one but `name` is not ready. None without nodes."""
        if self._kubeconfig is None:
            return {}
        nodes = self._kubernetes(self._kubeconfig).get("/api/v1/nodes")["items"]
        if any(map(is_ready, nodes)):
            names = (str(one["metadata"]["name"]) for one in nodes if not is_ready(one))
            _refuse_unready(one for one in names if one != name)
        return {str(one["metadata"]["name"]): one["status"]["nodeInfo"]["bootID"] for one in nodes}

    def _node(self, name: str) -> dict[str, Any]:
        return self._kubernetes(self._kubeconfig or "").get(f"/api/v1/nodes/{name}")

    def _wait(self, what: str, look: Callable[[], T], seconds: float) -> T:
        errors = (NotYetError, AwayError, ApiError)
        return self.clock.wait_for(what, look, seconds=seconds, poll=POLL_SECONDS, errors=errors)


def gone(uuids: Uuids, before: Uuids, lost: Sequence[str]) -> dict[str, str]:
    """Give the machines, with their UUIDs, that Omni need not wait for: they never answer again.

    The engine has deleted a machine before it makes another one of the same name.
    """
    return {
        name: uuid
        for name, uuid in before.items()
        if (name in uuids and uuids[name] != uuid) or (name not in uuids and name in lost)
    }


def _refuse_unready(names: Iterable[str]) -> None:
    if found := sorted(names):
        raise NotYetError(f"not ready: {', '.join(found)}")
