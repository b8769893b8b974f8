"""Layer cert-manager: whether the DNS-01 solver that an operator installs is there.

A solver is an aggregated API of its own group (cert-manager.io, "Webhook Issuer"). It is delivered
by GitOps, and Argo CD stands on the certificate that needs it: so it comes while the private
authority issues, and the issuer is changed after that (docs/operations.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi

from clients.kubernetes_api import POLL_SECONDS, ApiError, KubernetesApi
from clients.waiting import Clock
from components.gate import Gate
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from components.hooks import Hook
    from config.settings import DnsChallenge

SECONDS = 60.0
"""A solver that is there answers at once; an API server may be starting."""


class SolverError(Exception):
    """No solver answers."""

    page = "docs/operations.md"


def once_there(
    dns: DnsChallenge,
    kubeconfig: pulumi.Output[str],
    *,
    after: pulumi.Input[pulumi.Resource],
    parent: pulumi.Resource,
) -> pulumi.ResourceOptions:
    """Give options for what is made once the solver of these settings answers."""
    gate = Gate(
        "dns-solver",
        {"groupName": dns.group_name, "solverName": dns.solver_name},
        after=after,
        on_create=_answers(str(dns.group_name), kubeconfig),
        on_update=_answers(str(dns.group_name), kubeconfig),
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return pulumi.ResourceOptions(parent=parent, depends_on=[gate.opened])


def _answers(group: str, kubeconfig: pulumi.Output[str]) -> Hook:
    async def answers(args: pulumi.ResourceHookArgs) -> None:
        api = KubernetesApi(await resolved(kubeconfig))
        await in_thread(args, lambda clock: wait_served(api, group, clock))

    return answers


def wait_served(api: KubernetesApi, group: str, clock: Clock) -> None:
    """Ask until the API server serves the solver's group. Raises `SolverError`."""

    def lacking() -> str:
        try:
            found = api.find(f"/apis/{group}")
        except ApiError as error:
            return str(error)
        return "" if found is not None else "the API server knows no such group"

    reason = clock.wait(
        f"the DNS-01 solver of {group}", lacking, seconds=SECONDS, poll=POLL_SECONDS
    )
    if reason:
        message = (
            f"platform:services.certManager.dns.groupName = {group}: no solver answers after "
            f"{SECONDS:.0f} s ({reason}). It is yours to install: set issuer: private-ca without "
            "`dns` and `email`, run `pulumi up`, deliver the solver by Argo CD, then set this again"
        )
        raise SolverError(message)
