// Package resources keeps a machine's COSI resources, which `talosctl get` shows.
package resources

import (
	"context"
	"fmt"
	"slices"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/impl/inmem"
	"github.com/cosi-project/runtime/pkg/state/impl/namespaced"
	"github.com/cosi-project/runtime/pkg/state/registry"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	"github.com/siderolabs/talos/pkg/machinery/resources/config"
	"github.com/siderolabs/talos/pkg/machinery/resources/cri"
	etcdresource "github.com/siderolabs/talos/pkg/machinery/resources/etcd"
	filesresource "github.com/siderolabs/talos/pkg/machinery/resources/files"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/k8s"
	"github.com/siderolabs/talos/pkg/machinery/resources/kubespan"
	networkresource "github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/perf"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	secretsresource "github.com/siderolabs/talos/pkg/machinery/resources/secrets"
	linkresource "github.com/siderolabs/talos/pkg/machinery/resources/siderolink"
	timeresource "github.com/siderolabs/talos/pkg/machinery/resources/time"
	"github.com/siderolabs/talos/pkg/machinery/resources/v1alpha1"
)

// unkept are kinds of Talos' that people ask for and that nothing here fills: `talosctl get` answers with a sentence,
// where an empty table would be taken for the truth.
var unkept = []meta.ResourceWithRD{
	&block.DiscoveredVolume{}, &block.MountRequest{}, &block.MountStatus{}, &block.Symlink{}, &block.VolumeConfig{},
	&cluster.Affiliate{}, &cluster.Info{}, &cri.ImageCacheConfig{}, &etcdresource.Config{}, &etcdresource.Spec{}, &filesresource.EtcFileStatus{},
	&hardware.PCIDevice{},
	&k8s.Endpoint{}, &k8s.KubeletConfig{}, &k8s.ManifestStatus{},
	&k8s.NodeLabelSpec{}, &k8s.NodeTaintSpec{}, &kubespan.PeerStatus{},
	&networkresource.AddressSpec{}, &networkresource.EthernetStatus{}, &networkresource.LinkSpec{},
	&networkresource.NfTablesChain{}, &networkresource.OperatorSpec{}, &networkresource.ProbeStatus{}, &networkresource.RouteSpec{},
	&networkresource.TimeServerStatus{}, &perf.CPU{}, &perf.Memory{},
	&runtime.DevicesStatus{}, &runtime.KernelModuleSpec{}, &runtime.KernelParamStatus{}, &runtime.LoadedKernelModule{},
	&runtime.MountStatus{}, &runtime.WatchdogTimerStatus{},
	&secretsresource.CertSAN{}, &secretsresource.OSRoot{},
}

// IsUnkept says whether a kind, by the type of its resources, is one of unkept.
func IsUnkept(kind resource.Type) bool {
	return slices.ContainsFunc(unkept, func(one meta.ResourceWithRD) bool { return one.ResourceDefinition().Type == kind })
}

// NewState is a machine's COSI state, with the definitions that `talosctl get` asks for. It lives as long
// as the boot: nothing of it survives a power loss.
func NewState(ctx context.Context) (state.State, error) {
	resources := state.WrapCore(namespaced.NewState(inmem.Build))
	namespaces, definitions := registry.NewNamespaceRegistry(resources), registry.NewResourceRegistry(resources)

	if err := namespaces.RegisterDefault(ctx); err != nil {
		return nil, err
	}

	if err := definitions.RegisterDefault(ctx); err != nil {
		return nil, err
	}

	for _, namespace := range []resource.Namespace{
		v1alpha1.NamespaceName, cluster.NamespaceName, config.NamespaceName, etcdresource.NamespaceName, hardware.NamespaceName,
		k8s.NamespaceName, k8s.ControlPlaneNamespaceName, networkresource.NamespaceName, networkresource.ConfigNamespaceName,
		secretsresource.NamespaceName,
	} {
		if err := namespaces.Register(ctx, namespace, ""); err != nil {
			return nil, err
		}
	}

	for _, kind := range append([]meta.ResourceWithRD{
		&block.Disk{}, &block.SystemDisk{}, &block.VolumeStatus{},
		&cluster.Config{}, &cluster.Member{}, &cluster.Identity{},
		&config.MachineConfig{}, &config.MachineType{},
		&etcdresource.Member{},
		&hardware.MemoryModule{}, &hardware.Processor{}, &hardware.SystemInformation{},
		&k8s.APIServerConfig{}, &k8s.ControllerManagerConfig{}, &k8s.SchedulerConfig{}, &k8s.KubeletSpec{}, &k8s.Manifest{}, &k8s.StaticPod{},
		&k8s.BootstrapManifestsConfig{}, &k8s.Nodename{}, &k8s.NodeStatus{}, &k8s.NodeIP{}, &k8s.StaticPodStatus{},
		&networkresource.AddressStatus{}, &networkresource.HostnameStatus{}, &networkresource.LinkStatus{}, &networkresource.NodeAddress{},
		&networkresource.ResolverStatus{}, &networkresource.RouteStatus{}, &networkresource.Status{},
		&runtime.Diagnostic{}, &runtime.ExtensionStatus{}, &runtime.KernelCmdline{}, &runtime.MachineStatus{}, &runtime.MetaKey{},
		&runtime.PlatformMetadata{}, &runtime.SecurityState{}, &runtime.UniqueMachineToken{}, &runtime.Version{},
		&linkresource.Config{}, &linkresource.Status{}, &linkresource.Tunnel{},
		&timeresource.Status{},
		&v1alpha1.Service{},
	}, unkept...) {
		if err := definitions.Register(ctx, kind); err != nil {
			return nil, fmt.Errorf("resource definition: %w", err)
		}
	}

	return resources, nil
}

// put creates a resource or changes the one that is there; nothing happens when it is the same already.
func put[T resource.Resource](p *Publisher, wanted T, fill func(T)) {
	err := safe.StateModify(p.Context(), p.State, wanted, func(r T) error {
		fill(r)

		return nil
	})

	p.LogError("resource "+wanted.Metadata().ID(), err)
}

// keepOnly removes the resources of a kind whose ID is not wanted any more.
func keepOnly[T resource.Resource](p *Publisher, kind *resource.Metadata, wanted map[resource.ID]bool) {
	list, err := safe.StateList[T](p.Context(), p.State, kind)
	if err != nil {
		p.LogError("resources", err)

		return
	}

	for present := range list.All() {
		if !wanted[present.Metadata().ID()] {
			p.LogError("resource", p.State.Destroy(p.Context(), present.Metadata()))
		}
	}
}
