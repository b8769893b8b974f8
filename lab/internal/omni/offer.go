package omni

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/blang/semver/v4"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/omni/client/pkg/omni/resources/system"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// shortestBackup and longestBackup bound the interval of backups, in the schedule's hours.
	shortestBackup = time.Hour
	longestBackup  = 24 * time.Hour
	backupTick     = time.Minute
)

// offer writes what this Omni is and which versions it has.
func (o *Omni) offer(ctx context.Context) error {
	err := put(ctx, o.state, system.NewSysVersion(system.SysVersionID), func(res *system.SysVersion) error {
		res.TypedSpec().Value = &specs.SysVersionSpec{
			BackendVersion: "v" + Version, InstanceName: o.options.Name, BackendApiVersion: apiVersion,
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = put(ctx, o.state, omni.NewFeaturesConfig(omni.FeaturesConfigID), func(res *omni.FeaturesConfig) error {
		res.TypedSpec().Value = &specs.FeaturesConfigSpec{
			EtcdBackupSettings: &specs.EtcdBackupSettings{
				TickInterval: durationpb.New(backupTick), MinInterval: durationpb.New(shortestBackup), MaxInterval: durationpb.New(longestBackup),
			},
			Account: &specs.Account{Id: o.options.Name, Name: o.options.Name},
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = put(ctx, o.state, omni.NewEtcdBackupOverallStatus(), func(res *omni.EtcdBackupOverallStatus) error {
		res.TypedSpec().Value = &specs.EtcdBackupOverallStatusSpec{ConfigurationName: "local"}
		return nil
	})
	if err != nil {
		return err
	}
	err = put(ctx, o.state, siderolink.NewAPIConfig(), func(res *siderolink.APIConfig) error {
		res.TypedSpec().Value = &specs.SiderolinkAPIConfigSpec{
			MachineApiAdvertisedUrl: o.options.MachineAPI, EnforceGrpcTunnel: o.options.Tunnel,
			EventsPort: int32(o.options.EventPort), LogsPort: int32(o.options.LogPort), //nolint:gosec // ports
		}
		return nil
	})
	if err != nil {
		return err
	}
	return o.offerVersions(ctx)
}

func (o *Omni) offerVersions(ctx context.Context) error {
	for _, version := range o.options.KubernetesVersions {
		if _, err := semver.Parse(version); err != nil {
			return fmt.Errorf("simulated Omni: KubernetesVersions: %q is not a version such as 1.34.1: %w", version, err)
		}
		err := put(ctx, o.state, omni.NewKubernetesVersion(version), func(res *omni.KubernetesVersion) error {
			res.TypedSpec().Value = &specs.KubernetesVersionSpec{Version: version}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, version := range o.options.TalosVersions {
		if _, err := semver.Parse(version); err != nil {
			return fmt.Errorf("simulated Omni: TalosVersions: %q is not a version such as 1.13.9: %w", version, err)
		}
		err := put(ctx, o.state, omni.NewTalosVersion(version), func(res *omni.TalosVersion) error {
			res.TypedSpec().Value = &specs.TalosVersionSpec{
				Version: version, CompatibleKubernetesVersions: slices.Clone(o.options.KubernetesVersions),
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
