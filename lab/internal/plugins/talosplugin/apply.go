package talosplugin

// Layer: machine/configurationApply:ConfigurationApply, which sends a machine its configuration.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"

	"platform.lab/lab/internal/plugins"
)

const (
	applyID = "machine_configuration_apply"

	modeAuto            = "auto"
	modeStaged          = "staged"
	modeStagedForReboot = "staged_if_needing_reboot"
)

type applyResource struct{}

func (applyResource) schema() schema {
	return schema{
		"applyMode":                 {kind: text, oneOf: []string{modeAuto, "reboot", "no_reboot", modeStaged, modeStagedForReboot}},
		"node":                      requiredText,
		"endpoint":                  {kind: text},
		"clientConfiguration":       clientConfigurationSchema.asOptional(),
		"machineConfigurationInput": {kind: text, secret: true},
		"configPatches":             {kind: texts},
		"onDestroy":                 {kind: object, fields: schema{"reset": {kind: flag}, "graceful": {kind: flag}, "reboot": {kind: flag}}},
		"timeouts":                  timeoutSchema("create", "update", "delete"),
		"machineConfiguration":      {kind: text, computed: true, secret: true},
		"machineConfigurationHash":  {kind: text, computed: true},
		"resolvedApplyMode":         {kind: text, computed: true},
	}
}

// check wants what the provider wants outside its schema. The write-only variants of the two are refused by
// the schema: nothing in the lab uses them.
func (applyResource) check(inputs property.Map) []p.CheckFailure {
	var failures []p.CheckFailure

	if inputs.Get("machineConfigurationInput").IsNull() {
		failures = append(failures, p.CheckFailure{Property: "machineConfigurationInput", Reason: "Missing machine configuration input: " +
			"Exactly one of machine_configuration_input or machine_configuration_input_wo must be set"})
	}

	if inputs.Get("clientConfiguration").IsNull() {
		failures = append(failures, p.CheckFailure{Property: "clientConfiguration", Reason: "Missing client configuration: " +
			"Exactly one of client_configuration or client_configuration_wo must be set"})
	}

	return failures
}

func (r applyResource) plan(ctx context.Context, inputs, state property.Map) (plan, error) {
	outputs := inputs.
		Set("applyMode", or(inputs.Get("applyMode"), property.New(modeAuto))).
		Set("endpoint", or(inputs.Get("endpoint"), inputs.Get("node"))).
		Set("machineConfiguration", or(state.Get("machineConfiguration"), unknown())).
		Set("machineConfigurationHash", or(state.Get("machineConfigurationHash"), unknown())).
		Set("resolvedApplyMode", unknown())

	if destroy := inputs.Get("onDestroy"); destroy.IsMap() {
		outputs = outputs.Set("onDestroy", withDestroyDefaults(destroy.AsMap()))
	}

	known := inputs.Get("node").IsString() && !inputs.Get("endpoint").IsComputed() &&
		inputs.Get("machineConfigurationInput").IsString() && !inputs.Get("configPatches").HasComputed()
	if !known {
		return plan{outputs: outputs}, nil
	}

	configuration, err := patched(plugins.TextOf(inputs, "machineConfigurationInput"), textsOf(inputs, "configPatches"))
	if err != nil {
		return plan{}, err
	}

	digest := sha256.Sum256([]byte(configuration))
	outputs = outputs.
		Set("machineConfiguration", property.New(configuration)).
		Set("machineConfigurationHash", property.New(hex.EncodeToString(digest[:])))

	return plan{outputs: outputs.Set("resolvedApplyMode", resolvedMode(ctx, outputs, state))}, nil
}

func withDestroyDefaults(destroy property.Map) property.Value {
	return property.New(map[string]property.Value{
		"reset":    or(destroy.Get("reset"), property.New(false)),
		"graceful": or(destroy.Get("graceful"), property.New(true)),
		"reboot":   or(destroy.Get("reboot"), property.New(false)),
	})
}

// patched applies patches to a configuration. An unknown key fails here, an invalid value only at the machine.
func patched(configuration string, patches []string) (string, error) {
	loaded, err := configpatcher.LoadPatches(patches)
	if err != nil {
		return "", fmt.Errorf("Error loading config patches: %w", err) //nolint:staticcheck // the provider's own words
	}

	result, err := configpatcher.Apply(configpatcher.WithBytes([]byte(configuration)), loaded)
	if err != nil {
		return "", fmt.Errorf("Error applying config patches: %w", err) //nolint:staticcheck // the provider's own words
	}

	rendered, err := result.Bytes()
	if err != nil {
		return "", fmt.Errorf("Error converting config to bytes: %w", err) //nolint:staticcheck // the provider's own words
	}

	return string(rendered), nil
}

