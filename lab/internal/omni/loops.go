package omni

import (
	"context"
	"errors"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/omni/resources"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
)

// again is how soon a loop that failed tries once more.
const again = time.Second

// pollInterval is how often machines are asked how they are.
const pollInterval = 2 * time.Second

// backupPoll is how often it is looked whether a backup is due.
const backupPoll = time.Second

// loop does something whenever resources of some kinds have changed, and each interval at the least.
type loop struct {
	name     string
	kinds    []resource.Type
	interval time.Duration
	do       func(context.Context) error
}

// Run keeps what Omni knows up to date until the context ends.
func (o *Omni) Run(ctx context.Context) error {
	loops := []loop{
		{
			name: "join tokens", interval: time.Second, do: o.showTokens,
			kinds: []resource.Type{siderolink.JoinTokenType, siderolink.DefaultJoinTokenType, siderolink.JoinTokenUsageType},
		},
		{name: "pending machines", interval: pollInterval, do: o.adopt},
		{name: "machines", interval: pollInterval, do: o.lookAtMachines, kinds: []resource.Type{siderolink.LinkType}},
		{name: "clusters", interval: pollInterval, do: o.keepClusters, kinds: []resource.Type{
			omni.ClusterType, omni.MachineSetType, omni.MachineSetNodeType, omni.ConfigPatchType, omni.ExtensionsConfigurationType,
			omni.NodeForceDestroyRequestType, omni.MachineStatusType, omni.MachineStatusSnapshotType,
		}},
		{name: "backups", interval: backupPoll, do: o.keepBackups, kinds: []resource.Type{omni.EtcdManualBackupType}},
	}
	var watches []error
	for _, one := range loops {
		changed, err := o.changes(ctx, one.kinds)
		if err != nil {
			watches = append(watches, err)
			continue
		}
		o.tasks.Go(func() { o.repeat(ctx, one, changed) })
	}
	if err := errors.Join(watches...); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// changes has an entry when a resource of one of the kinds has changed since the last one was taken.
func (o *Omni) changes(ctx context.Context, kinds []resource.Type) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	for _, kind := range kinds {
		events := make(chan state.Event)
		if err := o.state.WatchKind(ctx, resource.NewMetadata(resources.DefaultNamespace, kind, "", resource.VersionUndefined), events); err != nil {
			return nil, err
		}
		o.tasks.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-events:
				}
				select {
				case changed <- struct{}{}:
				default: // one waits already
				}
			}
		})
	}
	return changed, nil
}

func (o *Omni) repeat(ctx context.Context, one loop, changed <-chan struct{}) {
	for {
		wait := one.interval
		if err := one.do(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("will be tried again", "loop", one.name, "error", err)
			wait = min(wait, again)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(wait):
		}
	}
}
