"""Layer Talos: one machine of the cluster: virtual machine, release, configuration, health."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi
import pulumiverse_talos as talos

from components.gate import Gate, in_order
from components.hooks import Hook
from components.talos import redaction
from components.talos.configuration import patches, registry_login
from components.talos.etcd import Member
from components.talos.provider import camel_case, typed
from components.talos.upgrade import Release, Target
from components.vsphere import disks
from components.vsphere.leftovers import Owner, asks_talos, awake, no_leftover
from config.problems import Problem
from config.resource_types import HEALTHY, UPGRADED

if TYPE_CHECKING:
    import pulumi_vsphere as vsphere

    from components.failures import Questions
    from components.talos.identity import Identity
    from components.talos.inputs import TalosInputs
    from components.talos.rollout import Rollout
    from components.vsphere.machines import Machines
    from config.settings import Machine


@dataclass(frozen=True)
class Shared:
    """What the machines of one cluster have in common."""

    inputs: TalosInputs
    root: Path
    """The repository, with the operator's patches."""
    parent: pulumi.Resource
    """The component that their configurations and gates are children of."""
    machines: Machines
    identity: Identity
    provider: talos.Provider
    registry_password: pulumi.Output[str] | None
    rollout: Rollout
    questions: Questions
    on_error: pulumi.ErrorHook


