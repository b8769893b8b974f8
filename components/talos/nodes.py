"""Layer Talos: the cluster's machines, one after the other.

The chain: machine 1, its configuration, its health, machine 2, ... so that at most one machine is
ever touched. At the first creation, when none is there, the machines are made before all that, at
once, and join one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pulumi
import pulumi_vsphere as vsphere  # the SDK reads the types of a component's attributes
import pulumiverse_talos as talos

from components.failures import Questions
from components.gate import Gate
from components.talos.kubernetes_upgrade import version_gate
from components.talos.node import Node, Shared, as_member
from components.talos.provider import talos_errors
from components.talos.rollout import Rollout

if TYPE_CHECKING:
    from components.talos.identity import Identity
    from components.talos.inputs import TalosInputs
    from components.vsphere.machines import Machines


class Nodes(pulumi.ComponentResource):
    """Machines that are configured, have joined the cluster and are healthy."""

    joined: pulumi.Output[pulumi.Resource]
    """Known once the last machine is healthy."""
    virtual_machines: dict[str, vsphere.VirtualMachine]
    """By name, in the order of the chain."""

    def __init__(  # noqa: PLR0913 the chain joins all lower layers
        self,
        name: str,
        inputs: TalosInputs,
        *,
        machines: Machines,
        identity: Identity,
        provider: talos.Provider,
        registry_password: pulumi.Output[str] | None = None,
        root: Path,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Build the chain; control planes come first, workers join what they make."""
        super().__init__("platform:talos:Nodes", name, None, opts)
        chain = inputs.control_planes + inputs.workers
        members = [as_member(machine) for machine in chain]
        rollout = Rollout(members, identity.talosconfig)
        shared = Shared(
            inputs=inputs,
            root=root,
            parent=self,
            machines=machines,
            identity=identity,
            provider=provider,
            registry_password=registry_password,
            rollout=rollout,
            questions=Questions(),
            on_error=talos_errors("Talos' answer", inputs),
        )
        self.virtual_machines = {}
        after: pulumi.Input[pulumi.Resource] = version_gate(
            inputs.kubernetes.version, identity, members, self
        )
        for machine in chain:
            node = Node(shared, machine, after, bootstraps=machine == chain[0])
            self.virtual_machines[machine.name] = node.virtual
            after = node.healthy

        control_planes = {one.name: str(one.address) for one in inputs.control_planes}
        self.joined = Gate(
            "etcd-members",
            {"controlPlanes": control_planes},
            after=after,
            on_update=rollout.retire(),
            opts=pulumi.ResourceOptions(parent=self),
        ).opened
        workers = {machine.name: str(machine.address) for machine in inputs.workers}
        self.register_outputs({"controlPlanes": control_planes, "workers": workers})
