"""Layer vSphere: the machines, and what they share in vCenter.

Machines are made from one content library item. A machine's static address is seeded through
`guestinfo.metadata`, so no DHCP is needed and no secret of the cluster enters vCenter.

Nothing here is protected: whatever a machine holds is rebuilt from the machine secrets and a
backup, and a whole-cluster destroy (`pulumi destroy --exclude-protected`) must remove all of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi
import pulumi_vsphere as vsphere
from pulumi.resource import DependencyResource

from clients.vcenter import evidence, leftovers
from clients.vcenter.connection import VCenter
from components import resource_failures
from components.gate import Gate
from components.vsphere import apart, disks
from components.vsphere.first_creation import FirstCreation
from components.vsphere.hardware import LINK, LINUX_START_MIB, further_cards
from components.vsphere.leftovers import cleared, no_leftover_item
from components.vsphere.site import Look, roles
from config.resource_types import PLACE

if TYPE_CHECKING:
    from config.settings import Machine, NetworkSettings, Settings, Site, Talos

# As the Talos OVA describes its machine (pkg/imager/ova); a clone must keep them.
GUEST_ID = "other3xLinux64Guest"
OVA_NETWORK = "VM Network"
SCSI = "pvscsi"
NIC = "vmxnet3"

IGNORED = [
    "annotation",
    "clone",
    "extraConfig",
    "hostSystemId",
    "disks[0].label",
    "networkInterfaces[0].ovfMapping",
]
"""Read once, when the machine is made: people and backups write into its annotation, a new image
would replace it, a change of extraConfig reboots it for nothing (Talos has its configuration), and
DRS moves it away from its first host. A machine that was imported has vCenter's own label on its
system disk and no mapping: the provider would make the disk, and the machine, again for them."""


Uuids = Mapping[str, pulumi.Output[str]]
"""Machines' UUIDs in vCenter, by their names."""


@dataclass(frozen=True)
class VSphereInputs:
    """The sections of the settings that the machines in vCenter follow from."""

    cluster: str
    """The cluster's name."""
    site: Site
    machines: tuple[Machine, ...]
    network: NetworkSettings
    talos: Talos
    ova_url: str
    """Where the image factory serves the machines' image."""

    @classmethod
    def of(cls, settings: Settings) -> VSphereInputs:
        """Take them from the settings."""
        return cls(
            cluster=settings.cluster.name,
            site=settings.site,
            machines=settings.machines,
            network=settings.network,
            talos=settings.talos,
            ova_url=settings.ova_url,
        )


