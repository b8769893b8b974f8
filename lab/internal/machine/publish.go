package machine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config"
	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	"github.com/siderolabs/talos/pkg/machinery/resources/config"
	etcdresource "github.com/siderolabs/talos/pkg/machinery/resources/etcd"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/k8s"
	networkresource "github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	timeresource "github.com/siderolabs/talos/pkg/machinery/resources/time"
	"github.com/siderolabs/talos/pkg/machinery/resources/v1alpha1"
	"google.golang.org/protobuf/proto"

	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/services"
)

const systemDiskName = "sda"

// publish keeps the machine's COSI resources true: it looks at what is, four times a second.
func (b *boot) publish() {
	b.publishHardware()

	var (
		published talosconfig.Provider
		reported  machineapi.MachineStatusEvent
	)

	for ; !b.IsOver(); b.Sleep(lifetime.Tick) {
		provider := b.Provider()
		if provider != nil && provider != published {
			b.publishConfig(provider)
			published = provider
		}

		b.publishNetwork()
		b.publishServices()

		if provider != nil && provider.CompleteForBoot() {
			b.publishCluster(provider)
			b.publishKubernetes(provider)
		}

		b.publishStatus(&reported)
	}
}

func (b *boot) publishHardware() {
	put(b, hardware.NewSystemInformation(hardware.SystemInformationID), func(r *hardware.SystemInformation) {
		r.TypedSpec().Manufacturer, r.TypedSpec().ProductName, r.TypedSpec().UUID = "VMware, Inc.", "VMware Virtual Platform", b.hardware.ID
	})

	for i, size := range b.hardware.DisksGiB {
		name := "sd" + string(rune('a'+i))
		put(b, block.NewDisk(block.NamespaceName, name), func(r *block.Disk) {
			spec := r.TypedSpec()
			spec.DevPath, spec.Size, spec.PrettySize, spec.Model, spec.Transport = "/dev/"+name, uint64(size)<<30, fmt.Sprintf("%d GiB", size), "Virtual disk", "sas" //nolint:gosec // a size
			spec.IOSize, spec.SectorSize = 512, 512
		})
	}

	put(b, block.NewSystemDisk(block.NamespaceName, block.SystemDiskID), func(r *block.SystemDisk) {
		r.TypedSpec().DiskID, r.TypedSpec().DevPath = systemDiskName, "/dev/"+systemDiskName
	})

	put(b, timeresource.NewStatus(), func(r *timeresource.Status) { r.TypedSpec().Synced = true })
	put(b, runtime.NewVersion(), func(r *runtime.Version) { r.TypedSpec().Version = b.talosVersion() })
	put(b, runtime.NewSecurityStateSpec(runtime.NamespaceName), func(*runtime.SecurityState) {})

	if schematic := b.hardware.Image.Schematic; schematic != "" {
		put(b, runtime.NewExtensionStatus(runtime.NamespaceName, "schematic"), func(r *runtime.ExtensionStatus) {
			r.TypedSpec().Metadata.Name, r.TypedSpec().Metadata.Version = "schematic", schematic
		})
	}

	put(b, runtime.NewPlatformMetadataSpec(runtime.NamespaceName, runtime.PlatformMetadataID), func(r *runtime.PlatformMetadata) {
		r.TypedSpec().Platform = "vmware"
		if b.network.Platform != nil {
			r.TypedSpec().Hostname, r.TypedSpec().InstanceID = b.network.Platform.Hostname, b.network.Platform.InstanceID
		}
	})
}

// publishConfig shows the configuration, its machine type and the volumes that it gives.
func (b *boot) publishConfig(provider talosconfig.Provider) {
	wanted := config.NewMachineConfig(provider)

	if old, err := b.resources.Get(b.Context(), wanted.Metadata()); err == nil {
		wanted.Metadata().SetVersion(old.Metadata().Version())
		b.LogError("machine configuration", b.resources.Update(b.Context(), wanted))
	} else {
		b.LogError("machine configuration", b.resources.Create(b.Context(), wanted))
	}

	if !provider.CompleteForBoot() {
		return
	}

	put(b, config.NewMachineType(), func(r *config.MachineType) { r.SetMachineType(provider.Machine().Type()) })

	for partition, volume := range b.volumes() {
		put(b, block.NewVolumeStatus(block.NamespaceName, volume.name), func(r *block.VolumeStatus) {
			spec := r.TypedSpec()
			spec.Phase, spec.Type = block.VolumePhaseReady, block.VolumeTypePartition
			spec.ParentLocation, spec.Location = "/dev/"+systemDiskName, fmt.Sprintf("/dev/%s%d", systemDiskName, partition+4)
			spec.PartitionIndex = partition + 4
			spec.SetSize(volume.size)
		})
	}

	put(b, k8s.NewBootstrapManifestsConfig(), func(r *k8s.BootstrapManifestsConfig) {
		if cni := provider.Cluster().Network().CNI(); cni != nil {
			r.TypedSpec().CNIName = cni.Name()
		}
	})
}

// volume is a partition of the system disk; its size is in bytes.
type volume struct {
	name string
	size uint64
}

