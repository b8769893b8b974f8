package omni

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/machineconfig"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	joinconfig "github.com/siderolabs/omni/client/pkg/siderolink"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/container"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
)

// generate makes the configuration of a member: by the vendor's code, with the patches of the cluster, of the machine set
// and of the machine in this order, and with the documents that keep the machine joined.
func (o *Omni) generate(ctx context.Context, c *clusterView, m *member) ([]byte, error) {
	name := c.cluster.Metadata().ID()
	bundle, err := o.bundleOf(ctx, name)
	if err != nil {
		return nil, err
	}
	first, err := safe.StateGetByID[*omni.ClusterConfigVersion](ctx, o.state, name)
	if err != nil {
		return nil, err
	}
	balancer, err := safe.StateGetByID[*omni.LoadBalancerConfig](ctx, o.state, name)
	if err != nil {
		return nil, err
	}
	output, err := machineconfig.Generate(machineconfig.GenerateInput{
		Secrets: bundle, ClusterID: name, MachineID: m.id, InitialTalosVersion: first.TypedSpec().Value.Version,
		InitialKubernetesVersion: m.clusterMachine.TypedSpec().Value.KubernetesVersion,
		SiderolinkEndpoint:       balancer.TypedSpec().Value.SiderolinkEndpoint,
		InstallImage:             o.installer(m, c.talosVersion(), m.schematic()), IsControlPlane: m.controlPlane,
	})
	if err != nil {
		return nil, err
	}
	patches, err := o.patchesOf(ctx, c, m)
	if err != nil {
		return nil, err
	}
	patched, err := configpatcher.Apply(configpatcher.WithConfig(output.Config), patches)
	if err != nil {
		return nil, err
	}
	provider, err := patched.Config()
	if err != nil {
		return nil, err
	}
	join, err := o.joinDocuments(ctx, m)
	if err != nil {
		return nil, err
	}
	documents, err := join.JoinConfigDocuments()
	if err != nil {
		return nil, err
	}
	whole, err := container.New(append(slices.Clone(provider.Documents()), documents...)...)
	if err != nil {
		return nil, err
	}
	return whole.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
}

func (o *Omni) joinDocuments(ctx context.Context, m *member) (*joinconfig.JoinOptions, error) {
	usage, err := safe.StateGetByID[*siderolink.JoinTokenUsage](ctx, o.state, m.id)
	if err != nil {
		return nil, err
	}
	machine, err := safe.StateGetByID[*omni.Machine](ctx, o.state, m.id)
	if err != nil {
		return nil, err
	}
	return joinconfig.NewJoinOptions(
		joinconfig.WithMachine(machine), joinconfig.WithMachineAPIURL(o.options.MachineAPI), joinconfig.WithJoinToken(usage.TypedSpec().Value.TokenId),
		joinconfig.WithEventSinkPort(o.options.EventPort), joinconfig.WithLogServerPort(o.options.LogPort),
	)
}

// patchesOf are the patches of a member. Within a level they go by their ids.
func (o *Omni) patchesOf(ctx context.Context, c *clusterView, m *member) ([]configpatcher.Patch, error) {
	all, err := safe.StateListAll[*omni.ConfigPatch](ctx, o.state, state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, c.cluster.Metadata().ID())))
	if err != nil {
		return nil, err
	}
	type ranked struct {
		level int
		patch *omni.ConfigPatch
	}
	var chosen []ranked
	for patch := range all.All() {
		labels := patch.Metadata().Labels()
		set, inSet := labels.Get(omni.LabelMachineSet)
		machine, ofMachine := labels.Get(omni.LabelClusterMachine)
		switch {
		case patch.Metadata().Phase() != resource.PhaseRunning:
		case ofMachine && machine == m.id:
			chosen = append(chosen, ranked{level: 2, patch: patch})
		case inSet && !ofMachine && set == m.set:
			chosen = append(chosen, ranked{level: 1, patch: patch})
		case !inSet && !ofMachine:
			chosen = append(chosen, ranked{patch: patch})
		}
	}
	slices.SortFunc(chosen, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.patch.Metadata().ID(), b.patch.Metadata().ID()))
	})
	var patches []configpatcher.Patch
	for _, one := range chosen {
		data, err := one.patch.TypedSpec().Value.GetUncompressedData()
		if err != nil {
			return nil, err
		}
		patch, err := configpatcher.LoadPatch(data.Data())
		data.Free()
		if err != nil {
			return nil, fmt.Errorf("patch %q: %w", one.patch.Metadata().ID(), err)
		}
		patches = append(patches, patch)
	}
	return patches, nil
}

// installer is the image that installs a Talos version with a schematic on a member.
func (o *Omni) installer(m *member, version, schematic string) string {
	platform := m.status.TypedSpec().Value.GetPlatformMetadata().GetPlatform()
	if platform == "" {
		platform = "metal"
	}
	return fmt.Sprintf("%s/%s-installer/%s:v%s", o.options.ImageFactory, platform, schematic, version)
}

func hashOf(configuration []byte) string {
	sum := sha256.Sum256(configuration)
	return hex.EncodeToString(sum[:])
}

// apply gives a member its configuration, and remembers which one it has.
func (o *Omni) apply(ctx context.Context, c *clusterView, m *member, configuration []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	talos, _, err := o.reach(ctx, m.id, m.address())
	if err != nil {
		return err
	}
	_, err = talos.ApplyConfiguration(ctx, &machineapi.ApplyConfigurationRequest{Data: configuration, Mode: machineapi.ApplyConfigurationRequest_AUTO})
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	o.log.Info("configuration applied", "cluster", c.cluster.Metadata().ID(), "machine", m.id, "error", fault)
	return errors.Join(err, put(context.WithoutCancel(ctx), o.state, omni.NewClusterMachineConfigStatus(m.id), func(res *omni.ClusterMachineConfigStatus) error {
		for key, value := range m.clusterMachine.Metadata().Labels().Raw() {
			res.Metadata().Labels().Set(key, value)
		}
		spec := res.TypedSpec().Value
		spec.LastConfigError = fault
		if err == nil {
			spec.ClusterMachineConfigSha256 = hashOf(configuration)
			spec.TalosVersion, spec.SchematicId = c.talosVersion(), m.schematic()
		}
		return nil
	}))
}