class Machines(pulumi.ComponentResource):
    """What the platform's virtual machines share, and how each of them is made."""

    provider: vsphere.Provider
    """The way to vCenter that all of them use."""
    vcenter: VCenter
    """Where they are, for hooks, which ask it themselves."""
    password: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        inputs: VSphereInputs,
        password: pulumi.Output[str],
        image: pulumi.Resource | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Make what the machines share; `image` must exist at the factory before its download."""
        first = FirstCreation(f"{name}-first")
        witness = pulumi.ResourceOptions(hooks=first.hooks)
        own = pulumi.ResourceOptions.merge(opts, witness)
        super().__init__("platform:vsphere:Machines", name, None, own)
        self._inputs = inputs
        self.password = password
        site = inputs.site
        self.vcenter = VCenter.of(site)
        self.provider = vsphere.Provider(
            f"{name}-vcenter",
            vsphere_server=site.vcenter,
            user=site.user,
            password=password,
            allow_unverified_ssl=site.allow_unverified_tls,
            opts=pulumi.ResourceOptions.merge(pulumi.ResourceOptions(parent=self), witness),
        )
        # Of no resource's outputs: what depends on a component depends on all its children.
        witnessed: Awaitable[bool] = first.is_witnessed_by(self, self.provider)
        self._first: pulumi.Output[bool] = pulumi.Output.from_input(witnessed)
        self._on_error = resource_failures.explained(
            "vCenter's answer",
            lambda args, words: resource_failures.of_vsphere(site, inputs.talos, args, words),
        )
        asked_by = pulumi.InvokeOutputOptions(parent=self, provider=self.provider)
        self._found = Look(site, inputs.machines, asked_by).up()
        self._make_image(image)
        self._make_place()
        self._place: pulumi.Input[pulumi.Resource] = self._item

    def _make_image(self, image: pulumi.Resource | None) -> None:
        """Import Talos' OVA once; a new version is a new item, machines keep the one they have."""
        inputs = self._inputs
        # Where it comes from is in its name: an item of the same name is never its predecessor,
        # which the hook would take for a leftover.
        origin = hashlib.sha256(inputs.ova_url.encode()).hexdigest()[:12]
        name = f"talos-{inputs.talos.version}-{origin}"
        library = self._found.existing.library or self._make_library()
        leftover = no_leftover_item(self.vcenter, self.password, library, name)
        self._item = vsphere.ContentLibraryItem(
            "talos",
            name=name,
            description=inputs.ova_url,
            library_id=library,
            type="ovf",
            file_url=inputs.ova_url,
            opts=pulumi.ResourceOptions.merge(
                self._child(*([image] if image else [])),
                pulumi.ResourceOptions(
                    hooks=pulumi.ResourceHookBinding(
                        before_create=[pulumi.ResourceHook("image-cleared", leftover)]
                    ),
                ),
            ),
        )

    def _make_library(self) -> pulumi.Output[str]:
        site = self._inputs.site
        return vsphere.ContentLibrary(
            "images",
            name=site.content_library,
            storage_backings=[self._found.datastores[site.datastore]],
            # Unset, the provider reads it back as false and wants to replace the library.
            publication=vsphere.ContentLibraryPublicationArgs(published=False),
            opts=self._cleared_before("images", leftovers.clear_library, site.content_library),
        ).id

    def _make_place(self) -> None:
        """Make the machines' folder and tags, but those that exist without the stack."""
        site, existing = self._inputs.site, self._found.existing
        self._folder = (
            self._make_folder()
            if existing.folder is None
            # Known from the start, but of use only after it has been found.
            else existing.folder.apply(lambda _: site.folder)
        )
        self._tags = existing.tags or self._make_tags()

    def _make_folder(self) -> pulumi.Output[str]:
        path = self._inputs.site.folder
        return vsphere.Folder(
            "machines",
            path=path,
            type="vm",
            datacenter_id=self._found.datacenter,
            opts=self._cleared_before("folder", leftovers.clear_folder, path),
        ).path

    def _make_tags(self) -> Mapping[str, pulumi.Output[str]]:
        inputs = self._inputs
        name = inputs.site.tag_category or f"{inputs.cluster}-role"
        category = vsphere.TagCategory(
            "role",
            # Known from the start, but needed after vCenter has been found to answer.
            name=self._found.datacenter.apply(lambda _: name),
            cardinality="SINGLE",
            associable_types=["VirtualMachine"],
            description=f"Roles of the machines of cluster {inputs.cluster}",
            opts=self._cleared_before("role", leftovers.clear_category, name),
        )
        return {
            role: vsphere.Tag(
                role,
                name=role,
                category_id=category.id,
                opts=self._cleared_before(
                    f"role-{role}",
                    leftovers.clear_tag,
                    pulumi.Output.concat(category.id, " ", role),
                ),
            ).id
            for role in roles(inputs.machines)
        }

    def _turn(
        self, place: pulumi.Output[pulumi.Resource], after: pulumi.Input[pulumi.Resource]
    ) -> pulumi.Output[list[pulumi.Resource]]:
        """Give what a machine waits for: its place, and `after` unless all are made now."""

        def awaited(first: bool) -> pulumi.Output[list[pulumi.Resource]]:  # noqa: FBT001 an output's
            return pulumi.Output.all(place) if first else pulumi.Output.all(place, after)

        return self._first.apply(awaited)

    def _next_place(self, machine: Machine) -> pulumi.Output[pulumi.Resource]:
        """Give a machine's place in the order in which machines are deleted, the last one first.

        The engine deletes at once what stands equally high over what it needs (ScheduleDeletes in
        pulumi/pkg, resource/deploy/step_generator.go). Machines that were made together do not
        stand on each other, but on places that do.
        """
        place = Gate(
            f"{machine.name}{PLACE}",
            {},
            after=self._place,
            opts=pulumi.ResourceOptions(parent=self),
        )
        # By its URN: the SDK takes a dependency on a component for one on its children.
        self._place = found = place.urn.apply(DependencyResource)
        return found

    def virtual_machine(
        self,
        machine: Machine,
        after: pulumi.Input[pulumi.Resource],
        hooks: pulumi.ResourceHookBinding,
        *,
        told: Mapping[str, pulumi.Input[str]] | None = None,
        grows_live: bool = True,
    ) -> vsphere.VirtualMachine:
        """Make a machine: after `after`, but together with the others when none is there yet.

        `told` is what it reads of its extraConfig beside its network, once. A machine that does not
        grow live is turned off by vCenter's provider for more CPUs and memory.
        """
        found, site = self._found, self._inputs.site
        return vsphere.VirtualMachine(
            machine.name,
            name=machine.name,
            # With the name from the first moment on: what a killed run leaves is known by it.
            annotation=evidence.mark(self.vcenter.path(machine.name)),
            folder=self._folder,
            datastore_id=found.datastores[machine.datastore or site.datastore],
            storage_policy_id=found.policy,
            resource_pool_id=found.pool,
            host_system_id=found.hosts[machine.host] if machine.host else None,
            guest_id=GUEST_ID,
            num_cpus=machine.cpus,
            memory=machine.memory_mib,
            # CPUs are taken up by a reboot of Talos' own (growth.py), not by a loss of power.
            cpu_hot_add_enabled=grows_live,
            # vCenter refuses to take a running Linux machine past this; one that grows past it is
            # turned off for this flag, and gets its memory then.
            memory_hot_add_enabled=grows_live and machine.memory_mib > LINUX_START_MIB,
            scsi_type=SCSI,
            enable_disk_uuid=True,
            disks=[
                vsphere.VirtualMachineDiskArgs(
                    label=label,
                    size=size,
                    unit_number=unit,
                    thin_provisioned=True,
                    storage_policy_id=found.policy,
                )
                for label, size, unit in [
                    (disks.SYSTEM, machine.disk_gib, 0),
                    *((disk.name, disk.size_gib, disk.place) for disk in machine.data_disks),
                ]
            ],
            network_interfaces=[
                vsphere.VirtualMachineNetworkInterfaceArgs(
                    network_id=found.networks[site.network],
                    adapter_type=NIC,
                    ovf_mapping=OVA_NETWORK,
                ),
                # In this order they are the guest's eth1, eth2, ...
                *(
                    vsphere.VirtualMachineNetworkInterfaceArgs(
                        network_id=found.networks[card.network], adapter_type=NIC
                    )
                    for card in machine.networks
                ),
            ],
            clone=vsphere.VirtualMachineCloneArgs(template_uuid=self._item.id),
            extra_config={**guestinfo(self._inputs.network, machine), **(told or {})},
            tags=[self._tags[machine.role]],
            # Talos tells its address only with an agent; its API is asked instead.
            wait_for_guest_net_timeout=0,
            opts=pulumi.ResourceOptions.merge(
                self._child(),
                pulumi.ResourceOptions(
                    depends_on=self._turn(self._next_place(machine), after),
                    # The name and the address are taken until the old machine is gone.
                    delete_before_replace=True,
                    ignore_changes=IGNORED,
                    hooks=hooks,
                ),
            ),
        )

    def keep_apart(self, virtual: Mapping[str, vsphere.VirtualMachine]) -> None:
        """Keep the machines of a role, all by their names, on different hosts. The last step.

        For control planes it is a must, unless the settings say less: two on one host could take
        etcd's quorum with it. A must asks for a host more than control planes: with as many, none
        can go into maintenance, and HA cannot restart a failed one's machine. Workers may share
        when there are more of them than hosts. Without DRS there are no rules.
        """
        site, strictness = self._inputs.site, self._inputs.site.anti_affinity

        def uuids(role: str) -> Uuids:
            machines = self._inputs.machines
            return {one.name: virtual[one.name].id for one in machines if one.role == role}

        control_planes, workers = uuids("controlplane"), uuids("worker")
        if len(control_planes) > 1 and strictness != "none":
            mandatory = strictness == "mandatory"
            rule = self._rule("controlplane", control_planes, mandatory=mandatory)
            self._see_apart(control_planes, rule)
        if len(workers) > 1 and strictness != "none":
            self._rule("worker", workers, mandatory=False)
        self.register_outputs({"folder": site.folder, "contentLibrary": site.content_library})

    def _rule(self, role: str, uuids: Uuids, *, mandatory: bool) -> pulumi.Resource:
        name = f"{self._inputs.cluster}-{role}s-apart"
        return vsphere.ComputeClusterVmAntiAffinityRule(
            f"{role}s-apart",
            name=name,
            compute_cluster_id=self._found.cluster,
            virtual_machine_ids=list(uuids.values()),
            mandatory=mandatory,
            opts=self._cleared_before(
                f"{role}s-apart",
                leftovers.clear_rule,
                pulumi.Output.concat(self._found.cluster, ":", name),
            ),
        )

    def _see_apart(self, uuids: Uuids, rule: pulumi.Resource) -> None:
        """Tell of control planes that run on one host in spite of the rule."""
        hook = apart.kept_apart(self.vcenter, self.password, uuids)
        Gate(
            f"{apart.CONTROL_PLANES}-seen",
            {"machines": uuids},
            after=rule,
            on_create=hook,
            on_update=hook,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _cleared_before(
        self, name: str, clear: leftovers.Clear, place: pulumi.Input[str]
    ) -> pulumi.ResourceOptions:
        """Give a child's options, with the hook that clears its place before it is made."""
        hook = cleared(self.vcenter, self.password, clear, place)
        return pulumi.ResourceOptions.merge(
            self._child(),
            pulumi.ResourceOptions(
                hooks=pulumi.ResourceHookBinding(
                    before_create=[pulumi.ResourceHook(f"{name}-cleared", hook)]
                )
            ),
        )

    def _child(self, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self,
            provider=self.provider,
            depends_on=list(after) or None,
            hooks=pulumi.ResourceHookBinding(on_error=[self._on_error]),
        )


def guestinfo(network: NetworkSettings, machine: Machine) -> dict[str, str]:
    """Give the extraConfig that tells Talos its address before it has a configuration.

    Cloud-init's network format, version 2 (Talos: platform/vmware/metadata.go, which takes the
    interface from the key of `ethernets`).
    """
    metadata = {
        "instance-id": machine.name,
        "local-hostname": machine.name,
        "network": {
            "version": 2,
            "ethernets": {
                LINK: {
                    "match": {"name": LINK},
                    "addresses": [f"{machine.address}/{network.cidr.prefixlen}"],
                    "gateway4": str(network.gateway),
                    "nameservers": {"addresses": [str(server) for server in network.name_servers]},
                },
                # Else Talos would ask for an address by DHCP there, and take a default route.
                **{
                    link: {"match": {"name": link}, "addresses": [str(card.address)]}
                    for link, card in further_cards(machine)
                },
            },
        },
    }
    encoded = base64.b64encode(json.dumps(metadata).encode()).decode()
    return {"guestinfo.metadata": encoded, "guestinfo.metadata.encoding": "base64"}
