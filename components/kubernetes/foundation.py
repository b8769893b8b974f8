"""Layer Kubernetes: what the layers above share: priorities, and definitions.

Cilium and Traefik read the same definitions of Gateway API. Traefik's chart carries them and its
own in its `crds/` folder: Helm installs what lies there only where none are, and never changes it.
So all of them have one owner, which comes before both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import pulumi

from components.kubernetes import manifests
from components.kubernetes.objects import KubernetesObject, Metadata
from config import gateway_api, traefik_api, versions
from config.charts import CRITICAL

if TYPE_CHECKING:
    from config.settings import Services


class Definition(TypedDict):
    """A CustomResourceDefinition, as it is installed."""

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: dict[str, Any]


PUBLISHED = "https://raw.githubusercontent.com"
"""Where upstream's repositories are read file by file."""
KEPT = ".traefik.io"
"""How definitions end that stay when their layer is taken out, so that their objects stay too."""
SCHEMAS = {"additionalProperties", "allOf", "anyOf", "items", "not", "oneOf"}
"""What holds a schema in a schema; beside `properties`, where it stands below a field's name."""
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
        KubernetesObject(
            "scheduling.k8s.io/v1",
            "PriorityClass",
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
        name = definition["metadata"]["name"]
        KubernetesObject(
            definition["apiVersion"],
            definition["kind"],
            name,
            metadata=definition["metadata"],
            spec=definition["spec"],
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=name.endswith(KEPT) or None),
        )


def load_definitions(services: Services, mirror: str | None = None) -> list[Definition]:
    """Fetch the definitions that these services need, as pinned. Raises `ManifestError`.

    `mirror` is the URL of a mirror of where upstream's files are.
    """
    definitions: list[Definition] = []
    for setting, file in _files(services, mirror):
        try:
            definitions += map(bare, manifests.load(file))
        except manifests.ManifestError as error:
            message = f"{setting}: {error}"
            raise manifests.ManifestError(message) from None
    return definitions


def bare(upstream: dict[str, Any]) -> Definition:
    """Leave out of upstream's definition what only people read: the descriptions of its fields.

    They would be two thirds of the stack's state, which the engine writes at every step
    (docs/decisions/0022-definitions-without-descriptions.md).
    """
    said = upstream["metadata"]
    metadata: Metadata = {"name": said["name"]}
    if labels := said.get("labels"):
        metadata["labels"] = labels
    if annotations := said.get("annotations"):
        metadata["annotations"] = annotations
    versions_of = [
        {**one, "schema": {"openAPIV3Schema": _bare(one["schema"]["openAPIV3Schema"])}}
        for one in upstream["spec"]["versions"]
    ]
    return {
        "apiVersion": upstream["apiVersion"],
        "kind": upstream["kind"],
        "metadata": metadata,
        "spec": {**upstream["spec"], "versions": versions_of},
    }


def _bare(schema: Any) -> Any:  # noqa: ANN401 a schema, a list of them, or neither
    """Leave the descriptions out of a schema. A field that has this name stays."""
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: one for key, one in schema.items() if key != "description"}
    for key in SCHEMAS & kept.keys():
        kept[key] = _bare(kept[key])
    if fields := kept.get("properties"):
        kept["properties"] = {name: _bare(one) for name, one in fields.items()}
    return kept


def _files(
    services: Services, mirror: str | None = None
) -> Iterator[tuple[str, manifests.Manifest]]:
    """Give each file with the setting, and its value, that asks for it."""
    if services.cilium is not None:
        version = services.cilium.gateway_api_version
        for kind, sha256 in gateway_api.SHA256[version].items():
            url = _at(mirror, gateway_api.URL.format(version=version, kind=kind))
            setting = f"platform:services.cilium.gatewayApiVersion = {version}"
            yield setting, manifests.Manifest(url, sha256)
    if services.traefik is not None:
        setting = f"platform:services.traefik.version = {services.traefik.version}"
        url = _at(mirror, traefik_api.URL.format(version=versions.TRAEFIK_API))
        yield setting, manifests.Manifest(url, traefik_api.SHA256[versions.TRAEFIK_API])


def _at(mirror: str | None, url: str) -> str:
    """Give a file's address: upstream's own, or that of the site's mirror."""
    return url if mirror is None else mirror.rstrip("/") + url.removeprefix(PUBLISHED)
