package omni

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
)

// showCluster writes the statuses that `omnictl cluster template status` shows and waits for.
func (o *Omni) showCluster(ctx context.Context, c *clusterView) error {
	reachable := o.kubernetesReady(ctx, c)
	var faults []error
	for _, m := range c.members {
		faults = append(faults, o.showMember(ctx, m))
	}
	ready := len(c.sets) > 0
	var total, healthy, connected int
	phase := specs.ClusterStatusSpec_RUNNING
	controlPlaneReady := false
	for _, set := range c.sets {
		shown := setStatus(c, set)
		faults = append(faults, o.showSet(ctx, c, set, shown))
		ready = ready && shown.Ready && shown.Phase == specs.MachineSetPhase_Running
		total += int(shown.Machines.Total)
		healthy += int(shown.Machines.Healthy)
		connected += int(shown.Machines.Connected)
		switch {
		case shown.Phase == specs.MachineSetPhase_ScalingUp && phase == specs.ClusterStatusSpec_RUNNING:
			phase = specs.ClusterStatusSpec_SCALING_UP
		case shown.Phase == specs.MachineSetPhase_ScalingDown || shown.Phase == specs.MachineSetPhase_Destroying:
			phase = specs.ClusterStatusSpec_SCALING_DOWN
		}
		if set.Metadata().ID() == omni.ControlPlanesResourceID(c.name()) {
			controlPlaneReady = shown.Ready
		}
	}
	if c.ending() {
		phase = specs.ClusterStatusSpec_DESTROYING
	}
	speaker := c.speaker()
	faults = append(faults, put(ctx, o.state, omni.NewClusterStatus(c.name()), func(res *omni.ClusterStatus) error {
		res.TypedSpec().Value = &specs.ClusterStatusSpec{
			Available: speaker != nil, Phase: phase, Ready: ready && reachable && !c.ending(), KubernetesAPIReady: reachable, ControlplaneReady: controlPlaneReady,
			HasConnectedControlPlanes: slices.ContainsFunc(c.controlPlanes(), (*member).answers),
			Machines:                  &specs.Machines{Total: uint32(total), Healthy: uint32(healthy), Connected: uint32(connected), Requested: uint32(total)}, //nolint:gosec // counts
			TalosVersion:              c.talosVersion(), KubernetesVersion: c.cluster.TypedSpec().Value.KubernetesVersion,
		}
		return nil
	}), put(ctx, o.state, omni.NewLoadBalancerStatus(c.name()), func(res *omni.LoadBalancerStatus) error {
		res.Metadata().Labels().Set(omni.LabelCluster, c.name())
		res.TypedSpec().Value = &specs.LoadBalancerStatusSpec{Healthy: reachable}
		return nil
	}))
	if !c.ending() {
		faults = append(faults, o.showUpgrades(ctx, c))
	}
	return errors.Join(faults...)
}

// stage is where a member is, in Omni's words.
func (m *member) stage() specs.ClusterMachineStatusSpec_Stage {
	mark, _ := m.clusterMachine.Metadata().Annotations().Get(removalMark)
	switch {
	case mark == markReset:
		return specs.ClusterMachineStatusSpec_DESTROYING
	case !m.wanted:
		return specs.ClusterMachineStatusSpec_BEFORE_DESTROY
	case !m.configured():
		return specs.ClusterMachineStatusSpec_CONFIGURING
	}
	switch m.snapshot.GetStage() {
	case machineapi.MachineStatusEvent_BOOTING:
		return specs.ClusterMachineStatusSpec_BOOTING
	case machineapi.MachineStatusEvent_INSTALLING:
		return specs.ClusterMachineStatusSpec_INSTALLING
	case machineapi.MachineStatusEvent_MAINTENANCE:
		return specs.ClusterMachineStatusSpec_CONFIGURING
	case machineapi.MachineStatusEvent_RUNNING:
		return specs.ClusterMachineStatusSpec_RUNNING
	case machineapi.MachineStatusEvent_REBOOTING:
		return specs.ClusterMachineStatusSpec_REBOOTING
	case machineapi.MachineStatusEvent_SHUTTING_DOWN:
		return specs.ClusterMachineStatusSpec_SHUTTING_DOWN
	case machineapi.MachineStatusEvent_UPGRADING:
		return specs.ClusterMachineStatusSpec_UPGRADING
	case machineapi.MachineStatusEvent_RESETTING:
		return specs.ClusterMachineStatusSpec_DESTROYING
	default:
		return specs.ClusterMachineStatusSpec_UNKNOWN
	}
}

