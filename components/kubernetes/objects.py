"""Layer Kubernetes: an object of the cluster, of whatever kind.

Not by the SDK's class for its kind: importing those takes longer than the rest of the program does
(`pulumi_kubernetes.core.v1` has 170,000 lines), and the API server checks every field of an object
in every preview.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pulumi


class Metadata(TypedDict):
    """What is said of an object beside its fields."""

    name: str
    namespace: NotRequired[str]
    labels: NotRequired[Mapping[str, str]]
    annotations: NotRequired[Mapping[str, str]]


class KubernetesObject(pulumi.CustomResource):
    """An object, registered under the type that the SDK's class for its kind has."""

    def __init__(
        self,
        api_version: str,
        kind: str,
        resource_name: str,
        *,
        metadata: Metadata,
        opts: pulumi.ResourceOptions,
        **fields: Any,  # noqa: ANN401 Kubernetes' own, in its spelling
    ) -> None:
        """Make it; a field that is None is left out."""
        group_version = "core/v1" if api_version == "v1" else api_version
        super().__init__(
            f"kubernetes:{group_version}:{kind}",
            resource_name,
            {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields},
            opts,
        )
