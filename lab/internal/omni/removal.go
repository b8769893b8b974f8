package omni

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/omni/resources"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/meta"
)

const (
	// removalMark says on a ClusterMachine how far its removal is.
	removalMark = "simulated-omni/removal"
	markLeft    = "left-etcd"
	markReset   = "reset"
)

// endSets takes down the machine sets of a cluster that is taken away.
func (o *Omni) endSets(ctx context.Context, cluster string) error {
	sets, err := safe.StateListAll[*omni.MachineSet](ctx, o.state, state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, cluster)))
	if err != nil {
		return err
	}
	var faults []error
	for set := range sets.All() {
		if _, err := o.state.Teardown(ctx, set.Metadata()); err != nil && !state.IsNotFoundError(err) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// leaving tells whether all control planes go, so that etcd goes with them.
func (c *clusterView) leaving() bool {
	if c.ending() {
		return true
	}
	for _, set := range c.sets {
		if set.Metadata().ID() == omni.ControlPlanesResourceID(c.name()) {
			return set.Metadata().Phase() != resource.PhaseRunning
		}
	}
	return true
}

// removeMembers takes the next step with each member that leaves: control planes one after the other, as long as etcd
// keeps its quorum; workers at once.
func (o *Omni) removeMembers(ctx context.Context, c *clusterView) error {
	var faults []error
	leaving := false
	for _, m := range c.members {
		if m.wanted {
			continue
		}
		if m.controlPlane && !c.leaving() {
			if leaving {
				continue
			}
			leaving = true
		}
		faults = append(faults, o.removeMember(ctx, c, m))
	}
	return errors.Join(faults...)
}

// removeMember takes the next step of one removal. A machine whose link is gone has no say in it; one that does not
// answer is waited for without end, as the real one waits.
func (o *Omni) removeMember(ctx context.Context, c *clusterView, m *member) error {
	mark, _ := m.clusterMachine.Metadata().Annotations().Get(removalMark)
	if m.machine == nil || m.machine.Metadata().Phase() != resource.PhaseRunning {
		o.removeNode(ctx, c, m)
		return o.memberGone(ctx, m)
	}
	if !m.configured() {
		return o.memberGone(ctx, m)
	}
	if !m.answers() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	talos, maintenance, err := o.reach(ctx, m.id, m.address()) // what was seen last may be of before its configuration
	if err != nil {
		return err
	}
	if maintenance {
		o.removeNode(ctx, c, m)
		return o.memberGone(ctx, m)
	}
	if mark == markReset {
		return nil
	}
	if m.controlPlane && !c.leaving() && !m.forced && mark != markLeft {
		if err := o.leaveEtcd(ctx, c, m, talos); err != nil {
			return err
		}
		if err := o.mark(ctx, m, markLeft); err != nil {
			return err
		}
	}
	if err := talos.MetaDelete(ctx, meta.StateEncryptionConfig); err != nil && !isUntold(err) {
		return err
	}
	if err := talos.ResetGeneric(ctx, wipe()); err != nil {
		return err
	}
	o.log.Info("machine reset", "cluster", c.name(), "machine", m.id)
	return o.mark(ctx, m, markReset)
}

// wipe is the reset that leaves Talos installed, and nothing else.
func wipe() *machineapi.ResetRequest {
	return &machineapi.ResetRequest{Reboot: true, SystemPartitionsToWipe: []*machineapi.ResetPartitionSpec{
		{Label: constants.EphemeralPartitionLabel, Wipe: true}, {Label: constants.StatePartitionLabel, Wipe: true},
	}}
}

func (o *Omni) mark(ctx context.Context, m *member, step string) error {
	return change(context.WithoutCancel(ctx), o.state, m.clusterMachine, func(res *omni.ClusterMachine) {
		res.Metadata().Annotations().Set(removalMark, step)
	})
}

// leaveEtcd lets a control plane leave etcd, unless the others would be too few to decide.
func (o *Omni) leaveEtcd(ctx context.Context, c *clusterView, m *member, talos *client.Client) error {
	answer, err := talos.EtcdMemberList(ctx, &machineapi.EtcdMemberListRequest{})
	if err != nil {
		return err
	}
	members := 0
	for _, message := range answer.GetMessages() {
		members += len(message.GetMembers())
	}
	healthy := 0
	for _, other := range c.controlPlanes() {
		if other != m && other.running() {
			healthy++
		}
	}
	if left := members - 1; healthy < left/2+1 {
		return fmt.Errorf("machine %s cannot leave etcd: of the %d members that stay %d are healthy", m.id, left, healthy)
	}
	if _, err := talos.EtcdForfeitLeadership(ctx, &machineapi.EtcdForfeitLeadershipRequest{}); err != nil {
		return err
	}
	return talos.EtcdLeaveCluster(ctx, &machineapi.EtcdLeaveClusterRequest{})
}

// memberGone forgets a member, and lets go what a client took away.
func (o *Omni) memberGone(ctx context.Context, m *member) error {
	faults := []error{
		remove(ctx, o.state, omni.NewClusterMachineConfigStatus(m.id).Metadata()),
		remove(ctx, o.state, omni.NewClusterMachineStatus(m.id).Metadata()),
		remove(ctx, o.state, omni.NewClusterMachineIdentity(m.id).Metadata()),
		remove(ctx, o.state, m.clusterMachine.Metadata()),
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if m.machine != nil {
		o.talos.forget(apiAddress(m.address()))
	}
	if m.forced {
		if err := o.state.Destroy(ctx, omni.NewNodeForceDestroyRequest(m.id).Metadata()); err != nil && !state.IsNotFoundError(err) {
			return err
		}
	}
	o.log.Info("machine left its cluster", "machine", m.id)
	return release(ctx, o.state, nodePointer(m.id))
}

func nodePointer(id string) resource.Pointer {
	return resource.NewMetadata(resources.DefaultNamespace, omni.MachineSetNodeType, id, resource.VersionUndefined)
}

// endEmptySets lets machine sets go that were taken away and have no members any more, and nodes that never became any.
func (o *Omni) endEmptySets(ctx context.Context, c *clusterView) error {
	nodes, err := safe.StateListAll[*omni.MachineSetNode](ctx, o.state, state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, c.name())))
	if err != nil {
		return err
	}
	ending := map[string]bool{}
	for _, set := range c.sets {
		ending[set.Metadata().ID()] = set.Metadata().Phase() != resource.PhaseRunning
	}
	member := map[string]bool{}
	for _, m := range c.members {
		member[m.id] = true
	}
	var faults []error
	for node := range nodes.All() {
		set, _ := node.Metadata().Labels().Get(omni.LabelMachineSet)
		switch {
		case member[node.Metadata().ID()]:
		case ending[set]: // clients take sets away, and Omni their nodes
			faults = append(faults, o.takeAway(ctx, node.Metadata()))
		case node.Metadata().Phase() != resource.PhaseRunning:
			faults = append(faults, release(ctx, o.state, node.Metadata()))
		}
	}
	for _, set := range c.sets {
		if ending[set.Metadata().ID()] && len(c.of(set.Metadata().ID())) == 0 {
			faults = append(faults, o.endSet(ctx, c, set))
		}
	}
	return errors.Join(faults...)
}

