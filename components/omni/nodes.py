"""Layer Omni: the cluster's machines, until Omni has them.

The chain of changes is that of a cluster without Omni: a machine is changed only when the one
before it is back. At the first creation all are made at once, and join in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pulumi
import pulumi_vsphere as vsphere  # the SDK reads the types of a component's attributes

from clients.vcenter.machines import told
from components.gate import Gate, in_order
from components.omni import join
from components.omni.observer import Made
from components.omni.rollout import Joining
from components.vsphere import disks
from components.vsphere.leftovers import Owner, awake, no_leftover
from config.resource_types import JOINED

if TYPE_CHECKING:
    from components.omni.rollout import Rollout
    from components.vsphere.machines import Machines
    from config.settings import Machine, Omni, Settings


class Nodes(pulumi.ComponentResource):
    """Virtual machines that have joined Omni."""

    joined: pulumi.Output[list[pulumi.Resource]]
    """Known once Omni has all of them."""
    virtual_machines: dict[str, vsphere.VirtualMachine]
    """By name, in the order of the chain."""

    def __init__(  # noqa: PLR0913 the chain joins all lower layers
        self,
        settings: Settings,
        omni: Omni,
        *,
        machines: Machines,
        rollout: Rollout,
        token: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make the machines, and wait for each; `token` is that with which they join (a secret)."""
        super().__init__("platform:omni:Nodes", settings.cluster.name, None, opts)
        self._machines = machines
        self._rollout = rollout
        self._token = token
        self._names = [one.name for one in settings.machines]
        reached = Gate(
            "omni",
            {"endpoint": omni.endpoint, "version": omni.version},
            after=machines.provider,
            on_create=in_order(rollout.answers(), rollout.token_taken(token)),
            opts=pulumi.ResourceOptions(parent=self),
        ).opened
        roots = settings.site.trusted_roots
        # After the gate: without Omni, or with a wrong key, no machine is made.
        told: pulumi.Output[str] = pulumi.Output.all(token, reached).apply(
            lambda both: join.guestinfo(omni, both[0], roots)
        )
        self._told: pulumi.Output[str] = pulumi.Output.secret(told)
        self.virtual_machines = {}
        after: pulumi.Input[pulumi.Resource] = reached
        gates: list[pulumi.Output[pulumi.Resource]] = []
        for machine in (*settings.control_planes, *settings.workers):
            after = self._node(machine, after)
            gates.append(after)
        self.joined = pulumi.Output.all(*gates)
        self.register_outputs({"machines": list(self.virtual_machines)})

    def _node(
        self, machine: Machine, after: pulumi.Input[pulumi.Resource]
    ) -> pulumi.Output[pulumi.Resource]:
        """Make a machine, and a gate that opens when Omni has it."""
        machines, rollout, name = self._machines, self._rollout, machine.name
        virtual = machines.virtual_machine(
            machine,
            after,
            self._hooks(machine),
            told={join.GUESTINFO: self._told},
            # Only a restart makes Talos take them up, and Omni restarts no machine for that.
            grows_live=False,
        )
        self.virtual_machines[name] = virtual
        on = awake(machines.vcenter, machines.password, name, virtual.id)
        return Gate(
            f"{name}{JOINED}",
            {
                "machine": virtual.id,
                "address": str(machine.address),
                "cpus": machine.cpus,
                "memoryMiB": machine.memory_mib,
                "networks": [card.network for card in machine.networks],
                "disksGiB": {disks.SYSTEM: machine.disk_gib}
                | {disk.name: disk.size_gib for disk in machine.data_disks},
            },
            after=virtual,
            on_create=in_order(on, rollout.joined(machine, virtual.id, self._joining(virtual.urn))),
            on_update=in_order(on, rollout.back(machine, virtual.id)),
            opts=pulumi.ResourceOptions(parent=self),
        ).opened

    def _joining(self, urn: pulumi.Output[str]) -> Joining:
        """Say with what machines join; `urn` is one machine's."""
        vcenter, names = self._machines.vcenter, self._names

        def looks(known: Sequence[str]) -> Callable[[], Mapping[str, Made]]:
            password, own = known
            stem = own.rpartition("::")[0]

            def look() -> dict[str, Made]:
                found = told(vcenter, password, names, join.GUESTINFO)
                return {
                    name: Made(uuid, f"{stem}::{name}", join.token_in(text))
                    for name, (uuid, text) in found.items()
                }

            return look

        made = pulumi.Output.all(self._machines.password, urn).apply(looks)
        return Joining(self._token, made)

    def _hooks(self, machine: Machine) -> pulumi.ResourceHookBinding:
        """Guard the changes of the virtual machine, and clear its place before it is made."""
        machines, name = self._machines, machine.name
        leftover = no_leftover(
            machines.vcenter,
            machines.password,
            self._rollout.question(),
            machine,
            Owner(machines.urn, machines.provider.urn),
        )
        first = in_order(self._rollout.token_taken(self._token), leftover)
        guard = in_order(disks.stay(name), self._rollout.guard(machine))
        return pulumi.ResourceHookBinding(
            before_create=[pulumi.ResourceHook(f"{name}-leftover", first)],
            before_update=[pulumi.ResourceHook(f"{name}-guard", guard)],
        )
