"""Layer Talos: the cluster's identity, its machines one after the other, and its Kubernetes API.

The chain: machine 1, its configuration, its health, machine 2, ... so that at most one machine is
ever touched, at the first installation as at every change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_kubernetes as kubernetes
import pulumiverse_talos as talos

from clients.vcenter.connection import VCenter
from components import resource_failures
from components.failures import Questions
from components.gate import Gate, in_order
from components.hooks import Hook
from components.talos import redaction
from components.talos.api_ready import api_answers
from components.talos.configuration import patches
from components.talos.expiry import ends, told_ends
from components.talos.health import Member
from components.talos.rollout import Rollout
from components.vsphere import disks
from components.vsphere.leftovers import Owner, awake, no_leftover
from config.problems import Problem

if TYPE_CHECKING:
    import pulumi_vsphere as vsphere

    from components.vsphere.machines import Machines
    from config.settings import Machine, Settings


class Image(pulumi.ComponentResource):
    """The schematic of the machines' image, known to the image factory."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        provider: talos.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Register the schematic; one whose id the settings name is registered already."""
        super().__init__("platform:talos:Image", name, None, opts)
        self.schematic: talos.imagefactory.Schematic | None = None
        if settings.talos.schematic_document is not None:
            self.schematic = talos.imagefactory.Schematic(
                name,
                schematic=settings.talos.schematic_document,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    provider=provider,
                    hooks=pulumi.ResourceHookBinding(
                        on_error=[
                            resource_failures.explained(
                                "the image factory's answer",
                                lambda _, words: resource_failures.of_factory(settings, words),
                            )
                        ]
                    ),
                ),
            )
        self.register_outputs({})


class Identity(pulumi.ComponentResource):
    """The cluster's keys. They outlive the machines, so that old backups still fit."""

    talosconfig: pulumi.Output[str]
    """The operator's access to the Talos API; a secret."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        provider: talos.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make the keys once."""
        super().__init__("platform:talos:Identity", name, None, opts)
        self.secrets = talos.machine.Secrets(
            name,
            talos_version=settings.talos.contract_tag,
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                # Lost keys lock everybody out, and make every backup of etcd worthless.
                protect=True,
                # A lower version would replace all keys.
                ignore_changes=["talosVersion"],
            ),
        )
        credentials = Questions().ask(
            lambda: talos.client.get_configuration_output(
                cluster_name=settings.cluster.name,
                client_configuration=camel_case(self.secrets.client_configuration),
                endpoints=[str(one.address) for one in settings.control_planes],
                nodes=[str(one.address) for one in settings.machines],
                opts=pulumi.InvokeOutputOptions(parent=self, provider=provider),
            ),
            lambda words: Problem(
                "platform:machines",
                "Talos' provider makes no access to them",
                f"check their addresses, and whether its plugin is whole ({words})",
            ),
        )
        self.talosconfig = pulumi.Output.secret(credentials.talos_config)
        self.register_outputs({})


