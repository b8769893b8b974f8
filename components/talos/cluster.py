"""Layer Talos: the cluster's Kubernetes API, and the way to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
import pulumiverse_talos as talos

from components.talos.expiry import ends, told_ends
from components.talos.kubernetes_access import KubernetesAccess
from components.talos.provider import talos_errors, typed

if TYPE_CHECKING:
    from components.talos.identity import Identity
    from components.talos.inputs import TalosInputs
    from components.talos.nodes import Nodes


class Cluster(KubernetesAccess):
    """The Kubernetes API of a cluster that the stack itself manages."""

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
        self.open(
            name,
            inputs.cluster.name,
            {
                "endpoint": inputs.endpoint,
                "version": inputs.kubernetes.version,
                # One that leaves etcd cannot hand the VIP over: its session has to expire first.
                "controlPlanes": addresses,
            },
            credentials,
        )
        self.register_outputs({"endpoint": inputs.endpoint, "version": inputs.kubernetes.version})