func (o *Omni) showMember(ctx context.Context, m *member) error {
	return put(ctx, o.state, omni.NewClusterMachineStatus(m.id), func(res *omni.ClusterMachineStatus) error {
		for key, value := range m.clusterMachine.Metadata().Labels().Raw() {
			res.Metadata().Labels().Set(key, value)
		}
		setLabel(res, omni.MachineStatusLabelConnected, "", m.answers())
		name := m.hostname()
		setLabel(res, omni.ClusterMachineStatusLabelNodeName, name, name != "")
		setLabel(res, omni.UpdateLocked, "", m.locked && m.outdated)
		if m.locked {
			res.Metadata().Annotations().Set(omni.MachineLocked, "")
		} else {
			res.Metadata().Annotations().Delete(omni.MachineLocked)
		}
		spec := &specs.ClusterMachineStatusSpec{
			Ready: m.ready(), Stage: m.stage(), ConfigUpToDate: m.configured() && !m.outdated, IsRemoved: m.machine == nil,
			ConfigApplyStatus: specs.ConfigApplyStatus_PENDING,
		}
		if m.machine != nil {
			spec.ManagementAddress = m.address()
		}
		if m.config != nil {
			spec.LastConfigError = m.config.TypedSpec().Value.LastConfigError
		}
		switch {
		case spec.LastConfigError != "":
			spec.ConfigApplyStatus = specs.ConfigApplyStatus_FAILED
		case spec.ConfigUpToDate:
			spec.ConfigApplyStatus = specs.ConfigApplyStatus_APPLIED
		}
		res.TypedSpec().Value = spec
		return nil
	})
}

func setStatus(c *clusterView, set *omni.MachineSet) *specs.MachineSetStatusSpec {
	shown := &specs.MachineSetStatusSpec{Machines: &specs.Machines{}, Phase: specs.MachineSetPhase_Running}
	up, down, change, upgrade := false, false, false, false
	for _, m := range c.of(set.Metadata().ID()) {
		shown.Machines.Total++
		if m.ready() && m.wanted {
			shown.Machines.Healthy++
		}
		if m.answers() {
			shown.Machines.Connected++
		}
		if m.locked && m.outdated {
			shown.LockedUpdates++
		}
		down = down || !m.wanted
		up = up || m.wanted && m.stage() == specs.ClusterMachineStatusSpec_CONFIGURING
		change = change || m.wanted && m.configured() && m.outdated && !m.locked
		upgrade = upgrade || m.wanted && m.configured() && m.status != nil && m.hasOtherTalos(c)
	}
	shown.Machines.Requested = shown.Machines.Total
	switch {
	case set.Metadata().Phase() != resource.PhaseRunning:
		shown.Phase = specs.MachineSetPhase_Destroying
	case down:
		shown.Phase = specs.MachineSetPhase_ScalingDown
	case up:
		shown.Phase = specs.MachineSetPhase_ScalingUp
	case upgrade:
		shown.Phase = specs.MachineSetPhase_Upgrading
	case change:
		shown.Phase = specs.MachineSetPhase_Reconfiguring
	}
	_, controlPlane := set.Metadata().Labels().Get(omni.LabelControlPlaneRole)
	shown.Ready = shown.Machines.Healthy == shown.Machines.Total
	if controlPlane {
		shown.Ready = shown.Ready && shown.Machines.Total > 0 && isWell(controlPlaneStatus(c))
	}
	return shown
}

func (o *Omni) showSet(ctx context.Context, c *clusterView, set *omni.MachineSet, shown *specs.MachineSetStatusSpec) error {
	labels := func(res resource.Resource) {
		for key, value := range set.Metadata().Labels().Raw() {
			res.Metadata().Labels().Set(key, value)
		}
	}
	err := put(ctx, o.state, omni.NewMachineSetStatus(set.Metadata().ID()), func(res *omni.MachineSetStatus) error {
		labels(res)
		res.TypedSpec().Value = shown
		return nil
	})
	if _, controlPlane := set.Metadata().Labels().Get(omni.LabelControlPlaneRole); err != nil || !controlPlane {
		return err
	}
	return put(ctx, o.state, omni.NewControlPlaneStatus(set.Metadata().ID()), func(res *omni.ControlPlaneStatus) error {
		labels(res)
		res.TypedSpec().Value = controlPlaneStatus(c)
		return nil
	})
}