// endSet ends a set without members; the next control planes of the cluster begin etcd anew.
func (o *Omni) endSet(ctx context.Context, c *clusterView, set *omni.MachineSet) error {
	if strings.HasSuffix(set.Metadata().ID(), omni.ControlPlanesIDSuffix) {
		if err := remove(ctx, o.state, omni.NewClusterBootstrapStatus(c.name()).Metadata()); err != nil {
			return err
		}
	}
	if err := errors.Join(
		remove(ctx, o.state, omni.NewMachineSetStatus(set.Metadata().ID()).Metadata()),
		remove(ctx, o.state, omni.NewControlPlaneStatus(set.Metadata().ID()).Metadata()),
	); err != nil {
		return err
	}
	if c.ending() {
		return o.takeAway(ctx, set.Metadata())
	}
	return release(ctx, o.state, set.Metadata())
}

// takeAway destroys a resource that no client takes away itself.
func (o *Omni) takeAway(ctx context.Context, pointer resource.Pointer) error {
	if _, err := o.state.Teardown(ctx, pointer); err != nil && !state.IsNotFoundError(err) {
		return err
	}
	if err := release(ctx, o.state, pointer); err != nil {
		return err
	}
	if err := o.state.Destroy(ctx, pointer); err != nil && !state.IsNotFoundError(err) {
		return err
	}
	return nil
}

// endCluster forgets a cluster whose machines are gone: its patches, its secrets, and with its UUID and its key what its
// backups are good for.
func (o *Omni) endCluster(ctx context.Context, c *clusterView) error {
	mine := state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, c.name()))
	var faults []error
	for _, kind := range []resource.Type{
		omni.ConfigPatchType, omni.ExtensionsConfigurationType, omni.KubernetesManifestGroupType, omni.KubernetesHealthCheckType, omni.MachineSetType,
	} {
		found, err := o.state.List(ctx, resource.NewMetadata(resources.DefaultNamespace, kind, "", resource.VersionUndefined), mine)
		if err != nil {
			return err
		}
		for _, one := range found.Items {
			faults = append(faults, o.takeAway(ctx, one.Metadata()))
		}
	}
	name := c.name()
	faults = append(faults, o.forgetBackups(ctx, name))
	for _, pointer := range []resource.Pointer{
		omni.NewClusterSecrets(name).Metadata(), omni.NewClusterConfigVersion(name).Metadata(), omni.NewClusterUUID(name).Metadata(),
		omni.NewLoadBalancerConfig(name).Metadata(), omni.NewLoadBalancerStatus(name).Metadata(), omni.NewClusterBootstrapStatus(name).Metadata(),
		omni.NewTalosUpgradeStatus(name).Metadata(), omni.NewKubernetesUpgradeStatus(name).Metadata(), omni.NewEtcdBackupStatus(name).Metadata(),
		omni.NewClusterStatus(name).Metadata(),
	} {
		faults = append(faults, remove(ctx, o.state, pointer))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	o.log.Info("cluster gone", "cluster", name)
	return release(ctx, o.state, c.cluster.Metadata())
}
