"""Layer Kubernetes: what the layers above share: priorities, and definitions.

Cilium and Traefik read the same definitions of Gateway API. Traefik's chart carries them and its
own in its `crds/` folder: Helm installs what lies there only where none are, and never changes it.
So all of them have one owner, which comes before both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from components.kubernetes import manifests
from config import gateway_api, traefik_api, versions
from config.charts import CRITICAL

if TYPE_CHECKING:
    from config.settings import Services

Definition = dict[str, Any]
"""A CustomResourceDefinition, as upstream wrote it."""

KEPT = ".traefik.io"
"""How definitions end that stay when their layer is taken out, so that their objects stay too."""
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
        for definition in definitions:
            self._definition(definition)
        self.register_outputs(
            {
                "priorityClass": CRITICAL,
                "definitions": [one["metadata"]["name"] for one in definitions],
            }
        )

    def _definition(self, definition: Definition) -> None:
        metadata = definition["metadata"]
        kubernetes.apiextensions.CustomResource(
            metadata["name"],
            api_version=definition["apiVersion"],
            kind=definition["kind"],
            metadata=ObjectMetaArgs(
                name=metadata["name"],
                annotations=metadata.get("annotations"),
                labels=metadata.get("labels"),
            ),
            spec=definition["spec"],
            opts=pulumi.ResourceOptions(
                parent=self, retain_on_delete=metadata["name"].endswith(KEPT) or None
            ),
        )


def load_definitions(services: Services) -> list[Definition]:
    """Fetch the definitions that these services need, as pinned. Raises `ManifestError`."""
    definitions: list[Definition] = []
    for setting, file in _files(services):
        try:
            definitions += manifests.load(file)
        except manifests.ManifestError as error:
            message = f"{setting}: {error}"
            raise manifests.ManifestError(message) from None
    return definitions


def _files(services: Services) -> Iterator[tuple[str, manifests.Manifest]]:
    """Give each file with the setting, and its value, that asks for it."""
    if services.cilium is not None:
        version = services.cilium.gateway_api_version
        for kind, sha256 in gateway_api.SHA256[version].items():
            url = gateway_api.URL.format(version=version, kind=kind)
            setting = f"platform:services.cilium.gatewayApiVersion = {version}"
            yield setting, manifests.Manifest(url, sha256)
    if services.traefik is not None:
        setting = f"platform:services.traefik.version = {services.traefik.version}"
        url = traefik_api.URL.format(version=versions.TRAEFIK_API)
        yield setting, manifests.Manifest(url, traefik_api.SHA256[versions.TRAEFIK_API])
