package omni

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	talosclient "github.com/siderolabs/talos/pkg/machinery/client"
)

// clusterView is a cluster with all that belongs to it, as it was when a round began.
type clusterView struct {
	cluster *omni.Cluster
	sets    []*omni.MachineSet
	members []*member
}

// member is a machine of a cluster, or one that becomes it or leaves it.
type member struct {
	id, set      string
	controlPlane bool
	// wanted is false of one that leaves.
	wanted bool
	locked bool
	// forced: the machine is given up, its place in etcd is taken from it.
	forced bool

	clusterMachine *omni.ClusterMachine
	// machine and status are nil when the link is gone.
	machine  *omni.Machine
	status   *omni.MachineStatus
	config   *omni.ClusterMachineConfigStatus
	snapshot *machineapi.MachineStatusEvent
	identity *omni.ClusterMachineIdentity
	// outdated: its configuration or its Talos is not the wanted one.
	outdated bool
	// schematicID is the wanted schematic.
	schematicID string
}

func (c *clusterView) talosVersion() string { return c.cluster.TypedSpec().Value.TalosVersion }
func (c *clusterView) name() string         { return c.cluster.Metadata().ID() }
func (c *clusterView) ending() bool         { return c.cluster.Metadata().Phase() == resource.PhaseTearingDown }

func (m *member) address() string   { return m.machine.TypedSpec().Value.ManagementAddress }
func (m *member) schematic() string { return m.schematicID }

// answers tells whether the last question to the machine was answered.
func (m *member) answers() bool {
	return m.machine != nil && m.status != nil && m.status.TypedSpec().Value.Connected && m.status.TypedSpec().Value.LastError == ""
}

// configured tells whether the machine runs with a configuration of the cluster.
func (m *member) configured() bool {
	return m.config != nil && m.config.TypedSpec().Value.ClusterMachineConfigSha256 != ""
}

// running tells whether the machine has booted with its configuration; ready, whether Talos finds nothing wrong.
func (m *member) running() bool {
	return m.configured() && m.answers() && !m.status.TypedSpec().Value.Maintenance &&
		m.snapshot.GetStage() == machineapi.MachineStatusEvent_RUNNING
}

func (m *member) ready() bool { return m.running() && m.snapshot.GetStatus().GetReady() }

func (c *clusterView) controlPlanes() []*member {
	return slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return !m.controlPlane })
}

func (c *clusterView) of(set string) []*member {
	return slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m.set != set })
}

// keepClusters does for each cluster the next that is to be done.
func (o *Omni) keepClusters(ctx context.Context) error {
	clusters, err := safe.StateListAll[*omni.Cluster](ctx, o.state)
	if err != nil {
		return err
	}
	var faults []error
	for cluster := range clusters.All() {
		faults = append(faults, o.keepCluster(ctx, cluster))
	}
	return errors.Join(faults...)
}

func (o *Omni) keepCluster(ctx context.Context, cluster *omni.Cluster) error {
	if cluster.Metadata().Phase() == resource.PhaseRunning {
		if err := o.begin(ctx, cluster); err != nil {
			return err
		}
	} else if err := o.endSets(ctx, cluster.Metadata().ID()); err != nil {
		return err
	}
	view, err := o.view(ctx, cluster)
	if err != nil {
		return err
	}
	faults := []error{o.removeMembers(ctx, view)}
	view, err = o.view(ctx, cluster) // without those that are gone
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	if !view.ending() {
		faults = append(faults, o.configureMembers(ctx, view), o.bootstrap(ctx, view), o.auditEtcd(ctx, view), o.rememberNames(ctx, view))
	}
	faults = append(faults, o.showCluster(ctx, view), o.endEmptySets(ctx, view))
	if view.ending() && len(view.members) == 0 {
		faults = append(faults, o.endCluster(ctx, view))
	}
	return errors.Join(faults...)
}

// view reads what belongs to a cluster. A wanted machine that is not yet a member becomes one.
func (o *Omni) view(ctx context.Context, cluster *omni.Cluster) (*clusterView, error) {
	view := &clusterView{cluster: cluster}
	mine := state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, view.name()))
	sets, err := safe.StateListAll[*omni.MachineSet](ctx, o.state, mine)
	if err != nil {
		return nil, err
	}
	running := map[string]bool{}
	for set := range sets.All() {
		view.sets = append(view.sets, set)
		running[set.Metadata().ID()] = set.Metadata().Phase() == resource.PhaseRunning && !view.ending()
	}
	nodes, err := safe.StateListAll[*omni.MachineSetNode](ctx, o.state, mine)
	if err != nil {
		return nil, err
	}
	wanted := map[string]*omni.MachineSetNode{}
	for node := range nodes.All() {
		set, _ := node.Metadata().Labels().Get(omni.LabelMachineSet)
		if !running[set] || node.Metadata().Phase() != resource.PhaseRunning {
			continue
		}
		wanted[node.Metadata().ID()] = node
		if err := o.addMember(ctx, cluster, node); err != nil {
			return nil, err
		}
	}
	members, err := safe.StateListAll[*omni.ClusterMachine](ctx, o.state, mine)
	if err != nil {
		return nil, err
	}
	for one := range members.All() {
		m, err := o.memberOf(ctx, one, wanted[one.Metadata().ID()])
		if err != nil {
			return nil, err
		}
		view.members = append(view.members, m)
	}
	slices.SortFunc(view.members, func(a, b *member) int {
		if a.controlPlane != b.controlPlane { // control planes first
			if a.controlPlane {
				return -1
			}
			return 1
		}
		return strings.Compare(a.id, b.id)
	})
	return view, nil
}

