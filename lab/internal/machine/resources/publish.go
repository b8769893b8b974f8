package resources

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config"
	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	"github.com/siderolabs/talos/pkg/machinery/resources/config"
	etcdresource "github.com/siderolabs/talos/pkg/machinery/resources/etcd"
	"github.com/siderolabs/talos/pkg/machinery/resources/k8s"
	networkresource "github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	timeresource "github.com/siderolabs/talos/pkg/machinery/resources/time"
	"github.com/siderolabs/talos/pkg/machinery/resources/v1alpha1"
	"google.golang.org/protobuf/proto"

	"platform.lab/lab/internal/machine/blockdevices"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/events"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kubelet"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/meta"
	"platform.lab/lab/internal/machine/services"
	"platform.lab/lab/internal/siderolink"
)

// Machine is what the resources are made of.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Hardware hardware.VM
	// Devices are the disks that the kernel has found, UserVolumes what Talos makes on them beside its own partitions.
	Devices      *blockdevices.Devices
	UserVolumes  *blockdevices.Volumes
	Network      *guestnetwork.Network
	Discovery    *discovery.Service
	Events       *events.Stream
	Services     *services.Services
	Etcd         *etcd.Service
	ControlPlane *controlplane.Plane
	Kubelet      *kubelet.Kubelet
	TalosVersion func() string
	// Schematic is that of the image that runs.
	Schematic func() string
	Stage     func() runtime.MachineStage
	Meta      *meta.Partition
	Link      *siderolink.Link
	// SystemUUID and UniqueToken are what a server tells the machine by.
	SystemUUID, UniqueToken func() string
}

// Publisher keeps a machine's resources.
type Publisher struct {
	Machine

	State state.State
}

// Run keeps the machine's COSI resources true: whenever something of the machine changes, it looks at what is.
func (p *Publisher) Run() {
	p.publishHardware()

	var (
		published talosconfig.Provider
		reported  machineapi.MachineStatusEvent
	)

	for ; !p.IsOver(); p.Await(p.Changes()) {
		provider := p.Provider()
		if provider != nil && provider != published {
			p.publishConfig(provider)
			published = provider
		}

		p.publishDisks()
		p.publishNetwork()
		p.publishLinks()
		p.publishMeta()
		p.publishSideroLink()
		p.publishServices()

		if provider != nil && provider.CompleteForBoot() {
			p.publishUserVolumes(provider)
			p.publishCluster(provider)
			p.publishKubernetes(provider)
		}

		p.publishStatus(&reported)
	}
}

func (p *Publisher) publishHardware() {
	p.publishMachineHardware()

	put(p, block.NewSystemDisk(block.NamespaceName, block.SystemDiskID), func(r *block.SystemDisk) {
		r.TypedSpec().DiskID, r.TypedSpec().DevPath = blockdevices.SystemDisk, "/dev/"+blockdevices.SystemDisk
	})

	put(p, timeresource.NewStatus(), func(r *timeresource.Status) { r.TypedSpec().Synced = true })
	put(p, runtime.NewVersion(), func(r *runtime.Version) { r.TypedSpec().Version = p.TalosVersion() })
	put(p, runtime.NewSecurityStateSpec(runtime.NamespaceName), func(*runtime.SecurityState) {})

	if schematic := p.Schematic(); schematic != "" {
		put(p, runtime.NewExtensionStatus(runtime.NamespaceName, "schematic"), func(r *runtime.ExtensionStatus) {
			r.TypedSpec().Metadata.Name, r.TypedSpec().Metadata.Version = "schematic", schematic
		})
	}

	put(p, runtime.NewPlatformMetadataSpec(runtime.NamespaceName, runtime.PlatformMetadataID), func(r *runtime.PlatformMetadata) {
		r.TypedSpec().Platform = "vmware"
		if p.Network.Platform != nil {
			r.TypedSpec().Hostname, r.TypedSpec().InstanceID = p.Network.Platform.Hostname, p.Network.Platform.InstanceID
		}
	})
}

// publishDisks shows the disks that the kernel has found.
func (p *Publisher) publishDisks() {
	wanted := map[resource.ID]bool{}

	for _, device := range p.Devices.List() {
		wanted[device.Name] = true

		put(p, block.NewDisk(block.NamespaceName, device.Name), func(r *block.Disk) {
			from, spec := device.Spec(), r.TypedSpec()
			spec.DevPath, spec.Size, spec.PrettySize, spec.Model, spec.Transport = from.DevPath, from.Size, from.PrettySize, from.Model, from.Transport
			spec.IOSize, spec.SectorSize, spec.WWID = uint(from.IoSize), uint(from.SectorSize), from.Wwid
			spec.BusPath, spec.SubSystem = from.BusPath, from.SubSystem
		})
	}

	keepOnly[*block.Disk](p, block.NewDisk(block.NamespaceName, "").Metadata(), wanted)
}

