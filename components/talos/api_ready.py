"""Layer Kubernetes: the hook that waits for the API at the address that everybody uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi

from clients.kubernetes_api import wait_ready
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from components.hooks import Hook


def api_answers(kubeconfig: pulumi.Output[str]) -> Hook:
    """Make the hook that waits until the API says that it is ready."""

    async def api_answers(args: pulumi.ResourceHookArgs) -> None:
        document = await resolved(kubeconfig)
        await in_thread(args, lambda clock: wait_ready(document, clock))

    return api_answers