// resolvedMode is the mode that the configuration will be applied in. staged_if_needing_reboot asks the machine
// by a dry run; a machine that cannot be asked gives a warning and auto, which may reboot.
func resolvedMode(ctx context.Context, outputs, state property.Map) property.Value {
	mode := outputs.Get("applyMode")
	if plugins.TextOf(outputs, "applyMode") != modeStagedForReboot {
		return mode
	}

	resolved := state.Get("resolvedApplyMode")
	if resolved.IsString() && state.Get("machineConfiguration").Equals(outputs.Get("machineConfiguration")) {
		return resolved
	}

	if outputs.Get("clientConfiguration").HasComputed() {
		return property.New(modeAuto)
	}

	reboots, err := rebootNeeded(ctx, outputs)
	node := plugins.TextOf(outputs, "node")

	switch {
	case err != nil:
		p.GetLogger(ctx).Warningf("Cannot check reboot requirement: Node %s: %v. Using 'auto' mode (may reboot).", node, err)
	case reboots:
		p.GetLogger(ctx).Warningf("Reboot prevented - using staged mode: Node %s: Configuration requires reboot. "+
			"Using 'staged' mode. Manually reboot with: talosctl reboot --nodes %s", node, node)

		return property.New(modeStaged)
	}

	return property.New(modeAuto)
}

func rebootNeeded(ctx context.Context, outputs property.Map) (bool, error) {
	machine, err := targetOf(outputs)
	if err != nil {
		return false, err
	}

	var reboots bool

	err = machine.do(ctx, func(ctx context.Context, c *client.Client) error {
		response, err := c.ApplyConfiguration(ctx, &machineapi.ApplyConfigurationRequest{
			Data:   []byte(plugins.TextOf(outputs, "machineConfiguration")),
			Mode:   machineapi.ApplyConfigurationRequest_AUTO,
			DryRun: true,
		})
		if err == nil && len(response.GetMessages()) > 0 {
			reboots = response.GetMessages()[0].GetMode() == machineapi.ApplyConfigurationRequest_REBOOT
		}

		return err
	})

	return reboots, err
}

func (r applyResource) create(ctx context.Context, planned property.Map) (string, property.Map, error) {
	return applyID, planned, apply(ctx, planned, "create")
}

// update sends the configuration again, whatever changed.
func (r applyResource) update(ctx context.Context, planned, _ property.Map) (property.Map, error) {
	return planned, apply(ctx, planned, "update")
}

func apply(ctx context.Context, planned property.Map, operation string) error {
	machine, err := targetOf(planned)
	if err != nil {
		return err
	}

	mode := machineapi.ApplyConfigurationRequest_Mode_value[strings.ToUpper(plugins.TextOf(planned, "resolvedApplyMode"))]

	err = machine.retry(ctx, timeoutOf(planned, operation), func(ctx context.Context, c *client.Client) error {
		_, err := c.ApplyConfiguration(ctx, &machineapi.ApplyConfigurationRequest{
			Data: []byte(plugins.TextOf(planned, "machineConfiguration")),
			Mode: machineapi.ApplyConfigurationRequest_Mode(mode),
		})

		return err
	})
	if err != nil {
		return fmt.Errorf("Error applying configuration: %w", err) //nolint:staticcheck // the provider's own words
	}

	return nil
}

// delete leaves the machine as it is, unless the state asks for a reset.
func (applyResource) delete(ctx context.Context, state property.Map) error {
	destroy := objectOf(state, "onDestroy")
	if !flagOf(destroy, "reset", false) {
		return nil
	}

	machine, err := targetOf(state)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(ctx, timeoutOf(state, "delete"))
	defer cancel()

	if err := machine.reset(ctx, flagOf(destroy, "graceful", true), flagOf(destroy, "reboot", false)); err != nil {
		return fmt.Errorf("Error resetting machine: %w", err) //nolint:staticcheck // the provider's own words
	}

	return nil
}

func (applyResource) adopt(id string) (string, property.Map, error) {
	return "", property.Map{}, errNoImport(id)
}