// publishUserVolumes shows how far the volumes of the data disks have got.
func (p *Publisher) publishUserVolumes(provider talosconfig.Provider) {
	statuses, err := p.UserVolumes.Status(provider.UserVolumeConfigs())
	if err != nil {
		p.LogError("volumes", err)

		return
	}

	wanted := map[resource.ID]bool{}
	for _, own := range p.Volumes() {
		wanted[own.Name] = true
	}

	for id, status := range statuses {
		wanted[id] = true

		put(p, block.NewVolumeStatus(block.NamespaceName, id), func(r *block.VolumeStatus) {
			r.Metadata().Labels().Set(block.UserVolumeLabel, "")
			*r.TypedSpec() = status
		})
	}

	keepOnly[*block.VolumeStatus](p, block.NewVolumeStatus(block.NamespaceName, "").Metadata(), wanted)
}

// Mounts are the user volumes that are mounted; nothing is on them.
func (p *Publisher) Mounts() []*machineapi.MountStat {
	list, err := safe.StateList[*block.VolumeStatus](p.Context(), p.State, block.NewVolumeStatus(block.NamespaceName, "").Metadata(),
		state.WithLabelQuery(resource.LabelExists(block.UserVolumeLabel)))
	if err != nil {
		p.LogError("mounts", err)

		return nil
	}

	var mounts []*machineapi.MountStat

	for one := range list.All() {
		if spec := one.TypedSpec(); spec.Phase == block.VolumePhaseReady {
			mounts = append(mounts, &machineapi.MountStat{
				Filesystem: spec.MountLocation, Size: spec.Size, Available: spec.Size, MountedOn: spec.MountSpec.ParentID + "/" + spec.MountSpec.TargetPath,
			})
		}
	}

	return mounts
}

// publishConfig shows the configuration, its machine type and the volumes that it gives.
func (p *Publisher) publishConfig(provider talosconfig.Provider) {
	wanted := config.NewMachineConfig(provider)

	if old, err := p.State.Get(p.Context(), wanted.Metadata()); err == nil {
		wanted.Metadata().SetVersion(old.Metadata().Version())
		p.LogError("machine configuration", p.State.Update(p.Context(), wanted))
	} else {
		p.LogError("machine configuration", p.State.Create(p.Context(), wanted))
	}

	if !provider.CompleteForBoot() {
		return
	}

	if p.IsControlPlane() {
		p.publishManifests(provider)
	}

	put(p, config.NewMachineType(), func(r *config.MachineType) { r.SetMachineType(provider.Machine().Type()) })

	for partition, volume := range p.Volumes() {
		put(p, block.NewVolumeStatus(block.NamespaceName, volume.Name), func(r *block.VolumeStatus) {
			spec := r.TypedSpec()
			spec.Phase, spec.Type = block.VolumePhaseReady, block.VolumeTypePartition
			spec.ParentLocation, spec.Location = "/dev/"+blockdevices.SystemDisk, blockdevices.SystemPartition(partition)
			spec.PartitionIndex = partition + 4
			spec.SetSize(volume.Size)
		})
	}

	put(p, k8s.NewBootstrapManifestsConfig(), func(r *k8s.BootstrapManifestsConfig) {
		if cni := provider.Cluster().Network().CNI(); cni != nil {
			r.TypedSpec().CNIName = cni.Name()
		}
	})
}

// Volumes are the partitions that Talos makes.
func (p *Publisher) Volumes() []blockdevices.SystemVolume {
	return blockdevices.SystemVolumes(p.Hardware)
}

