package machine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configdiff"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/container"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// vmwareMode is how Talos runs on VMware: "cloud", from a disk image that needs no installation.
type vmwareMode struct{}

func (vmwareMode) String() string        { return "cloud" }
func (vmwareMode) RequiresInstall() bool { return false }
func (vmwareMode) InContainer() bool     { return false }

// applyConfiguration follows Talos 1.13.9's Server.ApplyConfiguration: same checks, modes and messages.
func (b *boot) applyConfiguration(ctx context.Context, in *machineapi.ApplyConfigurationRequest, roles role.Set) (*machineapi.ApplyConfiguration, error) {
	if !b.applying.TryLock() {
		return nil, status.Error(codes.FailedPrecondition, "another apply configuration is already in progress")
	}
	defer b.applying.Unlock()

	if b.isRebooting() {
		return nil, status.Error(codes.FailedPrecondition,
			"configuration was already applied and node is rebooting, cannot apply more configuration changes until next reboot")
	}

	maintenance := b.inMaintenance()
	if !maintenance && !roles.Includes(role.Admin) {
		return nil, errNotAuthorized
	}

	if in.Mode != machineapi.ApplyConfigurationRequest_TRY {
		b.cancelRollback()
	}

	provider, warnings, err := b.check(ctx, in.Data, maintenance)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}

	mode, details, reason, err := b.chooseMode(in.Mode, provider, maintenance)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}

	if in.DryRun {
		difference, err := b.difference(provider)
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

// check loads and validates a configuration with Talos' own code.
func (b *boot) check(ctx context.Context, data []byte, maintenance bool) (config.Provider, []string, error) {
	provider, err := configloader.NewFromBytes(data)
	if err != nil {
		return nil, nil, err
	}

	if !maintenance && provider.RawV1Alpha1() == nil {
		return nil, nil, errors.New("the applied machine configuration doesn't contain v1alpha1 config, did you mean to patch the machine config instead?")
	}

	warnings, err := provider.Validate(vmwareMode{})
	if err != nil {
		return nil, nil, err
	}

	runtimeWarnings, err := provider.RuntimeValidate(ctx, b.resources, vmwareMode{})
	if err != nil {
		return nil, nil, err
	}

	return provider, slices.Concat(warnings, runtimeWarnings), nil
}

// chooseMode decides how a configuration is applied, and says it in Talos' words.
func (b *boot) chooseMode(mode machineapi.ApplyConfigurationRequest_Mode, provider config.Provider, maintenance bool) (
	chosen machineapi.ApplyConfigurationRequest_Mode, details, reason string, err error,
) {
	const (
		withReboot    = "Applied configuration with a reboot"
		withoutReboot = "Applied configuration without a reboot"
		staged        = "Staged configuration to be applied after the next reboot"
	)

	if maintenance && mode == machineapi.ApplyConfigurationRequest_REBOOT {
		mode = machineapi.ApplyConfigurationRequest_NO_REBOOT
	}

	var immediate error
	if !maintenance {
		immediate = canApplyImmediate(b.provider(), provider)
	}

	switch mode {
	case machineapi.ApplyConfigurationRequest_TRY, machineapi.ApplyConfigurationRequest_NO_REBOOT:
		return mode, withoutReboot, "", immediate
	case machineapi.ApplyConfigurationRequest_STAGED:
		return mode, staged, "", nil
	case machineapi.ApplyConfigurationRequest_AUTO:
		if immediate != nil {
			return machineapi.ApplyConfigurationRequest_REBOOT, withReboot, ": " + immediate.Error(), nil
		}

		return machineapi.ApplyConfigurationRequest_NO_REBOOT, withoutReboot, "", nil
	case machineapi.ApplyConfigurationRequest_REBOOT:
		return mode, withReboot, "", nil
	default:
		return mode, "", "", fmt.Errorf("incorrect mode '%s' specified for the apply config call", mode)
	}
}

// commit persists and activates a configuration as the mode says.
func (b *boot) commit(mode machineapi.ApplyConfigurationRequest_Mode, provider config.Provider, timeout time.Duration) error {
	if mode == machineapi.ApplyConfigurationRequest_TRY {
		b.rollbackAfter(timeout)
		b.activate(provider)

		return nil
	}

	if err := b.machine.disk.SaveConfig(provider); err != nil {
		return err
	}

	switch mode {
	case machineapi.ApplyConfigurationRequest_NO_REBOOT:
		// The first configuration ends maintenance mode; let the answer leave first.
		if b.inMaintenance() {
			time.AfterFunc(replyTime, func() { b.activate(provider) })
		} else {
			b.activate(provider)
		}
	case machineapi.ApplyConfigurationRequest_REBOOT:
		b.reboot("")
	}

	return nil
}

func (b *boot) isRebooting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.rebooting
}

