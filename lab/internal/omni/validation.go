package omni

import (
	"context"
	"errors"
	"fmt"

	"github.com/blang/semver/v4"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/constants"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
)

// validation tells why a resource is refused; an error is another fault.
type validation func(ctx context.Context, o *Omni, old, made resource.Resource) (reasons []error, err error)

// validations are what Omni checks before it takes a resource from a client.
var validations = map[resource.Type]validation{
	omni.ClusterType:        of(validateCluster),
	omni.MachineSetType:     of(validateMachineSet),
	omni.MachineSetNodeType: of(validateMachineSetNode),
	omni.ConfigPatchType:    of(validateConfigPatch),
}

// of makes a validation of one for a Go type; old is the zero value when the resource is made.
func of[T resource.Resource](check func(ctx context.Context, o *Omni, old, made T) ([]error, error)) validation {
	return func(ctx context.Context, o *Omni, old, made resource.Resource) ([]error, error) {
		typed, is := made.(T)
		if !is {
			return []error{fmt.Errorf("unexpected type %T", made)}, nil
		}
		before, _ := old.(T)
		return check(ctx, o, before, typed)
	}
}

func validateCluster(ctx context.Context, o *Omni, old, made *omni.Cluster) ([]error, error) {
	spec := made.TypedSpec().Value
	check := omni.ClusterValidator{
		ID: made.Metadata().ID(), KubernetesVersion: spec.KubernetesVersion, TalosVersion: spec.TalosVersion,
		EncryptionEnabled: omni.GetEncryptionEnabled(made),
	}
	if err := check.Validate(); err != nil {
		return []error{err}, nil //nolint:nilerr // the client's fault, which it is told
	}
	reasons := backupReasons(spec.BackupConfiguration)
	talos, err := o.talosReasons(ctx, old, made)
	if err != nil {
		return nil, err
	}
	kubernetes, err := o.kubernetesReasons(ctx, old, made)
	if err != nil {
		return nil, err
	}
	reasons = append(append(reasons, talos...), kubernetes...)
	if old != nil && omni.GetEncryptionEnabled(old) != omni.GetEncryptionEnabled(made) {
		reasons = append(reasons, errors.New("disk encryption can only be chosen when the cluster is created"))
	}
	return reasons, nil
}

func backupReasons(backup *specs.EtcdBackupConf) []error {
	if !backup.GetEnabled() {
		return nil
	}
	interval := backup.GetInterval().AsDuration()
	if interval >= shortestBackup && interval <= longestBackup {
		return nil
	}
	return []error{fmt.Errorf("backup interval %s must be between %s and %s", interval, shortestBackup, longestBackup)}
}

