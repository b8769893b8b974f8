"""Layer Talos: the cluster's keys, and the operator's access to its machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pulumi
import pulumiverse_talos as talos

from components.failures import Questions
from components.talos.provider import camel_case
from config.problems import Problem

if TYPE_CHECKING:
    from config.settings import Machine
    from config.settings import Talos as TalosSettings


class Identity(pulumi.ComponentResource):
    """The cluster's keys. They outlive the machines, so that old backups still fit."""

    talosconfig: pulumi.Output[str]
    """The operator's access to the Talos API; a secret."""

    def __init__(
        self,
        cluster: str,
        settings: TalosSettings,
        machines: Sequence[Machine],
        provider: talos.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make the keys once; the component has the cluster's name."""
        super().__init__("platform:talos:Identity", cluster, None, opts)
        self.secrets = talos.machine.Secrets(
            cluster,
            talos_version=settings.contract_tag,
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                # Lost keys lock everybody out, and make every backup of etcd worthless.
                protect=True,
                # A lower version would replace all keys.
                ignore_changes=["talosVersion"],
            ),
        )
        endpoints = [str(machine.address) for machine in machines if machine.is_control_plane]
        nodes = [str(machine.address) for machine in machines]
        credentials = Questions().ask(
            lambda: talos.client.get_configuration_output(
                cluster_name=cluster,
                client_configuration=camel_case(self.secrets.client_configuration),
                endpoints=endpoints,
                nodes=nodes,
                opts=pulumi.InvokeOutputOptions(parent=self, provider=provider),
            ),
            lambda words: Problem(
                "platform:machines",
                "Talos' provider could not make the talosconfig",
                "check their addresses; if they are right, install the plugin again: "
                f"`pulumi install` ({words})",
            ),
        )
        self.talosconfig = pulumi.Output.secret(credentials.talos_config)
        self.register_outputs({"endpoints": endpoints, "nodes": nodes})
