package omni

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// snapshotStore keeps etcd's snapshots, by the cluster's UUID and the file's name. Not simulated: their encryption.
type snapshotStore struct {
	// dir is empty of a store in memory.
	dir string

	mu     sync.Mutex
	memory map[string][]byte
}

// snapshotName is the name of a snapshot's file: later ones sort before earlier ones.
func snapshotName(at time.Time) string {
	return fmt.Sprintf("%016X.snapshot", math.MaxUint64-uint64(max(0, at.Unix())))
}

func (s *snapshotStore) write(cluster, name string, data []byte) error {
	if s.dir == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.memory == nil {
			s.memory = map[string][]byte{}
		}
		s.memory[cluster+"/"+name] = data
		return nil
	}
	folder := filepath.Join(s.dir, cluster)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, name), data, 0o600)
}

func (s *snapshotStore) read(cluster, name string) ([]byte, error) {
	if s.dir == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		data, kept := s.memory[cluster+"/"+name]
		if !kept {
			return nil, fmt.Errorf("snapshot %q of cluster with UUID %q not found", name, cluster)
		}
		return data, nil
	}
	return os.ReadFile(filepath.Join(s.dir, filepath.Base(cluster), filepath.Base(name)))
}

// keepBackups takes the backups that are due: an interval after the last one, or when a client asks for one.
func (o *Omni) keepBackups(ctx context.Context) error {
	clusters, err := safe.StateListAll[*omni.Cluster](ctx, o.state)
	if err != nil {
		return err
	}
	var faults []error
	for cluster := range clusters.All() {
		if cluster.Metadata().Phase() == resource.PhaseRunning {
			faults = append(faults, o.keepBackup(ctx, cluster))
		}
	}
	return errors.Join(faults...)
}

func (o *Omni) keepBackup(ctx context.Context, cluster *omni.Cluster) error {
	booted, err := known[*omni.ClusterBootstrapStatus](ctx, o.state, omni.NewClusterBootstrapStatus(cluster.Metadata().ID()))
	if err != nil || booted == nil {
		return err
	}
	before, err := known[*omni.EtcdBackupStatus](ctx, o.state, omni.NewEtcdBackupStatus(cluster.Metadata().ID()))
	if err != nil {
		return err
	}
	asked, err := known[*omni.EtcdManualBackup](ctx, o.state, omni.NewEtcdManualBackup(cluster.Metadata().ID()))
	if err != nil {
		return err
	}
	last, tried := booted.Metadata().Created(), time.Time{}
	if before != nil {
		tried = before.TypedSpec().Value.LastBackupAttempt.AsTime()
		if before.TypedSpec().Value.LastBackupTime != nil {
			last = before.TypedSpec().Value.LastBackupTime.AsTime()
		}
	}
	if !o.backupDue(cluster, asked, last, tried) {
		return nil
	}
	return o.backup(ctx, cluster)
}

// backupDue: the interval is in the schedule's hours; a failed one is tried again after a minute of the schedule.
func (o *Omni) backupDue(cluster *omni.Cluster, asked *omni.EtcdManualBackup, last, tried time.Time) bool {
	scaled := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) / float64(time.Hour) * float64(o.options.Hour))
	}
	if time.Since(tried) < scaled(backupTick) {
		return false
	}
	if asked != nil {
		if at := asked.TypedSpec().Value.BackupAt.AsTime(); at.After(last) && !at.After(time.Now()) {
			return true
		}
	}
	wanted := cluster.TypedSpec().Value.BackupConfiguration
	return wanted.GetEnabled() && time.Since(last) >= scaled(wanted.GetInterval().AsDuration())
}

func (o *Omni) backup(ctx context.Context, cluster *omni.Cluster) error {
	name := cluster.Metadata().ID()
	at := time.Now()
	fault := o.backupAt(ctx, cluster, at)
	return errors.Join(fault, put(ctx, o.state, omni.NewEtcdBackupStatus(name), func(res *omni.EtcdBackupStatus) error {
		res.Metadata().Labels().Set(omni.LabelCluster, name)
		spec := res.TypedSpec().Value
		spec.Status, spec.Error, spec.LastBackupAttempt = specs.EtcdBackupStatusSpec_Ok, "", timestamppb.New(at)
		if fault != nil {
			spec.Status, spec.Error = specs.EtcdBackupStatusSpec_Error, fault.Error()
		} else {
			spec.LastBackupTime = timestamppb.New(at)
		}
		return nil
	}))
}

func (o *Omni) backupAt(ctx context.Context, cluster *omni.Cluster, at time.Time) error {
	view, err := o.view(ctx, cluster)
	if err != nil {
		return err
	}
	data, err := o.snapshot(ctx, view)
	if err != nil {
		return err
	}
	id, err := safe.StateGetByID[*omni.ClusterUUID](ctx, o.state, view.name())
	if err != nil {
		return err
	}
	file := snapshotName(at)
	if err := o.snapshots.write(id.TypedSpec().Value.Uuid, file, data); err != nil {
		return err
	}
	err = put(ctx, o.state, omni.NewEtcdBackup(view.name(), at), func(res *omni.EtcdBackup) error {
		res.Metadata().Labels().Set(omni.LabelCluster, view.name())
		res.Metadata().Labels().Set(omni.LabelClusterUUID, id.TypedSpec().Value.Uuid)
		res.TypedSpec().Value = &specs.EtcdBackupSpec{CreatedAt: timestamppb.New(at), Snapshot: file, Size: uint64(len(data))}
		return nil
	})
	if err == nil {
		o.log.Info("etcd backed up", "cluster", view.name(), "snapshot", file)
	}
	return err
}