class Node:
    """A machine: its virtual machine, its configuration, and a gate that opens on its health."""

    virtual: vsphere.VirtualMachine
    healthy: pulumi.Output[pulumi.Resource]
    """Known once the machine is healthy: nobody touches the next one before."""

    def __init__(
        self,
        shared: Shared,
        machine: Machine,
        after: pulumi.Input[pulumi.Resource],
        *,
        bootstraps: bool,
    ) -> None:
        """Let it join after `after`, and change after it; one node of a cluster `bootstraps` it."""
        self._shared = shared
        self._machine = machine
        # For what comes after the virtual machine, too: at the first creation only that comes.
        self._turn = after
        self._member = as_member(machine)
        self.virtual = shared.machines.virtual_machine(machine, after, self._machine_hooks())
        configuration = shared.questions.ask(self._generate, self._refused)
        applied = self._apply(configuration, self._upgrade(configuration))
        if bootstraps:
            applied = self._bootstrap(applied)
        self.healthy = self._wait_healthy(configuration, applied)

    def _machine_hooks(self) -> pulumi.ResourceHookBinding:
        """Guard the changes of the virtual machine, and clear its place before it is made."""
        shared, name = self._shared, self._machine.name
        leftover = no_leftover(
            shared.machines.vcenter,
            shared.machines.password,
            asks_talos(shared.identity.talosconfig, self._machine),
            self._machine,
            Owner(shared.machines.urn, shared.machines.provider.urn),
        )
        guard = in_order(disks.stay(name), shared.rollout.guard(self._member))
        return pulumi.ResourceHookBinding(
            before_create=[
                pulumi.ResourceHook(
                    f"{name}-leftover", in_order(leftover, shared.rollout.made(self._member))
                )
            ],
            before_update=[pulumi.ResourceHook(f"{name}-guard", guard)],
        )

    def _awake(self) -> Hook:
        """Switch the machine on, if it is off: a killed destroy leaves it so."""
        machines = self._shared.machines
        return awake(machines.vcenter, machines.password, self._machine.name, self.virtual.id)

    def _refused(self, words: str) -> Problem:
        return Problem(
            f"platform:machines, {self._machine.name}",
            "Talos refuses the configuration that is made for it",
            "correct its settings, or its patches in "
            f"{self._shared.inputs.talos.patches} ({words})",
        )

    def _generate(self) -> pulumi.Output[str]:
        """Give the machine's whole configuration; a secret."""
        shared, inputs = self._shared, self._shared.inputs
        generated = talos.machine.get_configuration_output(
            cluster_name=inputs.cluster.name,
            cluster_endpoint=inputs.endpoint,
            machine_type=self._machine.role,
            machine_secrets=camel_case(shared.identity.secrets.machine_secrets),
            # Set always: the provider's defaults move with each of its releases. Not Talos' own
            # version, whose defaults would change every machine with an upgrade.
            talos_version=inputs.talos.contract_tag,
            kubernetes_version=inputs.kubernetes.version,
            config_patches=self._patches(),
            docs=False,
            examples=False,
            opts=pulumi.InvokeOutputOptions(parent=shared.parent, provider=shared.provider),
        )
        # Named, since the SDK forgets what the call depends on as long as the keys are unknown: a
        # plan of new keys would be refused for the dependency that the deployment then adds.
        keys = shared.identity.secrets.machine_secrets
        both = pulumi.Output.all(generated.machine_configuration, keys)
        return pulumi.Output.secret(both.apply(lambda made: made[0]))

    def _patches(self) -> Sequence[str] | pulumi.Output[Sequence[str]]:
        """List the patches; with that of a registry's login all of them are a secret."""
        shared, inputs = self._shared, self._shared.inputs
        public = patches(inputs, self._machine, shared.root)
        if shared.registry_password is None:
            return public
        return shared.registry_password.apply(
            lambda password: [*public, *registry_login(inputs, password)]
        )

    def _upgrade(self, configuration: pulumi.Output[str]) -> pulumi.Output[pulumi.Resource]:
        """Bring the machine to the release of Talos that the settings name.

        A machine that runs is upgraded, never made again: its image is that of new ones only.
        """
        shared, inputs, name = self._shared, self._shared.inputs, self._machine.name
        release = Release(inputs.talos.tag, inputs.talos.schematic_id)
        target = Target(release, inputs.installer_image, inputs.talos.drain_seconds)
        hook = in_order(self._awake(), shared.rollout.upgrade(self._member, configuration, target))
        return Gate(
            f"{name}{UPGRADED}",
            {"version": release.version, "image": target.image},
            after=self.virtual,
            on_create=hook,
            on_update=hook,
            opts=pulumi.ResourceOptions(parent=shared.parent, depends_on=[self._turn]),
        ).opened

    def _apply(
        self, configuration: pulumi.Output[str], after: pulumi.Input[pulumi.Resource]
    ) -> pulumi.Input[pulumi.Resource]:
        """Send the configuration to the machine, which reboots when the change needs it."""
        shared, name = self._shared, self._machine.name
        hook = shared.rollout.before_configuration(self._member, configuration)
        first = in_order(
            shared.rollout.first_configuration(self._member, configuration), self._awake()
        )
        return talos.machine.ConfigurationApply(
            name,
            node=self._member.address,
            endpoint=self._member.address,
            client_configuration=typed(shared.identity.secrets.client_configuration),
            machine_configuration_input=configuration,
            opts=pulumi.ResourceOptions(
                parent=shared.parent,
                provider=shared.provider,
                depends_on=[self.virtual, after, self._turn],
                # A machine rebuilt on the same address has no configuration.
                replacement_trigger=self.virtual.id,
                hooks=pulumi.ResourceHookBinding(
                    before_create=[pulumi.ResourceHook(f"{name}-unconfigured", first)],
                    before_update=[pulumi.ResourceHook(f"{name}-configuration", hook)],
                    on_error=[shared.on_error],
                ),
            ),
        )

    def _bootstrap(self, applied: pulumi.Input[pulumi.Resource]) -> pulumi.Output[pulumi.Resource]:
        """Start etcd, once in the cluster's life: its inputs never change.

        A rebuilt first machine joins the others. When all etcd data is lost, the operator decides
        whether to restore a backup; an empty etcd in its place would look like success.
        """
        shared = self._shared
        return Gate(
            "etcd",
            {"cluster": shared.inputs.cluster.name},
            after=applied,
            on_create=in_order(self._awake(), shared.rollout.bootstrap(self._member)),
            opts=pulumi.ResourceOptions(parent=shared.parent),
        ).opened

    def _wait_healthy(
        self, configuration: pulumi.Output[str], applied: pulumi.Input[pulumi.Resource]
    ) -> pulumi.Output[pulumi.Resource]:
        """Let nobody touch the next machine before this one is healthy."""
        shared, machine, on = self._shared, self._machine, self._awake()
        seen = {
            "machine": self.virtual.id,
            "cpus": machine.cpus,
            "memoryMiB": machine.memory_mib,
            "disksGiB": {disks.SYSTEM: machine.disk_gib}
            | {disk.name: disk.size_gib for disk in machine.data_disks},
            # Full of random keys: its digest tells nothing about them.
            "configuration": pulumi.Output.unsecret(configuration.apply(digest)),
            # What a preview shows of it.
            "fields": pulumi.Output.unsecret(
                pulumi.Output.all(configuration, shared.identity.secrets.machine_secrets).apply(
                    lambda both: redaction.fields(both[0], both[1])
                )
            ),
        }
        return Gate(
            f"{machine.name}{HEALTHY}",
            seen,
            after=applied,
            on_create=in_order(on, shared.rollout.first_health(self._member)),
            on_update=in_order(on, shared.rollout.health_again(self._member)),
            opts=pulumi.ResourceOptions(parent=shared.parent),
        ).opened


def as_member(machine: Machine) -> Member:
    """Give what the Talos layer needs to know of a machine."""
    return Member(
        machine.name,
        str(machine.address),
        control_plane=machine.is_control_plane,
        volumes=tuple(disk.name for disk in machine.volumes),
    )


def digest(text: str) -> str:
    """Shorten a text to its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