// addMember makes a machine a member of the cluster. One whose link is gone cannot become it.
func (o *Omni) addMember(ctx context.Context, cluster *omni.Cluster, node *omni.MachineSetNode) error {
	id := node.Metadata().ID()
	if _, err := o.state.Get(ctx, omni.NewClusterMachine(id).Metadata()); !state.IsNotFoundError(err) {
		return err
	}
	if _, err := o.state.Get(ctx, omni.NewMachine(id).Metadata()); state.IsNotFoundError(err) {
		return nil
	} else if err != nil {
		return err
	}
	return put(ctx, o.state, omni.NewClusterMachine(id), func(res *omni.ClusterMachine) error {
		for key, value := range node.Metadata().Labels().Raw() {
			res.Metadata().Labels().Set(key, value)
		}
		res.TypedSpec().Value.KubernetesVersion = cluster.TypedSpec().Value.KubernetesVersion
		return nil
	})
}

func (o *Omni) memberOf(ctx context.Context, clusterMachine *omni.ClusterMachine, node *omni.MachineSetNode) (*member, error) {
	m := &member{id: clusterMachine.Metadata().ID(), clusterMachine: clusterMachine, wanted: node != nil}
	m.set, _ = clusterMachine.Metadata().Labels().Get(omni.LabelMachineSet)
	_, m.controlPlane = clusterMachine.Metadata().Labels().Get(omni.LabelControlPlaneRole)
	if node != nil {
		_, m.locked = node.Metadata().Annotations().Get(omni.MachineLocked)
	}
	var err error
	if m.machine, err = known[*omni.Machine](ctx, o.state, omni.NewMachine(m.id)); err != nil {
		return nil, err
	}
	if m.status, err = known[*omni.MachineStatus](ctx, o.state, omni.NewMachineStatus(m.id)); err != nil {
		return nil, err
	}
	if m.config, err = known[*omni.ClusterMachineConfigStatus](ctx, o.state, omni.NewClusterMachineConfigStatus(m.id)); err != nil {
		return nil, err
	}
	if m.identity, err = known[*omni.ClusterMachineIdentity](ctx, o.state, omni.NewClusterMachineIdentity(m.id)); err != nil {
		return nil, err
	}
	snapshot, err := known[*omni.MachineStatusSnapshot](ctx, o.state, omni.NewMachineStatusSnapshot(m.id))
	if err != nil {
		return nil, err
	}
	if snapshot != nil {
		m.snapshot = snapshot.TypedSpec().Value.MachineStatus
	}
	forced, err := known[*omni.NodeForceDestroyRequest](ctx, o.state, omni.NewNodeForceDestroyRequest(m.id))
	if err != nil {
		return nil, err
	}
	m.forced = forced != nil
	if m.status != nil {
		m.schematicID = m.status.TypedSpec().Value.GetSchematic().GetFullId()
	}
	return m, nil
}

// known is a resource, or nil.
func known[T resource.Resource](ctx context.Context, in state.State, pointer resource.Resource) (T, error) {
	found, err := safe.StateGet[T](ctx, in, pointer.Metadata())
	if state.IsNotFoundError(err) {
		var none T
		return none, nil
	}
	return found, err
}

// bootstrap begins etcd on the first control plane that runs: anew, or with a backup.
func (o *Omni) bootstrap(ctx context.Context, c *clusterView) error {
	done, err := known[*omni.ClusterBootstrapStatus](ctx, o.state, omni.NewClusterBootstrapStatus(c.name()))
	if err != nil || done != nil && done.TypedSpec().Value.Bootstrapped {
		return err
	}
	first := slices.IndexFunc(c.members, func(m *member) bool {
		return m.controlPlane && m.wanted && m.configured() && m.answers() && !m.status.TypedSpec().Value.Maintenance
	})
	if first < 0 {
		return nil
	}
	m := c.members[first]
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	talos, err := o.reachMember(ctx, c.name(), m.address())
	if err != nil {
		return err
	}
	recovers, err := o.recoverEtcd(ctx, c, talos)
	if err != nil {
		return err
	}
	if err := talos.Bootstrap(ctx, &machineapi.BootstrapRequest{RecoverEtcd: recovers}); err != nil && talosclient.StatusCode(err).String() != "AlreadyExists" {
		return err
	}
	o.log.Info("cluster bootstrapped", "cluster", c.name(), "machine", m.id, "from a backup", recovers)
	return put(ctx, o.state, omni.NewClusterBootstrapStatus(c.name()), func(res *omni.ClusterBootstrapStatus) error {
		res.Metadata().Labels().Set(omni.LabelCluster, c.name())
		res.TypedSpec().Value.Bootstrapped = true
		return nil
	})
}
