package machine

import (
	"context"
	"fmt"

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
	etcdresource "github.com/siderolabs/talos/pkg/machinery/resources/etcd"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/k8s"
	networkresource "github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	secretsresource "github.com/siderolabs/talos/pkg/machinery/resources/secrets"
	timeresource "github.com/siderolabs/talos/pkg/machinery/resources/time"
	"github.com/siderolabs/talos/pkg/machinery/resources/v1alpha1"
)

// newResources is a machine's COSI state, with the definitions that `talosctl get` asks for. It lives as long
// as the boot: nothing of it survives a power loss.
func newResources(ctx context.Context) (state.State, error) {
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

	for _, kind := range []meta.ResourceWithRD{
		&block.Disk{}, &block.SystemDisk{}, &block.VolumeStatus{}, &block.DiscoveredVolume{}, &block.MountStatus{},
		&cluster.Member{}, &cluster.Identity{}, &cluster.Affiliate{},
		&config.MachineConfig{}, &config.MachineType{},
		&etcdresource.Member{}, &etcdresource.Spec{},
		&hardware.SystemInformation{},
		&k8s.BootstrapManifestsConfig{}, &k8s.Nodename{}, &k8s.NodeStatus{}, &k8s.NodeIP{}, &k8s.StaticPodStatus{}, &k8s.StaticPod{},
		&networkresource.AddressStatus{}, &networkresource.HostnameStatus{}, &networkresource.LinkStatus{}, &networkresource.NodeAddress{},
		&networkresource.ResolverStatus{}, &networkresource.RouteStatus{}, &networkresource.Status{}, &networkresource.TimeServerStatus{},
		&runtime.Diagnostic{}, &runtime.ExtensionStatus{}, &runtime.KernelParamStatus{}, &runtime.MachineStatus{}, &runtime.PlatformMetadata{},
		&runtime.SecurityState{}, &runtime.Version{},
		&secretsresource.CertSAN{},
		&timeresource.Status{},
		&v1alpha1.Service{},
	} {
		if err := definitions.Register(ctx, kind); err != nil {
			return nil, fmt.Errorf("resource definition: %w", err)
		}
	}

	return resources, nil
}

// put creates a resource or changes the one that is there; nothing happens when it is the same already.
func put[T resource.Resource](b *boot, wanted T, fill func(T)) {
	err := safe.StateModify(b.ctx, b.resources, wanted, func(r T) error {
		fill(r)

		return nil
	})

	b.logError("resource "+wanted.Metadata().ID(), err)
}

// keepOnly removes the resources of a kind whose ID is not wanted any more.
func keepOnly[T resource.Resource](b *boot, kind *resource.Metadata, wanted map[resource.ID]bool) {
	list, err := safe.StateList[T](b.ctx, b.resources, kind)
	if err != nil {
		b.logError("resources", err)

		return
	}

	for present := range list.All() {
		if !wanted[present.Metadata().ID()] {
			b.logError("resource", b.resources.Destroy(b.ctx, present.Metadata()))
		}
	}
}
