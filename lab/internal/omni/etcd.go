package omni

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
)

// speaker is a control plane that is asked for etcd; nil is none.
func (c *clusterView) speaker() *member {
	for _, m := range c.controlPlanes() {
		if m.wanted && m.running() {
			return m
		}
	}
	return nil
}

// auditEtcd remembers which member of etcd each control plane is, and takes out of etcd the members whose machines were
// removed.
func (o *Omni) auditEtcd(ctx context.Context, c *clusterView) error {
	speaker := c.speaker()
	booted, err := known[*omni.ClusterBootstrapStatus](ctx, o.state, omni.NewClusterBootstrapStatus(c.name()))
	if err != nil || speaker == nil || booted == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	talos, err := o.reachMember(ctx, c.name(), speaker.address())
	if err != nil {
		return err
	}
	answer, err := talos.EtcdMemberList(ctx, &machineapi.EtcdMemberListRequest{})
	if isUntold(err) || client.StatusCode(err).String() == "FailedPrecondition" || client.StatusCode(err).String() == "Unknown" {
		return nil // etcd does not run there yet
	} else if err != nil {
		return err
	}
	var faults []error
	for _, message := range answer.GetMessages() {
		for _, one := range message.GetMembers() {
			faults = append(faults, o.auditMember(ctx, c, talos, one))
		}
	}
	return errors.Join(faults...)
}

// auditMember: a member of etcd is one of a machine of the cluster by its host name, else it is removed.
func (o *Omni) auditMember(ctx context.Context, c *clusterView, talos *client.Client, one *machineapi.EtcdMember) error {
	if one.GetHostname() == "" {
		return nil // it has been added, and its machine does not run etcd yet
	}
	at := slices.IndexFunc(c.members, func(m *member) bool {
		return m.controlPlane && m.hostname() == one.GetHostname()
	})
	if at >= 0 {
		m := c.members[at]
		if m.identity != nil && m.identity.TypedSpec().Value.EtcdMemberId == one.GetId() {
			return nil
		}
		return put(ctx, o.state, omni.NewClusterMachineIdentity(m.id), func(res *omni.ClusterMachineIdentity) error {
			res.Metadata().Labels().Set(omni.LabelCluster, c.name())
			res.TypedSpec().Value.EtcdMemberId, res.TypedSpec().Value.Nodename = one.GetId(), m.hostname()
			return nil
		})
	}
	for _, m := range c.controlPlanes() { // a machine that has not told its name may be the one
		if m.hostname() == "" || !m.answers() {
			return nil
		}
	}
	o.log.Info("etcd member removed: no machine of the cluster is it", "cluster", c.name(), "member", one.GetHostname())
	return talos.EtcdRemoveMemberByID(ctx, &machineapi.EtcdRemoveMemberByIDRequest{MemberId: one.GetId()})
}

// rememberNames keeps the Nodes' names of machines that run: one that is gone for good tells its own no more.
func (o *Omni) rememberNames(ctx context.Context, c *clusterView) error {
	var faults []error
	for _, m := range c.members {
		if !m.running() || m.hostname() == "" || m.identity != nil {
			continue
		}
		faults = append(faults, put(ctx, o.state, omni.NewClusterMachineIdentity(m.id), func(res *omni.ClusterMachineIdentity) error {
			res.Metadata().Labels().Set(omni.LabelCluster, c.name())
			res.TypedSpec().Value.Nodename = m.hostname()
			return nil
		}))
	}
	return errors.Join(faults...)
}

// hostname is the machine's name as it told it last.
func (m *member) hostname() string {
	if m.identity != nil && m.identity.TypedSpec().Value.Nodename != "" {
		return m.identity.TypedSpec().Value.Nodename
	}
	if m.status == nil {
		return ""
	}
	return m.status.TypedSpec().Value.GetNetwork().GetHostname()
}

// recoverEtcd sends the snapshot that a control plane set is to begin with; false: it begins anew.
func (o *Omni) recoverEtcd(ctx context.Context, c *clusterView, talos *client.Client) (bool, error) {
	set, err := known[*omni.MachineSet](ctx, o.state, omni.NewMachineSet(omni.ControlPlanesResourceID(c.name())))
	if err != nil || set == nil || set.TypedSpec().Value.BootstrapSpec == nil {
		return false, err
	}
	wanted := set.TypedSpec().Value.BootstrapSpec
	snapshot, err := o.snapshots.read(wanted.ClusterUuid, wanted.Snapshot)
	if err != nil {
		return false, err
	}
	_, err = talos.EtcdRecover(ctx, bytes.NewReader(snapshot))
	return err == nil, err
}

// snapshot takes etcd's data from a control plane.
func (o *Omni) snapshot(ctx context.Context, c *clusterView) ([]byte, error) {
	speaker := c.speaker()
	if speaker == nil {
		return nil, errors.New("no control plane is running")
	}
	talos, err := o.reachMember(ctx, c.name(), speaker.address())
	if err != nil {
		return nil, err
	}
	data, err := talos.EtcdSnapshot(ctx, &machineapi.EtcdSnapshotRequest{})
	if err != nil {
		return nil, err
	}
	defer data.Close()
	return io.ReadAll(data)
}

// forgetBackups: with the cluster go the key and the UUID of its backups (client, backup_data.go), so that nothing can be
// restored from them.
func (o *Omni) forgetBackups(ctx context.Context, cluster string) error {
	backups, err := safe.StateListAll[*omni.EtcdBackup](ctx, o.state, state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, cluster)))
	if err != nil {
		return err
	}
	var faults []error
	for backup := range backups.All() {
		faults = append(faults, remove(ctx, o.state, backup.Metadata()))
	}
	return errors.Join(faults...)
}