// talosReasons: the version is on offer, supported by this Omni, and not older than the cluster's first one.
func (o *Omni) talosReasons(ctx context.Context, old, made *omni.Cluster) ([]error, error) {
	wanted := made.TypedSpec().Value.TalosVersion
	if old != nil && old.TypedSpec().Value.TalosVersion == wanted {
		return nil, nil
	}
	if _, err := o.state.Get(ctx, omni.NewTalosVersion(wanted).Metadata()); state.IsNotFoundError(err) {
		return []error{fmt.Errorf("invalid talos version: %q is not available", wanted)}, nil
	} else if err != nil {
		return nil, err
	}
	version := semver.MustParse(wanted) // the list has nothing else
	latest, err := semver.ParseTolerant(constants.LatestSupportedTalosVersion)
	if err != nil {
		return nil, err
	}
	if version.Major > latest.Major || version.Major == latest.Major && version.Minor > latest.Minor {
		return []error{fmt.Errorf("talos version %q is newer than the latest supported one, %s", wanted, constants.LatestSupportedTalosVersion)}, nil
	}
	first, err := safe.StateGetByID[*omni.ClusterConfigVersion](ctx, o.state, made.Metadata().ID())
	if state.IsNotFoundError(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	begun, err := semver.ParseTolerant(first.TypedSpec().Value.Version)
	if err != nil {
		return nil, err
	}
	if version.LT(begun) {
		return []error{fmt.Errorf("downgrading from initial talos version %q to %q is not supported", begun, wanted)}, nil
	}
	return nil, nil
}

// kubernetesReasons: the version is on offer, and at most one minor version from the present one; back to the one that
// an upgrade came from is always possible.
func (o *Omni) kubernetesReasons(ctx context.Context, old, made *omni.Cluster) ([]error, error) {
	wanted := made.TypedSpec().Value.KubernetesVersion
	if old != nil && old.TypedSpec().Value.KubernetesVersion == wanted {
		return nil, nil
	}
	if _, err := o.state.Get(ctx, omni.NewKubernetesVersion(wanted).Metadata()); state.IsNotFoundError(err) {
		return []error{fmt.Errorf("invalid kubernetes version: %q is not available", wanted)}, nil
	} else if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, nil
	}
	going, err := safe.StateGetByID[*omni.KubernetesUpgradeStatus](ctx, o.state, made.Metadata().ID())
	if err != nil && !state.IsNotFoundError(err) {
		return nil, err
	}
	if going != nil && going.TypedSpec().Value.LastUpgradeVersion == wanted {
		return nil, nil
	}
	from, err := semver.ParseTolerant(old.TypedSpec().Value.KubernetesVersion)
	if err != nil {
		return nil, err
	}
	to := semver.MustParse(wanted) // the list has nothing else
	if from.Major != to.Major || to.Minor < from.Minor || to.Minor > from.Minor+1 {
		return []error{fmt.Errorf("kubernetes version cannot be changed from %q to %q: one minor version at a time", from, to)}, nil
	}
	return nil, nil
}

// clusterOf is the cluster that a resource says it is of; it is nil, with a reason, when there is none.
func (o *Omni) clusterOf(ctx context.Context, made resource.Resource) (*omni.Cluster, []error, error) {
	name, labelled := made.Metadata().Labels().Get(omni.LabelCluster)
	if !labelled {
		return nil, []error{fmt.Errorf("label %q is missing", omni.LabelCluster)}, nil
	}
	cluster, err := safe.StateGetByID[*omni.Cluster](ctx, o.state, name)
	if state.IsNotFoundError(err) {
		return nil, []error{fmt.Errorf("cluster %q does not exist", name)}, nil
	} else if err != nil {
		return nil, nil, err
	}
	if cluster.Metadata().Phase() != resource.PhaseRunning {
		return nil, []error{fmt.Errorf("cluster %q is tearing down", name)}, nil
	}
	return cluster, nil, nil
}

func validateMachineSet(ctx context.Context, o *Omni, old, made *omni.MachineSet) ([]error, error) {
	cluster, reasons, err := o.clusterOf(ctx, made)
	if cluster == nil {
		return reasons, err
	}
	labels := made.Metadata().Labels()
	_, controlPlane := labels.Get(omni.LabelControlPlaneRole)
	_, worker := labels.Get(omni.LabelWorkerRole)
	if controlPlane == worker {
		reasons = append(reasons, errors.New("machine set must have either control plane or worker role label"))
	}
	if id := omni.ControlPlanesResourceID(cluster.Metadata().ID()); controlPlane && made.Metadata().ID() != id {
		reasons = append(reasons, fmt.Errorf("control plane machine set must have ID %q", id))
	}
	if allocation := omni.GetMachineAllocation(made); allocation != nil {
		reasons = append(reasons, fmt.Errorf("machine class with name %q does not exist", allocation.Name))
	}
	bootstrap, err := o.bootstrapReasons(ctx, old, made, controlPlane)
	return append(reasons, bootstrap...), err
}