// controlPlaneStatus: etcd is well when each control plane is a member of it, WireGuard when each is connected.
func controlPlaneStatus(c *clusterView) *specs.ControlPlaneStatusSpec {
	etcd := &specs.ControlPlaneStatusSpec_Condition{Type: specs.ConditionType_Etcd, Status: specs.ControlPlaneStatusSpec_Condition_Ready}
	wireguard := &specs.ControlPlaneStatusSpec_Condition{Type: specs.ConditionType_WireguardConnection, Status: specs.ControlPlaneStatusSpec_Condition_Ready}
	var outside, away []string
	for _, m := range c.controlPlanes() {
		if m.identity == nil || m.identity.TypedSpec().Value.EtcdMemberId == 0 {
			outside = append(outside, m.id)
		}
		if !m.answers() {
			away = append(away, m.id)
		}
	}
	if len(outside) > 0 {
		etcd.Status, etcd.Severity = specs.ControlPlaneStatusSpec_Condition_NotReady, specs.ControlPlaneStatusSpec_Condition_Error
		etcd.Reason = "not a member of etcd: " + strings.Join(outside, ", ")
	}
	if len(away) > 0 {
		wireguard.Status, wireguard.Severity = specs.ControlPlaneStatusSpec_Condition_NotReady, specs.ControlPlaneStatusSpec_Condition_Error
		wireguard.Reason = "not connected: " + strings.Join(away, ", ")
	}
	return &specs.ControlPlaneStatusSpec{Conditions: []*specs.ControlPlaneStatusSpec_Condition{etcd, wireguard}}
}

func isWell(shown *specs.ControlPlaneStatusSpec) bool {
	return !slices.ContainsFunc(shown.Conditions, func(condition *specs.ControlPlaneStatusSpec_Condition) bool {
		return condition.Status != specs.ControlPlaneStatusSpec_Condition_Ready
	})
}

// showUpgrades writes how far the versions are.
func (o *Omni) showUpgrades(ctx context.Context, c *clusterView) error {
	wanted := c.cluster.TypedSpec().Value.KubernetesVersion
	talos, kubernetes := 0, 0
	for _, m := range c.members {
		if !m.wanted || !m.configured() {
			continue
		}
		if m.status != nil && m.hasOtherTalos(c) {
			talos++
		}
		if m.clusterMachine.TypedSpec().Value.KubernetesVersion != wanted || m.outdated {
			kubernetes++
		}
	}
	err := put(ctx, o.state, omni.NewTalosUpgradeStatus(c.name()), func(res *omni.TalosUpgradeStatus) error {
		res.Metadata().Labels().Set(omni.LabelCluster, c.name())
		spec := res.TypedSpec().Value
		spec.Phase, spec.CurrentUpgradeVersion, spec.Step = specs.TalosUpgradeStatusSpec_Done, "", ""
		if talos > 0 {
			spec.Phase, spec.CurrentUpgradeVersion = specs.TalosUpgradeStatusSpec_Upgrading, c.talosVersion()
		} else {
			spec.LastUpgradeVersion = c.talosVersion()
		}
		return nil
	})
	return errors.Join(err, put(ctx, o.state, omni.NewKubernetesUpgradeStatus(c.name()), func(res *omni.KubernetesUpgradeStatus) error {
		res.Metadata().Labels().Set(omni.LabelCluster, c.name())
		spec := res.TypedSpec().Value
		moving := kubernetes > 0 && spec.LastUpgradeVersion != "" && spec.LastUpgradeVersion != wanted
		spec.Phase, spec.CurrentUpgradeVersion = specs.KubernetesUpgradeStatusSpec_Done, ""
		if moving {
			spec.Phase, spec.CurrentUpgradeVersion = specs.KubernetesUpgradeStatusSpec_Upgrading, wanted
		} else {
			spec.LastUpgradeVersion = wanted
		}
		return nil
	}))
}
