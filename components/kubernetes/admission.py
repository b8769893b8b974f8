"""Layer Kubernetes: waits until the API takes objects of a new kind.

An operator that is ready may still be registering its definitions. A webhook's pod is ready before
its certificate has reached the API server, and the first object after an installation then fails
with "failed calling webhook". Asking with a dry run is the only check that goes the whole way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pulumi

from clients.kubernetes_api import POLL_SECONDS, KubernetesApi
from clients.waiting import Clock
from components.gate import Gate
from components.hooks import in_thread, resolved

if TYPE_CHECKING:
    from components.hooks import Hook

SECONDS = 180.0
"""Certificates are made within seconds; the API server may take a minute to see them."""


class AdmissionError(Exception):
    """Objects of a kind are not taken."""

    page = "docs/operations.md"


def once_taken(
    name: str,
    seen: Mapping[str, Any],
    *probes: Mapping[str, Any],
    release: pulumi.Resource,
    kubeconfig: pulumi.Output[str],
    parent: pulumi.Resource,
) -> pulumi.ResourceOptions:
    """Give options for what is made once the API takes objects like these, after a release."""
    gate = Gate(
        name,
        seen,
        after=release,
        on_create=accepts(kubeconfig, *probes),
        on_update=accepts(kubeconfig, *probes),
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return pulumi.ResourceOptions(parent=parent, depends_on=[gate.opened])


def accepts(kubeconfig: pulumi.Output[str], *probes: Mapping[str, Any]) -> Hook:
    """Make the hook that waits until the API takes objects like these, which are never made."""

    async def accepts(args: pulumi.ResourceHookArgs) -> None:
        api = KubernetesApi(await resolved(kubeconfig))

        def wait(clock: Clock) -> None:
            for probe in probes:
                wait_accepted(api, probe, clock)

        await in_thread(args, wait)

    return accepts


def wait_accepted(api: KubernetesApi, probe: Mapping[str, Any], clock: Clock) -> None:
    """Ask until there is an answer. Raises `AdmissionError`."""
    path = collection(probe)
    kind, place = probe["kind"], probe["metadata"].get("namespace", "the cluster")
    reason = clock.wait(
        f"the API server to take a {kind} in {place}",
        lambda: api.would_accept(path, probe) or "",
        seconds=SECONDS,
        poll=POLL_SECONDS,
    )
    if reason:
        message = (
            f"{kind} in {place}: the API server accepts none after {SECONDS:.0f} s: {reason}; "
            f"look at the pods in {place} that define or check it, then run `pulumi up` again"
        )
        raise AdmissionError(message)


def collection(probe: Mapping[str, Any]) -> str:
    """Give the API's path for objects like this one, for kinds whose plural is regular."""
    group = probe["apiVersion"]
    plural = f"{probe['kind'].lower()}s"
    namespace = probe["metadata"].get("namespace")
    return f"/apis/{group}/" + (f"namespaces/{namespace}/{plural}" if namespace else plural)