// bootstrapReasons: a control plane set may begin with a backup of its own cluster, said when it is made.
func (o *Omni) bootstrapReasons(ctx context.Context, old, made *omni.MachineSet, controlPlane bool) ([]error, error) {
	spec := made.TypedSpec().Value.BootstrapSpec
	if old != nil {
		if !old.TypedSpec().Value.BootstrapSpec.EqualVT(spec) {
			return []error{errors.New("bootstrap spec is immutable after creation")}, nil
		}
		return nil, nil
	}
	if spec == nil {
		return nil, nil
	}
	if !controlPlane {
		return []error{errors.New("bootstrap spec is not allowed for worker machine sets")}, nil
	}
	backups, err := safe.StateListAll[*omni.EtcdBackup](ctx, o.state, state.WithLabelQuery(resource.LabelEqual(omni.LabelClusterUUID, spec.ClusterUuid)))
	if err != nil {
		return nil, err
	}
	for backup := range backups.All() {
		if backup.TypedSpec().Value.Snapshot == spec.Snapshot {
			return nil, nil
		}
	}
	return []error{fmt.Errorf("snapshot %q of cluster with UUID %q not found", spec.Snapshot, spec.ClusterUuid)}, nil
}

func validateMachineSetNode(ctx context.Context, o *Omni, old, made *omni.MachineSetNode) ([]error, error) {
	cluster, reasons, err := o.clusterOf(ctx, made)
	if cluster == nil {
		return reasons, err
	}
	labels := made.Metadata().Labels()
	set, _ := labels.Get(omni.LabelMachineSet)
	of, err := safe.StateGetByID[*omni.MachineSet](ctx, o.state, set)
	switch {
	case state.IsNotFoundError(err):
		reasons = append(reasons, fmt.Errorf("machine set %q does not exist", set))
	case err != nil:
		return nil, err
	case of.Metadata().Phase() != resource.PhaseRunning:
		reasons = append(reasons, fmt.Errorf("machine set %q is tearing down", set))
	}
	_, locked := made.Metadata().Annotations().Get(omni.MachineLocked)
	if _, controlPlane := labels.Get(omni.LabelControlPlaneRole); controlPlane && locked {
		reasons = append(reasons, errors.New("locking controlplanes is not allowed"))
	}
	if old != nil {
		return reasons, nil
	}
	machine, err := o.machineReasons(ctx, cluster, made.Metadata().ID())
	return append(reasons, machine...), err
}

// machineReasons: the machine is known, in no cluster, and, where Talos runs from memory and is older than 1.13, of the
// cluster's minor version (omni issues 268 and 1638).
func (o *Omni) machineReasons(ctx context.Context, cluster *omni.Cluster, id string) ([]error, error) {
	status, err := safe.StateGetByID[*omni.MachineStatus](ctx, o.state, id)
	if state.IsNotFoundError(err) {
		return []error{fmt.Errorf("machine with ID %q does not exist", id)}, nil
	} else if err != nil {
		return nil, err
	}
	spec := status.TypedSpec().Value
	at, err := o.placeOf(ctx, id)
	if err != nil {
		return nil, err
	}
	if at.cluster != "" {
		return []error{fmt.Errorf("machine %q is already part of the cluster %q", id, at.cluster)}, nil
	}
	wanted, err := semver.ParseTolerant(cluster.TypedSpec().Value.TalosVersion)
	if err != nil {
		return nil, err
	}
	runs, err := semver.ParseTolerant(spec.TalosVersion)
	if err != nil { // Omni could not read it yet
		return nil, nil //nolint:nilerr // which is no reason against it (omni pull request 187)
	}
	const installsAny = 13
	if omni.GetMachineStatusSystemDisk(status) == "" && wanted.Minor < installsAny && (wanted.Major != runs.Major || wanted.Minor != runs.Minor) {
		return []error{errors.New("machines which are running Talos without installation can be added only to Talos clusters with the same major and minor versions")}, nil
	}
	return nil, nil
}

func validateConfigPatch(_ context.Context, _ *Omni, _, made *omni.ConfigPatch) ([]error, error) {
	patch, err := made.TypedSpec().Value.GetUncompressedData()
	if err != nil {
		return []error{err}, nil
	}
	defer patch.Free()
	if err := omni.ValidateConfigPatch(patch.Data()); err != nil {
		return []error{err}, nil
	}
	return nil, nil
}
