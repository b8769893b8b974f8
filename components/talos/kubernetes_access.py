"""Layer Kubernetes: the way to the cluster's API, whoever manages the machines that serve it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.gate import Gate
from components.talos.api_ready import api_answers


class KubernetesAccess(pulumi.ComponentResource):
    """The Kubernetes API of a cluster, and the provider for everything that runs on it."""

    kubeconfig: pulumi.Output[str]
    """The administrator's access to the Kubernetes API; a secret."""
    expires: pulumi.Output[dict[str, str]]
    """When each of the administrator's accesses, and of the secrets whose end the settings
    tell, ends: by name, ISO 8601."""
    provider: kubernetes.Provider

    def open(
        self, name: str, cluster: str, seen: Mapping[str, Any], after: pulumi.Input[pulumi.Resource]
    ) -> None:
        """Wait until the API answers to the kubeconfig, and make the provider of this name.

        `seen` is what the API follows from: a change of it is waited for again.
        """
        gate = Gate(
            "kubernetes-api",
            seen,
            after=after,
            on_create=api_answers(self.kubeconfig),
            on_update=api_answers(self.kubeconfig),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.provider = kubernetes.Provider(
            name,
            kubeconfig=self.kubeconfig,
            # Without it, a kubeconfig that is not known yet replaces all that the provider made.
            cluster_identifier=cluster,
            enable_server_side_apply=True,
            # A run that is killed leaves objects that the state does not know, under the name of
            # a field manager that nobody knows any more.
            upsert_existing_objects=True,
            enable_patch_force=True,
            # Changed in place: a Secret that is recreated is away meanwhile.
            enable_secret_mutable=True,
            enable_config_map_mutable=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[gate.opened]),
        )