class Nodes(pulumi.ComponentResource):
    """Machines that are configured, have joined the cluster and are healthy."""

    joined: pulumi.Output[pulumi.Resource]
    """Known once the last machine is healthy."""

    def __init__(  # noqa: PLR0913 the chain joins all lower layers
        self,
        name: str,
        settings: Settings,
        *,
        machines: Machines,
        identity: Identity,
        provider: talos.Provider,
        vsphere_password: pulumi.Output[str],
        root: Path,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Build the chain; control planes come first, workers join what they make."""
        super().__init__("platform:talos:Nodes", name, None, opts)
        self._settings = settings
        self._identity = identity
        self._provider = provider
        self._password = vsphere_password
        self._owner = Owner(machines.urn, machines.provider.urn)
        self._root = root
        everyone = settings.control_planes + settings.workers
        self._rollout = Rollout([as_member(one) for one in everyone], identity.talosconfig)
        self._questions = Questions()
        self._on_error = talos_errors("Talos' answer", settings)

        after: pulumi.Input[pulumi.Resource] = identity.secrets
        for machine in everyone:
            virtual = machines.add(machine, after, self._machine_hooks(machine))
            configuration = self._configuration(machine)
            applied = self._apply(machine, virtual, configuration)
            if machine == everyone[0]:
                applied = self._bootstrap(machine, virtual, applied)
            after = self._wait_healthy(machine, virtual, configuration, applied)
        machines.finish()

        members = {one.name: str(one.address) for one in settings.control_planes}
        self.joined = Gate(
            "etcd-members",
            {"controlPlanes": members},
            after=after,
            on_update=self._rollout.retire(),
            opts=pulumi.ResourceOptions(parent=self),
        ).opened
        self.register_outputs({})

    def _machine_hooks(self, machine: Machine) -> pulumi.ResourceHookBinding:
        """Guard the changes of a virtual machine, and clear its place before it is made."""
        vcenter = VCenter.of(self._settings.site)
        member = as_member(machine)
        leftover = no_leftover(
            vcenter, self._password, self._identity.talosconfig, machine, self._owner
        )
        guard = in_order(disks.stay(machine.name), self._rollout.guard(member))
        return pulumi.ResourceHookBinding(
            before_create=[pulumi.ResourceHook(f"{machine.name}-leftover", leftover)],
            before_update=[pulumi.ResourceHook(f"{machine.name}-guard", guard)],
        )

    def _awake(self, machine: Machine, virtual: vsphere.VirtualMachine) -> Hook:
        """Switch the machine on, if it is off: a killed destroy leaves it so."""
        return awake(VCenter.of(self._settings.site), self._password, machine.name, virtual.id)

    def _configuration(self, machine: Machine) -> pulumi.Output[str]:
        """Give the machine's whole configuration; a secret."""

        def refused(words: str) -> Problem:
            return Problem(
                f"platform:machines, {machine.name}",
                "Talos takes no configuration that is made like this",
                f"correct its settings, or its patches in {self._settings.talos.patches} ({words})",
            )

        return self._questions.ask(lambda: self._generate(machine), refused)

    def _generate(self, machine: Machine) -> pulumi.Output[str]:
        settings = self._settings
        generated = talos.machine.get_configuration_output(
            cluster_name=settings.cluster.name,
            cluster_endpoint=settings.endpoint,
            machine_type=machine.role,
            machine_secrets=camel_case(self._identity.secrets.machine_secrets),
            # Set always: the provider's defaults move with each of its releases. Not Talos' own
            # version, whose defaults would change every machine with an upgrade.
            talos_version=settings.talos.contract_tag,
            kubernetes_version=settings.kubernetes.version,
            config_patches=patches(settings, machine, self._root),
            docs=False,
            examples=False,
            opts=pulumi.InvokeOutputOptions(parent=self, provider=self._provider),
        )
        # Named, since the SDK forgets what the call depends on as long as the keys are unknown: a
        # plan of new keys would be refused for the dependency that the deployment then adds.
        keys = self._identity.secrets.machine_secrets
        both = pulumi.Output.all(generated.machine_configuration, keys)
        return pulumi.Output.secret(both.apply(lambda made: made[0]))

    def _apply(
        self,
        machine: Machine,
        virtual: vsphere.VirtualMachine,
        configuration: pulumi.Output[str],
    ) -> pulumi.Input[pulumi.Resource]:
        """Send the configuration to the machine, which reboots when the change needs it."""
        address, member = str(machine.address), as_member(machine)
        hook = self._rollout.before_configuration(member, configuration)
        first = in_order(
            self._rollout.first_configuration(member, configuration), self._awake(machine, virtual)
        )
        return talos.machine.ConfigurationApply(
            machine.name,
            node=address,
            endpoint=address,
            client_configuration=typed(self._identity.secrets.client_configuration),
            machine_configuration_input=configuration,
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=self._provider,
                depends_on=[virtual],
                # A machine rebuilt on the same address has no configuration.
                replacement_trigger=virtual.id,
                hooks=pulumi.ResourceHookBinding(
                    before_create=[pulumi.ResourceHook(f"{machine.name}-first", first)],
                    before_update=[pulumi.ResourceHook(f"{machine.name}-configuration", hook)],
                    on_error=[self._on_error],
                ),
            ),
        )

    def _bootstrap(
        self,
        machine: Machine,
        virtual: vsphere.VirtualMachine,
        applied: pulumi.Input[pulumi.Resource],
    ) -> pulumi.Output[pulumi.Resource]:
        """Start etcd, once in the cluster's life: its inputs never change.

        A rebuilt first machine joins the others. When all etcd data is lost, the operator decides
        whether to restore a backup; an empty etcd in its place would look like success.
        """
        return Gate(
            "etcd",
            {"cluster": self._settings.cluster.name},
            after=applied,
            on_create=in_order(
                self._awake(machine, virtual), self._rollout.bootstrap(as_member(machine))
            ),
            opts=pulumi.ResourceOptions(parent=self),
        ).opened

    def _wait_healthy(
        self,
        machine: Machine,
        virtual: vsphere.VirtualMachine,
        configuration: pulumi.Output[str],
        applied: pulumi.Input[pulumi.Resource],
    ) -> pulumi.Output[pulumi.Resource]:
        """Let nobody touch the next machine before this one is healthy."""
        member, on = as_member(machine), self._awake(machine, virtual)
        seen = {
            "machine": virtual.id,
            "cpus": machine.cpus,
            "memoryMiB": machine.memory_mib,
            "disksGiB": {disks.SYSTEM: machine.disk_gib}
            | {disk.name: disk.size_gib for disk in machine.data_disks},
            # Full of random keys: its digest tells nothing about them.
            "configuration": pulumi.Output.unsecret(configuration.apply(digest)),
            # What a preview shows of it.
            "fields": pulumi.Output.unsecret(
                pulumi.Output.all(configuration, self._identity.secrets.machine_secrets).apply(
                    lambda both: redaction.fields(both[0], both[1])
                )
            ),
        }
        return Gate(
            f"{machine.name}-healthy",
            seen,
            after=applied,
            on_create=in_order(on, self._rollout.first_health(member)),
            on_update=in_order(on, self._rollout.health_again(member)),
            opts=pulumi.ResourceOptions(parent=self),
        ).opened


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
        settings: Settings,
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
        address = str(settings.control_planes[0].address)
        credentials = talos.cluster.Kubeconfig(
            name,
            node=address,
            endpoint=address,
            client_configuration=typed(identity.secrets.client_configuration),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                depends_on=[nodes.joined],
                hooks=pulumi.ResourceHookBinding(
                    on_error=[talos_errors("Talos' answer about the kubeconfig", settings)]
                ),
            ),
        )
        self.kubeconfig = pulumi.Output.secret(credentials.kubeconfig_raw)
        self.expires = pulumi.Output.unsecret(
            pulumi.Output.all(
                talosconfig=identity.secrets.client_configuration.client_certificate,
                kubeconfig=credentials.kubernetes_client_configuration.client_certificate,
            ).apply(lambda certificates: ends(certificates) | told_ends(settings))
        )
        gate = Gate(
            "kubernetes-api",
            {
                "endpoint": settings.endpoint,
                "version": settings.kubernetes.version,
                # One that leaves etcd cannot hand the VIP over: its session has to expire first.
                "controlPlanes": [str(one.address) for one in settings.control_planes],
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
            cluster_identifier=settings.cluster.name,
            enable_server_side_apply=True,
            # A run that is killed leaves objects that the state does not know, under the name of
            # a field manager that nobody knows any more.
            upsert_existing_objects=True,
            enable_patch_force=True,
            # Changed in place: a Secret that is made anew is away meanwhile.
            enable_secret_mutable=True,
            enable_config_map_mutable=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[gate.opened]),
        )
        self.register_outputs({})


