"""Layer Omni: the kubeconfig, which is fetched once and kept.

Each time that Omni is asked for one it makes another token, which nobody can take back before it
ends. So it is asked only when a gate says so, whose change a preview shows: at the first creation,
or when `platform:omni.accessRenewed` or what else the token follows from is changed. Later runs
take it from the stack's own outputs. A run that was killed between the two asks once more.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pulumi
import yaml

from components.gate import Gate
from components.hooks import in_thread, resolved
from config import plain_yaml

if TYPE_CHECKING:
    from clients.omnictl import Account, Omnictl
    from clients.waiting import Clock
    from components.omni.rollout import Way
    from config.settings import Omni

OUTPUT = "kubeconfig"
"""The stack's output that keeps it."""
USER = "platform"
"""Whom Kubernetes sees: the name of the service account, with the group system:masters."""


def kept() -> pulumi.Output[str | None]:
    """Read the kubeconfig of an earlier run from this stack's outputs; a secret."""
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    found: pulumi.Output[Any] = pulumi.StackReference("kept", stack_name=name).get_output(OUTPUT)
    return pulumi.Output.secret(found.apply(lambda one: str(one) if one else None))


class Kubeconfig:
    """A cluster's kubeconfig from Omni."""

    text: pulumi.Output[str]
    """The kubeconfig; a secret, and unknown in a preview of a run that fetches it."""

    def __init__(
        self,
        cluster: str,
        omni: Omni,
        way: Way,
        *,
        after: pulumi.Input[pulumi.Resource],
        parent: pulumi.Resource,
    ) -> None:
        """Fetch it after `after`, if it has to be."""
        self._cluster = cluster
        self._omni = omni
        self._way = way
        self._fetches = False
        self._fresh: str | None = None
        gate = Gate(
            "omni-kubeconfig",
            {
                "cluster": cluster,
                "proxy": omni.kubernetes_proxy,
                "user": USER,
                "days": omni.access_days,
                "renewed": None if omni.access_renewed is None else str(omni.access_renewed),
            },
            after=after,
            on_create=self._fetch,
            on_update=self._fetch,
            in_previews=True,
            opts=pulumi.ResourceOptions(parent=parent),
        )
        self.gate = gate.opened
        both = pulumi.Output.all(gate.opened, way.earlier)
        found: pulumi.Output[str] = both.apply(lambda two: self._now(two[1]))
        self.text = pulumi.Output.secret(found)

    async def _fetch(self, args: pulumi.ResourceHookArgs) -> None:
        """Fetch it before the gate is made or changed; in a preview only note that it would be."""
        self._fetches = True
        if pulumi.runtime.is_dry_run():
            return
        account = await resolved(self._way.account)
        self._fresh = await in_thread(args, lambda clock: self._asked(account, clock))

    def _asked(self, account: Account, clock: Clock | None = None) -> str:
        if clock is not None:
            clock.tell(f"Omni makes a token for {self._omni.access_days} days")
        with self._way.connector(account) as omni:
            return checked(omni, self._cluster, self._omni)

    def _now(self, earlier: str | None) -> pulumi.Output[str]:
        if self._fresh is not None:
            return pulumi.Output.from_input(self._fresh)
        if pulumi.runtime.is_dry_run():
            return (
                _unknown()
                if self._fetches or earlier is None
                else pulumi.Output.from_input(earlier)
            )
        if earlier is not None:
            return pulumi.Output.from_input(earlier)
        # A run was killed after the gate had opened, before the stack's outputs were written.
        return self._way.account.apply(lambda account: asyncio.to_thread(self._asked, account))


def checked(omni: Omnictl, cluster: str, settings: Omni) -> str:
    """Fetch a kubeconfig, and see that it leads to Omni's proxy as the settings name it."""
    text = omni.kubeconfig(cluster, USER, settings.access_days)
    try:
        server = str(plain_yaml.read(text)["clusters"][0]["cluster"]["server"])
    except (yaml.YAMLError, TypeError, KeyError, IndexError):
        message = "omnictl wrote no kubeconfig; what `omnictl kubeconfig` says may help"
        raise AccessError(message) from None
    if server.rstrip("/") != settings.kubernetes_proxy.rstrip("/"):
        raise AccessError(
            f"platform:omni.kubernetesProxy = {settings.kubernetes_proxy}: Omni's own is {server}; "
            "set that"
        )
    return text


class AccessError(Exception):
    """The kubeconfig from Omni is not what the settings say."""

    page = "docs/procedures/omni.md"


def ends(kubeconfig: str) -> str:
    """Give the end of a kubeconfig's token (a JSON web token); ISO 8601, "" if it says none."""
    token = str(plain_yaml.read(kubeconfig)["users"][0]["user"].get("token", ""))
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        return dt.datetime.fromtimestamp(int(claims["exp"]), dt.UTC).isoformat()
    except (IndexError, ValueError, KeyError, TypeError):
        return ""


def _unknown() -> pulumi.Output[str]:
    """Give what only the deployment knows."""

    def settled(value: Any) -> asyncio.Future[Any]:  # noqa: ANN401 an output's parts
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(value)
        return future

    return pulumi.Output(set(), settled(None), is_known=settled(value=False))
