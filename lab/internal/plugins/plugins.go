// Package plugins is what the stand-ins for the resource plugins of the Pulumi engine have in common.
package plugins

import (
	"context"
	"maps"
	"slices"
	"sync"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// EngineKeys are put into a provider's inputs by the engine itself.
var EngineKeys = []string{"version", "pluginDownloadURL", "pluginChecksums"}

// Serve answers the engine until it goes away; the port is the first line on stdout. The engine passes its address in the
// process' arguments, which the provider framework reads itself.
func Serve(ctx context.Context, name, version string, provider p.Provider) error {
	return p.RunProvider(ctx, name, version, provider)
}

// Cancellation is the engine's Cancel, which ends every call in flight.
type Cancellation struct {
	once sync.Once
	done chan struct{}
}

// NewCancellation has not been cancelled yet.
func NewCancellation() *Cancellation { return &Cancellation{done: make(chan struct{})} }

// Cancel is the plugin's answer to the engine.
func (c *Cancellation) Cancel(context.Context) error {
	c.once.Do(func() { close(c.done) })

	return nil
}

// Bind is a call's context that ends with the engine's Cancel too.
func (c *Cancellation) Bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)

	go func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()

	return ctx, cancel
}

// Replacing is a change that needs a new resource.
func Replacing(kind p.DiffKind) p.DiffKind {
	return map[p.DiffKind]p.DiffKind{p.Add: p.AddReplace, p.Delete: p.DeleteReplace, p.Update: p.UpdateReplace}[kind]
}

// TextOf returns a string property, or "" when it is absent or unknown.
func TextOf(values property.Map, name string) string {
	if v := values.Get(name); v.IsString() {
		return v.AsString()
	}

	return ""
}

// SortedKeys are the names in a table, in order.
func SortedKeys[K ~string, V any](table map[K]V) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(table)) {
		names = append(names, string(name))
	}

	return names
}