// volumes are the partitions that Talos makes: META, STATE, and EPHEMERAL with what is left.
func (b *boot) volumes() []volume {
	const mebibyte, stateSize, bootSize = 1 << 20, 100 << 20, 2 << 30

	var disk uint64
	if len(b.hardware.DisksGiB) > 0 {
		disk = uint64(b.hardware.DisksGiB[0]) << 30 //nolint:gosec // a size
	}

	return []volume{{"META", mebibyte}, {"STATE", stateSize}, {"EPHEMERAL", max(disk, bootSize) - bootSize}}
}

func (b *boot) publishNetwork() {
	addresses, err := b.network.Addresses()
	if err != nil {
		b.LogError("addresses", err)

		return
	}

	wanted := map[resource.ID]bool{}

	for _, address := range addresses {
		id := networkresource.AddressID("eth0", address)
		wanted[id] = true

		put(b, networkresource.NewAddressStatus(networkresource.NamespaceName, id), func(r *networkresource.AddressStatus) {
			r.TypedSpec().Address, r.TypedSpec().LinkName = address, "eth0"
			r.TypedSpec().Family, r.TypedSpec().Scope = nethelpers.FamilyInet4, nethelpers.ScopeGlobal
		})
	}

	keepOnly[*networkresource.AddressStatus](b, networkresource.NewAddressStatus(networkresource.NamespaceName, "").Metadata(), wanted)

	for _, id := range []resource.ID{networkresource.NodeAddressCurrentID, networkresource.NodeAddressRoutedID} {
		put(b, networkresource.NewNodeAddress(networkresource.NamespaceName, id), func(r *networkresource.NodeAddress) { r.TypedSpec().Addresses = addresses })
	}

	if len(addresses) > 0 {
		put(b, networkresource.NewNodeAddress(networkresource.NamespaceName, networkresource.NodeAddressDefaultID), func(r *networkresource.NodeAddress) {
			r.TypedSpec().Addresses = addresses[:1]
		})
	}

	host := b.network.Hostname()
	put(b, networkresource.NewHostnameStatus(networkresource.NamespaceName, networkresource.HostnameID), func(r *networkresource.HostnameStatus) {
		r.TypedSpec().Hostname, r.TypedSpec().Domainname, _ = strings.Cut(host, ".")
	})
	put(b, networkresource.NewStatus(networkresource.NamespaceName, networkresource.StatusID), func(r *networkresource.Status) {
		r.TypedSpec().AddressReady, r.TypedSpec().ConnectivityReady = len(addresses) > 0, len(addresses) > 0
		r.TypedSpec().HostnameReady, r.TypedSpec().EtcFilesReady = host != "", true
	})

	if b.network.Platform != nil {
		put(b, networkresource.NewResolverStatus(networkresource.NamespaceName, networkresource.ResolverID), func(r *networkresource.ResolverStatus) {
			r.TypedSpec().DNSServers = b.network.Resolvers()
		})
	}
}

func (b *boot) publishServices() {
	wanted := map[resource.ID]bool{}

	for _, entry := range b.services.Snapshot() {
		// As in Talos: only a running service has a resource.
		if entry.State != services.StateRunning {
			continue
		}

		wanted[entry.ID] = true

		put(b, v1alpha1.NewService(entry.ID), func(r *v1alpha1.Service) {
			r.TypedSpec().Running, r.TypedSpec().Healthy, r.TypedSpec().Unknown = true, entry.Checked && entry.Healthy, !entry.Checked
		})
	}

	keepOnly[*v1alpha1.Service](b, v1alpha1.NewService("").Metadata(), wanted)
}

// publishCluster shows the machines that discovery knows, and this machine's etcd member.
func (b *boot) publishCluster(provider talosconfig.Provider) {
	put(b, cluster.NewIdentity(cluster.NamespaceName, cluster.LocalIdentity), func(r *cluster.Identity) { r.TypedSpec().NodeID = b.hardware.ID })

	wanted := map[resource.ID]bool{}

	for _, member := range b.machine.fleet.discovery.Members(provider.Cluster().ID()) {
		wanted[member.Hostname] = true

		put(b, cluster.NewMember(cluster.NamespaceName, member.Hostname), func(r *cluster.Member) {
			*r.TypedSpec() = cluster.MemberSpec{
				NodeID: member.NodeID, Hostname: member.Hostname, Addresses: member.Addresses,
				MachineType: member.MachineType, OperatingSystem: member.OperatingSystem,
			}
		})
	}

	keepOnly[*cluster.Member](b, cluster.NewMember(cluster.NamespaceName, "").Metadata(), wanted)

	b.publishEtcdMember()
}

func (b *boot) publishEtcdMember() {
	member := etcdresource.NewMember(etcdresource.NamespaceName, etcdresource.LocalMemberID)
	_, err := b.resources.Get(b.Context(), member.Metadata())

	switch {
	case !b.services.IsUp("etcd"):
		if err == nil {
			b.LogError("etcd member", b.resources.Destroy(b.Context(), member.Metadata()))
		}
	case err != nil:
		if id, err := b.etcd.MemberID(b.Context()); err == nil {
			put(b, member, func(r *etcdresource.Member) { r.TypedSpec().MemberID = etcdresource.FormatMemberID(id) })
		}
	}
}