def talos_errors(name: str, settings: Settings) -> pulumi.ErrorHook:
    """Make the hook that explains what a machine, named as its resource, answers."""
    return resource_failures.explained(
        name, lambda args, words: resource_failures.of_talos(settings, args.name, words)
    )


def as_member(machine: Machine) -> Member:
    """Give what the Talos layer needs to know of a machine."""
    return Member(
        machine.name,
        str(machine.address),
        control_plane=machine.is_control_plane,
    )


def digest(text: str) -> str:
    """Shorten a text to its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def typed(value: pulumi.Output[Any]) -> Any:  # noqa: ANN401 the SDK's input and output types differ
    """Pass a resource's output to another one's input of the same shape."""
    return value


def camel_case(value: pulumi.Output[Any]) -> Any:  # noqa: ANN401 as in `typed`
    """Pass a resource's output to a function of the Talos provider.

    The SDK (0.8.1) sends a function's nested arguments with the keys of its output types, which
    are in snake_case; the provider then misses required ones.
    """
    return value.apply(_camel_case)


def _camel_case(value: Any) -> Any:  # noqa: ANN401 any nesting of mappings
    if isinstance(value, Mapping):
        return {_camel_key(key): _camel_case(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_camel_case(one) for one in value]
    return value


def _camel_key(key: str) -> str:
    head, *tail = key.split("_")
    return head + "".join(part.capitalize() for part in tail)