func (p *Publisher) publishNetwork() {
	addresses, err := p.Network.Addresses()
	if err != nil {
		p.LogError("addresses", err)

		return
	}

	wanted := map[resource.ID]bool{}
	cards := p.Network.FurtherAddresses()
	cards["eth0"] = addresses

	for _, card := range slices.Sorted(maps.Keys(cards)) {
		for _, address := range cards[card] {
			id := networkresource.AddressID(card, address)
			wanted[id] = true

			put(p, networkresource.NewAddressStatus(networkresource.NamespaceName, id), func(r *networkresource.AddressStatus) {
				r.TypedSpec().Address, r.TypedSpec().LinkName = address, card
				r.TypedSpec().Family, r.TypedSpec().Scope = nethelpers.FamilyInet4, nethelpers.ScopeGlobal
			})

			if card != "eth0" {
				addresses = append(addresses, address)
			}
		}
	}

	current := addresses

	if joined, link := p.Network.SideroLink(); joined.IsValid() {
		id := networkresource.AddressID(link, joined)
		wanted[id] = true

		put(p, networkresource.NewAddressStatus(networkresource.NamespaceName, id), func(r *networkresource.AddressStatus) {
			r.TypedSpec().Address, r.TypedSpec().LinkName = joined, link
			r.TypedSpec().Family, r.TypedSpec().Scope = nethelpers.FamilyInet6, nethelpers.ScopeGlobal
		})

		current = append(slices.Clone(addresses), joined)
	}

	keepOnly[*networkresource.AddressStatus](p, networkresource.NewAddressStatus(networkresource.NamespaceName, "").Metadata(), wanted)

	// SideroLink leads to the server alone: its address is no routed one (controllers/network/node_address.go).
	for id, all := range map[resource.ID][]netip.Prefix{
		networkresource.NodeAddressCurrentID: current, networkresource.NodeAddressAccumulativeID: current, networkresource.NodeAddressRoutedID: addresses,
	} {
		put(p, networkresource.NewNodeAddress(networkresource.NamespaceName, id), func(r *networkresource.NodeAddress) { r.TypedSpec().Addresses = all })
	}

	if len(addresses) > 0 {
		put(p, networkresource.NewNodeAddress(networkresource.NamespaceName, networkresource.NodeAddressDefaultID), func(r *networkresource.NodeAddress) {
			r.TypedSpec().Addresses = addresses[:1]
		})
	}

	host := p.Network.Hostname()
	put(p, networkresource.NewHostnameStatus(networkresource.NamespaceName, networkresource.HostnameID), func(r *networkresource.HostnameStatus) {
		r.TypedSpec().Hostname, r.TypedSpec().Domainname, _ = strings.Cut(host, ".")
	})
	put(p, networkresource.NewStatus(networkresource.NamespaceName, networkresource.StatusID), func(r *networkresource.Status) {
		r.TypedSpec().AddressReady, r.TypedSpec().ConnectivityReady = len(addresses) > 0, len(addresses) > 0
		r.TypedSpec().HostnameReady, r.TypedSpec().EtcFilesReady = host != "", true
	})

	if p.Network.Platform != nil {
		put(p, networkresource.NewResolverStatus(networkresource.NamespaceName, networkresource.ResolverID), func(r *networkresource.ResolverStatus) {
			r.TypedSpec().DNSServers = p.Network.Resolvers()
		})
	}
}

func (p *Publisher) publishServices() {
	wanted := map[resource.ID]bool{}

	for _, entry := range p.Services.Snapshot() {
		// As in Talos: only a running service has a resource.
		if entry.State != services.StateRunning {
			continue
		}

		wanted[entry.ID] = true

		put(p, v1alpha1.NewService(entry.ID), func(r *v1alpha1.Service) {
			r.TypedSpec().Running, r.TypedSpec().Healthy, r.TypedSpec().Unknown = true, entry.Checked && entry.Healthy, !entry.Checked
		})
	}

	keepOnly[*v1alpha1.Service](p, v1alpha1.NewService("").Metadata(), wanted)
}

// publishCluster shows the machines that discovery knows, and this machine's etcd member.
func (p *Publisher) publishCluster(provider talosconfig.Provider) {
	p.publishClusterConfig(provider)
	put(p, cluster.NewIdentity(cluster.NamespaceName, cluster.LocalIdentity), func(r *cluster.Identity) { r.TypedSpec().NodeID = p.Hardware.ID })

	wanted := map[resource.ID]bool{}

	for _, member := range p.Discovery.Members(provider.Cluster().ID()) {
		wanted[member.Hostname] = true

		put(p, cluster.NewMember(cluster.NamespaceName, member.Hostname), func(r *cluster.Member) {
			*r.TypedSpec() = cluster.MemberSpec{
				NodeID: member.NodeID, Hostname: member.Hostname, Addresses: member.Addresses,
				MachineType: member.MachineType, OperatingSystem: member.OperatingSystem,
			}
		})
	}

	keepOnly[*cluster.Member](p, cluster.NewMember(cluster.NamespaceName, "").Metadata(), wanted)

	p.publishEtcdMember()
}

