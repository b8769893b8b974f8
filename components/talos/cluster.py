"""Layer Talos: the cluster's Kubernetes API, and the way to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
import pulumi_kubernetes as kubernetes
import pulumiverse_talos as talos

from components.gate import Gate
from components.talos.api_ready import api_answers
from components.talos.expiry import ends, told_ends
from components.talos.provider import talos_errors, typed

if TYPE_CHECKING:
    from components.talos.identity import Identity
    from components.talos.inputs import TalosInputs
    from components.talos.nodes import Nodes


class Cluster(pulumi.ComponentResource):
    """The Kubernetes API of the cluster, and the provider for everything that runs on it."""

    kubeconfig: pulumi.Output[str]
    """The administrator's access to the Kubernetes API; a secret."""
    expires: pulumi.Output[dict[str, str]]
    """When each of the administrator's accesses, and of the secrets whose end the settings
    tell, ends: by name, ISO 8601."""
    provider: kubernetes.Provider

    def __init__(  # noqa: PLR0913 one argument for each lower layer
        self,
        name: str,
        inputs: TalosInputs,
        *,
        identity: Identity,
        nodes: Nodes,
        provider: talos.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Fetch the credentials, wait for the API, and make the provider.

        Give `opts` a `deleted_with` of the machines: with them everything in the cluster is gone.
        """
        super().__init__("platform:talos:Cluster", name, None, opts)
        addresses = [str(machine.address) for machine in inputs.control_planes]
        credentials = talos.cluster.Kubeconfig(
            name,
            node=addresses[0],
            endpoint=addresses[0],
            client_configuration=typed(identity.secrets.client_configuration),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                depends_on=[nodes.joined],
                hooks=pulumi.ResourceHookBinding(
                    on_error=[talos_errors("Talos' answer about the kubeconfig", inputs)]
                ),
            ),
        )
        self.kubeconfig = pulumi.Output.secret(credentials.kubeconfig_raw)
        self.expires = pulumi.Output.unsecret(
            pulumi.Output.all(
                talosconfig=identity.secrets.client_configuration.client_certificate,
                kubeconfig=credentials.kubernetes_client_configuration.client_certificate,
            ).apply(lambda certificates: ends(certificates) | told_ends(inputs.cluster))
        )
        gate = Gate(
            "kubernetes-api",
            {
                "endpoint": inputs.endpoint,
                "version": inputs.kubernetes.version,
                # One that leaves etcd cannot hand the VIP over: its session has to expire first.
                "controlPlanes": addresses,
            },
            after=credentials,
            on_create=api_answers(self.kubeconfig),
            on_update=api_answers(self.kubeconfig),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.provider = kubernetes.Provider(
            name,
            kubeconfig=self.kubeconfig,
            # Without it, a kubeconfig that is not known yet replaces all that the provider made.
            cluster_identifier=inputs.cluster.name,
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
        self.register_outputs({"endpoint": inputs.endpoint, "version": inputs.kubernetes.version})