func (b *boot) affiliate() discovery.Member {
	kind := machinetype.TypeUnknown
	if provider := b.Provider(); provider != nil {
		kind = provider.Machine().Type()
	}

	return discovery.Member{
		NodeID: b.hardware.ID, Hostname: b.network.Hostname(), Addresses: b.network.NodeAddresses(), MachineType: kind,
		OperatingSystem: fmt.Sprintf("Talos (%s)", b.talosVersion()),
	}
}

func (b *boot) publishKubernetes(provider talosconfig.Provider) {
	put(b, k8s.NewNodename(k8s.NamespaceName, k8s.NodenameID), func(r *k8s.Nodename) {
		r.TypedSpec().Nodename = b.network.Hostname()
		r.TypedSpec().SkipNodeRegistration = provider.Machine().Kubelet().SkipNodeRegistration()
	})

	if address := b.network.NodeIP(provider); address.IsValid() {
		put(b, k8s.NewNodeIP(k8s.NamespaceName, k8s.KubeletID), func(r *k8s.NodeIP) { r.TypedSpec().Addresses = []netip.Addr{address} })
	}

	if object := b.node.Object(); object != nil {
		put(b, k8s.NewNodeStatus(k8s.NamespaceName, object.Name), func(r *k8s.NodeStatus) {
			*r.TypedSpec() = k8s.NodeStatusSpec{
				Nodename: object.Name, NodeReady: b.node.IsReady() == nil, Unschedulable: object.Spec.Unschedulable,
				Labels: object.Labels, Annotations: object.Annotations,
			}
		})
	}

	wanted := map[resource.ID]bool{}

	for _, pod := range b.plane.Snapshot() {
		id := "kube-system/" + pod.Name + "-" + b.network.Hostname()
		wanted[id] = true

		put(b, k8s.NewStaticPodStatus(k8s.NamespaceName, id), func(r *k8s.StaticPodStatus) { r.TypedSpec().PodStatus = pod.Summary() })
	}

	keepOnly[*k8s.StaticPodStatus](b, k8s.NewStaticPodStatus(k8s.NamespaceName, "").Metadata(), wanted)
}

// publishStatus is MachineStatus: the stage, and what it still waits for. A change is an event, too.
func (b *boot) publishStatus(reported *machineapi.MachineStatusEvent) {
	stage := b.currentStage()

	var unmet []runtime.UnmetCondition

	if stage == runtime.MachineStageBooting || stage == runtime.MachineStageRunning {
		unmet = b.unmetConditions()
	}

	put(b, runtime.NewMachineStatus(), func(r *runtime.MachineStatus) {
		r.TypedSpec().Stage = stage
		r.TypedSpec().Status.Ready, r.TypedSpec().Status.UnmetConditions = len(unmet) == 0, unmet
	})

	event := machineapi.MachineStatusEvent{
		Stage:  machineapi.MachineStatusEvent_MachineStage(stage),
		Status: &machineapi.MachineStatusEvent_MachineStatus{Ready: len(unmet) == 0},
	}
	for _, condition := range unmet {
		event.Status.UnmetConditions = append(event.Status.UnmetConditions,
			&machineapi.MachineStatusEvent_MachineStatus_UnmetCondition{Name: condition.Name, Reason: condition.Reason})
	}

	if !proto.Equal(&event, reported) {
		b.events.Publish(&event)
		proto.Reset(reported)
		proto.Merge(reported, &event)
	}
}

// unmetConditions are Talos' readiness checks (controllers/runtime/machine_status.go), in their order and words.
func (b *boot) unmetConditions() []runtime.UnmetCondition {
	var unmet []runtime.UnmetCondition

	add := func(name string, problems ...string) {
		if len(problems) > 0 {
			unmet = append(unmet, runtime.UnmetCondition{Name: name, Reason: strings.Join(problems, ", ")})
		}
	}

	if !b.network.Address().IsValid() {
		add("network", "waiting on: address")
	}

	add("services", b.serviceProblems()...)

	var pods []string

	for _, pod := range b.plane.Snapshot() {
		if pod.Problem != nil {
			pods = append(pods, fmt.Sprintf("kube-system/%s-%s not ready", pod.Name, b.network.Hostname()))
		}
	}

	add("staticPods", pods...)

	if provider := b.Provider(); provider != nil && provider.Machine() != nil && !provider.Machine().Kubelet().SkipNodeRegistration() {
		if err := b.node.IsReady(); err != nil {
			add("nodeReady", err.Error())
		}
	}

	return unmet
}

func (b *boot) serviceProblems() []string {
	var (
		problems []string
		running  []string
	)

	for _, entry := range b.services.Snapshot() {
		if entry.State != services.StateRunning {
			continue
		}

		running = append(running, entry.ID)

		if entry.Checked && !entry.Healthy {
			problems = append(problems, entry.ID+" not healthy")
		}
	}

	for _, id := range b.services.Required() {
		if !slices.Contains(running, id) {
			problems = append(problems, id+" not running")
		}
	}

	return problems
}
