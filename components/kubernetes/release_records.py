"""Layer Kubernetes: hooks that fix Helm's records before the engine touches a release."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pulumi

from clients.helm_records import forget_pending, forget_unknown
from clients.kubernetes_api import KubernetesApi
from clients.waiting import Clock
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from components.hooks import Hook
    from config.charts import ChartPlan


def before_install(plan: ChartPlan, kubeconfig: pulumi.Output[str]) -> Hook:
    """Make the hook that forgets a release which a killed run made and the state does not know."""

    def fix(api: KubernetesApi, clock: Clock) -> list[str]:
        return forget_unknown(api, plan, clock)

    return _hook(kubeconfig, fix)


def before_upgrade(plan: ChartPlan, kubeconfig: pulumi.Output[str]) -> Hook:
    """Make the hook that forgets revisions which a killed run left pending."""

    def fix(api: KubernetesApi, clock: Clock) -> list[str]:
        return forget_pending(api, plan, clock)

    return _hook(kubeconfig, fix)


def _hook(kubeconfig: pulumi.Output[str], fix: Callable[[KubernetesApi, Clock], list[str]]) -> Hook:
    async def hook(args: pulumi.ResourceHookArgs) -> None:
        document = await resolved(kubeconfig)
        for message in await in_thread(args, lambda clock: fix(KubernetesApi(document), clock)):
            pulumi.log.warn(message)

    return hook
