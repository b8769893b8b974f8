package talosplugin

// Layer: the provider resource's own configuration.

import (
	"context"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"platform.lab/lab/internal/plugins"
)

// Defaults of the published plugin, which was built with Talos machinery 1.13.0. They are written out because
// those of the machinery that this stand-in is built with differ.
const (
	defaultImageFactoryURL   = "https://factory.talos.dev"
	defaultTalosVersion      = "v1.13"
	defaultKubernetesVersion = "1.36.0"
	defaultInstallerImage    = "ghcr.io/siderolabs/installer:v1.13.0"
)

// config is what the provider resource was configured with.
type config struct {
	imageFactoryURL string
}

var configSchema = schema{"imageFactoryUrl": {kind: text}}

func checkConfig(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	return p.CheckResponse{Inputs: r.Inputs, Failures: configSchema.check(r.Inputs.Delete(plugins.EngineKeys...))}, nil
}

// diffConfig never replaces: no attribute of the provider asks for it.
func diffConfig(_ context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	changes := map[string]p.PropertyDiff{}

	for name := range configSchema {
		compare(name, unmarked(r.State).Get(name), unmarked(r.Inputs).Get(name), changes)
	}

	return p.DiffResponse{HasChanges: len(changes) > 0, DetailedDiff: changes}, nil
}

func (c *config) configure(_ context.Context, r p.ConfigureRequest) error {
	if url := plugins.TextOf(r.Args, "imageFactoryUrl"); url != "" {
		c.imageFactoryURL = strings.TrimRight(url, "/")
	}

	return nil
}

// withID adds the outputs' own copy of the resource's id.
func withID(outputs property.Map, id string) property.Map {
	return outputs.Set("id", property.New(id))
}
