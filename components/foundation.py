"""Layer Kubernetes: what the layers above share: priorities, and Gateway API's definitions.

Cilium and Traefik read the same definitions, and Traefik's chart carries some too (Helm installs
those only where none are): they have one owner, which comes before both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from components import manifests
from components.charts import CRITICAL
from config import gateway_api

if TYPE_CHECKING:
    from config.settings import Settings

Definition = dict[str, Any]
"""A CustomResourceDefinition, as upstream wrote it."""

PRIORITY = 1_000_000
"""Above every workload without a class (0), far below Kubernetes' own (2 000 000 000)."""


class Foundation(pulumi.ComponentResource):
    """Priorities and definitions, before anything that runs."""

    def __init__(
        self,
        name: str,
        definitions: Sequence[Definition],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make them; `definitions` are those that `load_definitions` gives."""
        super().__init__("platform:kubernetes:Foundation", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        kubernetes.scheduling.v1.PriorityClass(
            CRITICAL,
            metadata={"name": CRITICAL},
            value=PRIORITY,
            description="What applications on the platform stand on: ingress, certificates, GitOps",
            opts=child,
        )
        for one in definitions:
            kubernetes.apiextensions.CustomResource(
                one["metadata"]["name"],
                api_version=one["apiVersion"],
                kind=one["kind"],
                metadata=ObjectMetaArgs(
                    name=one["metadata"]["name"],
                    annotations=one["metadata"].get("annotations"),
                    labels=one["metadata"].get("labels"),
                ),
                spec=one["spec"],
                opts=child,
            )
        self.register_outputs({})


def load_definitions(settings: Settings) -> list[Definition]:
    """Fetch Gateway API's definitions, as pinned; none without Cilium. Raises `ManifestError`."""
    cilium = settings.services.cilium
    if cilium is None:
        return []
    version = cilium.gateway_api_version
    try:
        return [
            one
            for kind, sha256 in gateway_api.SHA256[version].items()
            for one in manifests.load(
                manifests.Manifest(gateway_api.URL.format(version=version, kind=kind), sha256)
            )
        ]
    except manifests.ManifestError as error:
        key = "platform:services.cilium.gatewayApiVersion"
        message = f"{key} = {version}: {error}"
        raise manifests.ManifestError(message) from None