// rollbackAfter returns to the present configuration when a tried one is not confirmed in time.
func (b *boot) rollbackAfter(timeout time.Duration) {
	before := b.provider()

	b.cancelRollback()
	b.mu.Lock()
	defer b.mu.Unlock()

	b.rollback = time.AfterFunc(timeout, func() {
		b.Log.Info("rolling back the configuration")
		b.activate(before)
	})
}

func (b *boot) cancelRollback() {
	b.mu.Lock()
	defer b.mu.Unlock()

	if b.rollback != nil {
		b.rollback.Stop()
		b.rollback = nil
	}
}

func (b *boot) difference(provider config.Provider) (string, error) {
	var before config.Container
	if current := b.provider(); current != nil {
		before = current
	}

	documents, err := configdiff.DiffConfigs(before, provider)
	if err != nil {
		return "", err
	}

	if documents == "" {
		documents = "No changes."
	}

	return "Config diff:\n\n" + documents, nil
}

// canApplyImmediate says why a new configuration needs a reboot, in Talos' words; nil when it does not.
//
// The rules are those of Talos 1.13.9 (v1alpha1_runtime.go, CanApplyImmediate): the fields taken over here
// from the current configuration may change at run time, and so may every document besides v1alpha1.
func canApplyImmediate(current, next config.Provider) error {
	if current == nil {
		return errors.New("no current config")
	}

	before, after := current.RawV1Alpha1(), next.RawV1Alpha1()
	if before == nil {
		return errors.New("current config is not v1alpha1")
	}

	if after == nil {
		return errors.New("new config is not v1alpha1")
	}

	after = after.DeepCopy()
	after.ConfigDebug = before.ConfigDebug
	after.ClusterConfig = before.ClusterConfig

	if after.MachineConfig != nil && before.MachineConfig != nil {
		takeOverImmediate(after.MachineConfig, before.MachineConfig)
	}

	if reflect.DeepEqual(before, after) {
		return nil
	}

	difference, err := configdiff.DiffConfigs(container.NewV1Alpha1(before), container.NewV1Alpha1(after))
	if err != nil {
		return fmt.Errorf("error calculating diff: %w", err)
	}

	return fmt.Errorf("this config change can't be applied in immediate mode\ndiff:\n%s", difference)
}

// takeOverImmediate copies all fields of .machine that may change without a reboot.
func takeOverImmediate(to, from *v1alpha1.MachineConfig) {
	to.MachineCA = from.MachineCA
	to.MachineAcceptedCAs = from.MachineAcceptedCAs
	to.MachineTime = from.MachineTime //nolint:staticcheck // old configurations still have it
	to.MachineCertSANs = from.MachineCertSANs
	to.MachineInstall = from.MachineInstall
	to.MachineNetwork = from.MachineNetwork //nolint:staticcheck // old configurations still have it
	to.MachineSysfs = from.MachineSysfs
	to.MachineSysctls = from.MachineSysctls
	to.MachineLogging = from.MachineLogging
	to.MachineControlPlane = from.MachineControlPlane
	to.MachineKubelet = from.MachineKubelet
	to.MachineKernel = from.MachineKernel
	to.MachineRegistries = from.MachineRegistries //nolint:staticcheck // old configurations still have it
	to.MachinePods = from.MachinePods
	to.MachineSeccompProfiles = from.MachineSeccompProfiles
	to.MachineNodeAnnotations = from.MachineNodeAnnotations
	to.MachineNodeLabels = from.MachineNodeLabels
	to.MachineNodeTaints = from.MachineNodeTaints

	if to.MachineFeatures != nil && from.MachineFeatures != nil {
		to.MachineFeatures.KubernetesTalosAPIAccessConfig = from.MachineFeatures.KubernetesTalosAPIAccessConfig
		to.MachineFeatures.KubePrismSupport = from.MachineFeatures.KubePrismSupport
		to.MachineFeatures.HostDNSSupport = from.MachineFeatures.HostDNSSupport
		to.MachineFeatures.ImageCacheSupport = from.MachineFeatures.ImageCacheSupport
		to.MachineFeatures.FeatureNodeAddressSortAlgorithm = from.MachineFeatures.FeatureNodeAddressSortAlgorithm
	}
}
