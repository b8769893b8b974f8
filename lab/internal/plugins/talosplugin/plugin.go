// Package talosplugin stands in for the published pulumi-resource-talos 0.8.1.
//
// Layer: a resource plugin of the Pulumi engine. It answers to the same tokens, properties, defaults and
// secret marks as the published plugin (which wraps terraform-provider-talos 0.11.0) and does the real work
// with Talos' own machinery, so that either can take the other's place.
package talosplugin

import (
	"context"
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"

	"platform.lab/lab/internal/plugins"
)

// Version is that of the published plugin this one stands in for.
const Version = "0.8.1"

// Main serves the plugin until the engine ends it.
func Main(ctx context.Context) error { return plugins.Serve(ctx, "talos", Version, New()) }

// resources are the resource types served, by token.
func (c *config) resources() map[tokens.Type]resource {
	return map[tokens.Type]resource{
		"talos:machine/secrets:Secrets":                       secretsResource{},
		"talos:machine/configurationApply:ConfigurationApply": applyResource{},
		"talos:machine/bootstrap:Bootstrap":                   bootstrapResource{},
		"talos:cluster/kubeconfig:Kubeconfig":                 kubeconfigResource{},
		"talos:imageFactory/schematic:Schematic":              schematicResource{config: c},
	}
}

// functions are the invokes served, by token.
func (c *config) functions() map[tokens.Type]function {
	return map[tokens.Type]function{
		"talos:machine/getConfiguration:getConfiguration": machineConfigurationFunction,
		"talos:client/getConfiguration:getConfiguration":  clientConfigurationFunction,
		"talos:imageFactory/getUrls:getUrls":              c.urlsFunction(),
	}
}

// New returns the plugin, not yet configured.
func New() p.Provider {
	c := &config{imageFactoryURL: defaultImageFactoryURL}
	s := server{resources: c.resources(), functions: c.functions()}

	return p.Provider{
		CheckConfig: checkConfig,
		DiffConfig:  diffConfig,
		Configure:   c.configure,
		Check:       s.check,
		Diff:        s.diff,
		Create:      s.create,
		Read:        s.read,
		Update:      s.update,
		Delete:      s.delete,
		Invoke:      s.invoke,
		Cancel:      func(context.Context) error { return nil },
	}
}

// server dispatches the engine's requests by token.
type server struct {
	resources map[tokens.Type]resource
	functions map[tokens.Type]function
}

func (s server) resource(token tokens.Type) (resource, error) {
	if r, ok := s.resources[token]; ok {
		return r, nil
	}

	return nil, fmt.Errorf("resource type %q is not served by the lab's stand-in of the talos plugin; it serves %s",
		token, strings.Join(plugins.SortedKeys(s.resources), ", "))
}

func (s server) invoke(ctx context.Context, r p.InvokeRequest) (p.InvokeResponse, error) {
	f, ok := s.functions[r.Token]
	if !ok {
		return p.InvokeResponse{}, fmt.Errorf(
			"function %q is not served by the lab's stand-in of the talos plugin; it serves %s",
			r.Token, strings.Join(plugins.SortedKeys(s.functions), ", "))
	}

	if failures := f.arguments.check(r.Args); len(failures) > 0 {
		return p.InvokeResponse{Failures: failures}, nil
	}

	// The published plugin takes the secret marks off every function's result (pulumi/pulumi#12710);
	// the SDK marks the result secret again when an argument was.
	result, err := f.call(ctx, unmarked(r.Args))

	return p.InvokeResponse{Return: result}, err
}