func (p *Publisher) publishEtcdMember() {
	member := etcdresource.NewMember(etcdresource.NamespaceName, etcdresource.LocalMemberID)
	_, err := p.State.Get(p.Context(), member.Metadata())

	switch {
	case !p.Services.IsUp("etcd"):
		if err == nil {
			p.LogError("etcd member", p.State.Destroy(p.Context(), member.Metadata()))
		}
	case err != nil:
		id, err := p.Etcd.MemberID(p.Context())
		if err != nil { // etcd is up and does not answer yet: ask again
			time.AfterFunc(lifetime.Tick, p.Changed)

			return
		}

		put(p, member, func(r *etcdresource.Member) { r.TypedSpec().MemberID = etcdresource.FormatMemberID(id) })
	}
}

// Member is what the other machines of the cluster are told of this one.
func (p *Publisher) Member() discovery.Member {
	kind := machinetype.TypeUnknown
	if provider := p.Provider(); provider != nil {
		kind = provider.Machine().Type()
	}

	return discovery.Member{
		NodeID: p.Hardware.ID, Hostname: p.Network.Hostname(), Addresses: p.Network.NodeAddresses(), MachineType: kind,
		OperatingSystem: fmt.Sprintf("Talos (%s)", p.TalosVersion()),
	}
}

func (p *Publisher) publishKubernetes(provider talosconfig.Provider) {
	put(p, k8s.NewNodename(k8s.NamespaceName, k8s.NodenameID), func(r *k8s.Nodename) {
		r.TypedSpec().Nodename = p.Network.Hostname()
		r.TypedSpec().SkipNodeRegistration = provider.Machine().Kubelet().SkipNodeRegistration()
	})

	if address := p.Network.NodeIP(provider); address.IsValid() {
		put(p, k8s.NewNodeIP(k8s.NamespaceName, k8s.KubeletID), func(r *k8s.NodeIP) { r.TypedSpec().Addresses = []netip.Addr{address} })
	}

	p.publishKubelet(provider)

	if object := p.Kubelet.Object(); object != nil {
		put(p, k8s.NewNodeStatus(k8s.NamespaceName, object.Name), func(r *k8s.NodeStatus) {
			*r.TypedSpec() = k8s.NodeStatusSpec{
				Nodename: object.Name, NodeReady: p.Kubelet.IsReady() == nil, Unschedulable: object.Spec.Unschedulable,
				Labels: object.Labels, Annotations: object.Annotations,
			}
		})
	}

	wanted := map[resource.ID]bool{}

	for _, pod := range p.ControlPlane.Snapshot() {
		id := "kube-system/" + pod.Name + "-" + p.Network.Hostname()
		wanted[id] = true

		put(p, k8s.NewStaticPodStatus(k8s.NamespaceName, id), func(r *k8s.StaticPodStatus) { r.TypedSpec().PodStatus = pod.Summary() })
		put(p, k8s.NewStaticPod(k8s.NamespaceName, pod.Name), func(r *k8s.StaticPod) { r.TypedSpec().Pod = pod.Object() })
	}

	keepOnly[*k8s.StaticPodStatus](p, k8s.NewStaticPodStatus(k8s.NamespaceName, "").Metadata(), wanted)
}

// publishKubelet shows what the kubelet was started with.
func (p *Publisher) publishKubelet(provider talosconfig.Provider) {
	image := p.Kubelet.Image()
	if image == "" {
		return
	}

	put(p, k8s.NewKubeletSpec(k8s.NamespaceName, k8s.KubeletID), func(r *k8s.KubeletSpec) {
		spec := r.TypedSpec()
		spec.Image, spec.ExpectedNodename, spec.Args = image, p.Network.Hostname(), nil

		extra := provider.Machine().Kubelet().ExtraArgs()
		for _, key := range slices.Sorted(maps.Keys(extra)) {
			for _, value := range extra[key] {
				spec.Args = append(spec.Args, "--"+key+"="+value)
			}
		}
	})
}

// publishManifests shows the bootstrap manifests, which `talosctl upgrade-k8s` brings the cluster's objects in line with.
func (p *Publisher) publishManifests(provider talosconfig.Provider) {
	for id, objects := range controlplane.Manifests(provider) {
		put(p, k8s.NewManifest(k8s.ControlPlaneNamespaceName, id), func(r *k8s.Manifest) {
			r.TypedSpec().Items = nil
			for _, object := range objects {
				r.TypedSpec().Items = append(r.TypedSpec().Items, k8s.SingleManifest{Object: object})
			}
		})
	}
}

