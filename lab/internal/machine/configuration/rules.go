package configuration

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/cosi-project/runtime/pkg/state"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configdiff"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/container"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
)

// VMwareMode is how Talos runs on VMware: "cloud", from a disk image that needs no installation.
type VMwareMode struct{}

// String is the mode's name.
func (VMwareMode) String() string { return "cloud" }

// RequiresInstall is false: the disk image holds Talos.
func (VMwareMode) RequiresInstall() bool { return false }

// InContainer is false: it is a virtual machine.
func (VMwareMode) InContainer() bool { return false }

// Check loads and validates a configuration with Talos' own code.
func Check(ctx context.Context, resources state.State, data []byte, maintenance bool) (config.Provider, []string, error) {
	provider, err := configloader.NewFromBytes(data)
	if err != nil {
		return nil, nil, err
	}

	if !maintenance && provider.RawV1Alpha1() == nil {
		return nil, nil, errors.New("the applied machine configuration doesn't contain v1alpha1 config, did you mean to patch the machine config instead?")
	}

	warnings, err := provider.Validate(VMwareMode{})
	if err != nil {
		return nil, nil, err
	}

	runtimeWarnings, err := provider.RuntimeValidate(ctx, resources, VMwareMode{})
	if err != nil {
		return nil, nil, err
	}

	return provider, slices.Concat(warnings, runtimeWarnings), nil
}

// ChooseMode decides how a configuration is applied, and says it in Talos' words.
func (a *Active) ChooseMode(mode machineapi.ApplyConfigurationRequest_Mode, provider config.Provider, maintenance bool) (
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
		immediate = canApplyImmediate(a.Provider(), provider)
	}

	switch mode {
	case machineapi.ApplyConfigurationRequest_TRY, machineapi.ApplyConfigurationRequest_NO_REBOOT:
		return mode, withoutReboot, "", immediate
	case machineapi.ApplyConfigurationRequest_STAGED:
		return mode, staged, "", nil
	case machineapi.ApplyConfigurationRequest_AUTO:
		if immediate != nil {
			return machineapi.ApplyConfigurationRequest_REBOOT, withReboot, ": " + immediate.Error(), nil //nolint:nilerr // the reason to reboot, no failure
		}

		return machineapi.ApplyConfigurationRequest_NO_REBOOT, withoutReboot, "", nil
	case machineapi.ApplyConfigurationRequest_REBOOT:
		return mode, withReboot, "", nil
	default:
		return mode, "", "", fmt.Errorf("incorrect mode '%s' specified for the apply config call", mode)
	}
}

// Difference is what a configuration would change, for people.
func (a *Active) Difference(provider config.Provider) (string, error) {
	var before config.Container
	if current := a.Provider(); current != nil {
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
