package talosapi

import (
	"context"
	"fmt"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/machine/configuration"
)

// applyConfiguration follows Talos 1.13.9's Server.ApplyConfiguration: same checks, modes and messages.
func (b *Machine) applyConfiguration(ctx context.Context, in *machineapi.ApplyConfigurationRequest, roles role.Set) (*machineapi.ApplyConfiguration, error) {
	if !b.applying.TryLock() {
		return nil, status.Error(codes.FailedPrecondition, "another apply configuration is already in progress")
	}
	defer b.applying.Unlock()

	if b.System.IsRebooting() {
		return nil, status.Error(codes.FailedPrecondition,
			"configuration was already applied and node is rebooting, cannot apply more configuration changes until next reboot")
	}

	maintenance := b.InMaintenance()
	if !maintenance && !roles.Includes(role.Admin) {
		return nil, errNotAuthorized
	}

	if in.Mode != machineapi.ApplyConfigurationRequest_TRY {
		b.cancelRollback()
	}

	provider, warnings, err := configuration.Check(ctx, b.Resources.State, in.Data, maintenance)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}

	mode, details, reason, err := b.ChooseMode(in.Mode, provider, maintenance)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}

	if in.DryRun {
		difference, err := b.Difference(provider)
		if err != nil {
			return nil, fmt.Errorf("failed to generate diff: %w", err)
		}

		return &machineapi.ApplyConfiguration{
			Mode:        mode,
			ModeDetails: fmt.Sprintf("Dry run summary:\n%s (skipped in dry-run).\n%s", details, difference),
		}, nil
	}

	timeout := constants.ConfigTryTimeout
	if in.TryModeTimeout != nil {
		timeout = in.TryModeTimeout.AsDuration()
	}

	if mode == machineapi.ApplyConfigurationRequest_TRY {
		details += fmt.Sprintf("\nThe config is applied in 'try' mode and will be automatically reverted back in %s", timeout)
	}

	b.Log.Info("configuration applied", "mode", mode.String())

	if err := b.commit(mode, provider, timeout); err != nil {
		return nil, err
	}

	return &machineapi.ApplyConfiguration{Mode: mode, Warnings: warnings, ModeDetails: details + reason}, nil
}

// commit persists and activates a configuration as the mode says.
func (b *Machine) commit(mode machineapi.ApplyConfigurationRequest_Mode, provider config.Provider, timeout time.Duration) error {
	if mode == machineapi.ApplyConfigurationRequest_TRY {
		b.rollbackAfter(timeout)
		b.System.Activate(provider)

		return nil
	}

	if err := b.Disk.SaveConfig(provider); err != nil {
		return err
	}

	switch mode {
	case machineapi.ApplyConfigurationRequest_NO_REBOOT:
		// The first configuration ends maintenance mode; let the answer leave first.
		if b.InMaintenance() {
			time.AfterFunc(ReplyTime, func() { b.System.Activate(provider) })
		} else {
			b.System.Activate(provider)
		}
	case machineapi.ApplyConfigurationRequest_REBOOT:
		b.System.Reboot("")
	}

	return nil
}

// rollbackAfter returns to the present configuration when a tried one is not confirmed in time.
func (b *Machine) rollbackAfter(timeout time.Duration) {
	before := b.Provider()

	b.cancelRollback()
	b.mu.Lock()
	defer b.mu.Unlock()

	b.rollback = time.AfterFunc(timeout, func() {
		b.Log.Info("rolling back the configuration")
		b.System.Activate(before)
	})
}

func (b *Machine) cancelRollback() {
	b.mu.Lock()
	defer b.mu.Unlock()

	if b.rollback != nil {
		b.rollback.Stop()
		b.rollback = nil
	}
}