// PublishComponent shows what the configuration wants of a component of the control plane, and gives the version of
// the resource: the component's pod carries it, by which talosctl knows that it is the new one.
func (p *Publisher) PublishComponent(c controlplane.Component) string {
	extra := map[string]k8s.ArgValues{}
	for name, values := range c.Arguments {
		extra[name] = k8s.ArgValues{Values: values}
	}

	var kind resource.Resource

	switch c.Name {
	case controlplane.APIServer:
		kind = k8s.NewAPIServerConfig()
		put(p, k8s.NewAPIServerConfig(), func(r *k8s.APIServerConfig) { r.TypedSpec().Image, r.TypedSpec().ExtraArgs = c.Image, extra })
	case controlplane.ControllerManager:
		kind = k8s.NewControllerManagerConfig()
		put(p, k8s.NewControllerManagerConfig(), func(r *k8s.ControllerManagerConfig) {
			r.TypedSpec().Enabled, r.TypedSpec().Image, r.TypedSpec().ExtraArgs = true, c.Image, extra
		})
	case controlplane.Scheduler:
		kind = k8s.NewSchedulerConfig()
		put(p, k8s.NewSchedulerConfig(), func(r *k8s.SchedulerConfig) {
			r.TypedSpec().Enabled, r.TypedSpec().Image, r.TypedSpec().ExtraArgs = true, c.Image, extra
		})
	}

	published, err := p.State.Get(p.Context(), kind.Metadata())
	if err != nil {
		p.LogError("resource "+c.Name, err)

		return ""
	}

	return published.Metadata().Version().String()
}

// publishStatus is MachineStatus: the stage, and what it still waits for. A change is an event, too.
func (p *Publisher) publishStatus(reported *machineapi.MachineStatusEvent) {
	stage := p.Stage()

	var unmet []runtime.UnmetCondition

	if stage == runtime.MachineStageBooting || stage == runtime.MachineStageRunning {
		unmet = p.UnmetConditions()
	}

	put(p, runtime.NewMachineStatus(), func(r *runtime.MachineStatus) {
		r.TypedSpec().Stage = stage
		r.TypedSpec().Status.Ready, r.TypedSpec().Status.UnmetConditions = len(unmet) == 0, unmet
	})

	event := machineapi.MachineStatusEvent{
		Stage:  machineapi.MachineStatusEvent_MachineStage(stage), //nolint:gosec // one of a few
		Status: &machineapi.MachineStatusEvent_MachineStatus{Ready: len(unmet) == 0},
	}
	for _, condition := range unmet {
		event.Status.UnmetConditions = append(event.Status.UnmetConditions,
			&machineapi.MachineStatusEvent_MachineStatus_UnmetCondition{Name: condition.Name, Reason: condition.Reason})
	}

	if !proto.Equal(&event, reported) {
		p.Events.Publish(&event)
		proto.Reset(reported)
		proto.Merge(reported, &event)
	}
}

// UnmetConditions are Talos' readiness checks (controllers/runtime/machine_status.go), in their order and words.
func (p *Publisher) UnmetConditions() []runtime.UnmetCondition {
	var unmet []runtime.UnmetCondition

	add := func(name string, problems ...string) {
		if len(problems) > 0 {
			unmet = append(unmet, runtime.UnmetCondition{Name: name, Reason: strings.Join(problems, ", ")})
		}
	}

	if !p.Network.Address().IsValid() {
		add("network", "waiting on: address")
	}

	add("services", p.serviceProblems()...)

	var pods []string

	for _, pod := range p.ControlPlane.Snapshot() {
		if pod.Problem != nil {
			pods = append(pods, fmt.Sprintf("kube-system/%s-%s not ready", pod.Name, p.Network.Hostname()))
		}
	}

	add("staticPods", pods...)

	if provider := p.Provider(); provider != nil && provider.Machine() != nil && !provider.Machine().Kubelet().SkipNodeRegistration() {
		if err := p.Kubelet.IsReady(); err != nil {
			add("nodeReady", err.Error())
		}
	}

	return unmet
}

func (p *Publisher) serviceProblems() []string {
	var (
		problems []string
		running  []string
	)

	for _, entry := range p.Services.Snapshot() {
		if entry.State != services.StateRunning {
			continue
		}

		running = append(running, entry.ID)

		if entry.Checked && !entry.Healthy {
			problems = append(problems, entry.ID+" not healthy")
		}
	}

	for _, id := range p.Services.Required() {
		if !slices.Contains(running, id) {
			problems = append(problems, id+" not running")
		}
	}

	return problems
}
