package talosplugin

// Layer: machine/bootstrap:Bootstrap, which starts etcd on the first control plane.

import (
	"context"
	"fmt"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
)

const bootstrapID = "machine_bootstrap"

type bootstrapResource struct{}

func (bootstrapResource) schema() schema {
	return schema{
		"node":                requiredText,
		"endpoint":            {kind: text},
		"clientConfiguration": clientConfigurationSchema.asOptional(),
		"timeouts":            timeoutSchema("create"),
	}
}

func (bootstrapResource) check(inputs property.Map) []p.CheckFailure {
	if !inputs.Get("clientConfiguration").IsNull() {
		return nil
	}

	return []p.CheckFailure{{Property: "clientConfiguration", Reason: "Missing client configuration: " +
		"Exactly one of client_configuration or client_configuration_wo must be set"}}
}

func (bootstrapResource) plan(_ context.Context, inputs, _ property.Map) (plan, error) {
	return plan{outputs: inputs.Set("endpoint", or(inputs.Get("endpoint"), inputs.Get("node")))}, nil
}

// create repeats the request while etcd is not ready (FailedPrecondition) and, as the provider does, also when
// etcd already runs (AlreadyExists): that one ends only with the timeout. An existing cluster is imported.
func (bootstrapResource) create(ctx context.Context, planned property.Map) (string, property.Map, error) {
	machine, err := targetOf(planned)
	if err != nil {
		return "", property.Map{}, err
	}

	err = machine.retry(ctx, timeoutOf(planned, "create"), func(ctx context.Context, c *client.Client) error {
		return c.Bootstrap(ctx, &machineapi.BootstrapRequest{})
	})
	if err != nil {
		return "", property.Map{}, fmt.Errorf("Error bootstrapping node: %w", err) //nolint:staticcheck // the provider's own words
	}

	return bootstrapID, planned, nil
}

func (bootstrapResource) update(_ context.Context, planned, _ property.Map) (property.Map, error) {
	return planned, nil
}

func (bootstrapResource) delete(context.Context, property.Map) error { return nil }

// adopt takes any id: there is nothing to read.
func (bootstrapResource) adopt(string) (string, property.Map, error) {
	return bootstrapID, property.Map{}, nil
}
