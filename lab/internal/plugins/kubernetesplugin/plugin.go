// Package kubernetesplugin stands in for the published pulumi-resource-kubernetes 4.34.2.
//
// Layer: a resource plugin of the Pulumi engine. Any kind of object is served by its token,
// kubernetes:<group>/<version>:<Kind>, with client-go and server-side apply, under the published plugin's rules
// for names, namespaces, previews, replacements and awaits. A Helm release is served through Helm's own SDK.
package kubernetesplugin

import (
	"context"
	"fmt"
	"strings"
	"sync"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"

	"platform.lab/lab/internal/plugins"
)

// Version is that of the published plugin this one stands in for.
const Version = "4.34.2"

// Main serves the plugin until the engine ends it.
func Main(ctx context.Context) error { return plugins.Serve(ctx, "kubernetes", Version, New()) }

// handler serves the resources of some types.
type handler interface {
	check(ctx context.Context, r p.CheckRequest) (p.CheckResponse, error)
	diff(ctx context.Context, r p.DiffRequest) (p.DiffResponse, error)
	create(ctx context.Context, r p.CreateRequest) (p.CreateResponse, error)
	read(ctx context.Context, r p.ReadRequest) (p.ReadResponse, error)
	update(ctx context.Context, r p.UpdateRequest) (p.UpdateResponse, error)
	delete(ctx context.Context, r p.DeleteRequest) error
}

// server holds what Configure found and the handlers of the types.
type server struct {
	mu      sync.Mutex
	cluster *cluster
	charts  *charts

	cancellation *plugins.Cancellation
}

// New returns the plugin, not yet configured.
func New() p.Provider {
	s := &server{charts: newCharts(), cancellation: plugins.NewCancellation()}

	return p.Provider{
		CheckConfig: checkConfig,
		DiffConfig:  diffConfig,
		Configure:   s.configure,
		Cancel:      s.cancellation.Cancel,
		Invoke:      s.invoke,
		Check: func(ctx context.Context, r p.CheckRequest) (p.CheckResponse, error) {
			return serve(ctx, s, r.Urn.Type(), r, handler.check)
		},
		Diff: func(ctx context.Context, r p.DiffRequest) (p.DiffResponse, error) {
			return serve(ctx, s, r.Urn.Type(), r, handler.diff)
		},
		Create: func(ctx context.Context, r p.CreateRequest) (p.CreateResponse, error) {
			return serve(ctx, s, r.Urn.Type(), r, handler.create)
		},
		Read: func(ctx context.Context, r p.ReadRequest) (p.ReadResponse, error) {
			return serve(ctx, s, r.Urn.Type(), r, handler.read)
		},
		Update: func(ctx context.Context, r p.UpdateRequest) (p.UpdateResponse, error) {
			return serve(ctx, s, r.Urn.Type(), r, handler.update)
		},
		Delete: func(ctx context.Context, r p.DeleteRequest) error {
			_, err := serve(ctx, s, r.Urn.Type(), r, func(h handler, ctx context.Context, r p.DeleteRequest) (struct{}, error) {
				return struct{}{}, h.delete(ctx, r)
			})

			return err
		},
	}
}

// serve passes a request to its type's handler; the context ends with the engine's Cancel too.
func serve[Request, Response any](
	ctx context.Context, s *server, token tokens.Type, r Request,
	method func(handler, context.Context, Request) (Response, error),
) (Response, error) {
	h, err := s.handler(token)
	if err != nil {
		var none Response

		return none, err
	}

	ctx, done := s.cancellation.Bind(ctx)
	defer done()

	return method(h, ctx, r)
}

// handler dispatches by type. Types that are more than one object have a handler of their own or are refused by name.
func (s *server) handler(token tokens.Type) (handler, error) {
	var kind objectKind

	if token != releaseToken {
		var err error
		if kind, err = parseToken(token); err != nil {
			return nil, err
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()

	if s.cluster == nil {
		return nil, fmt.Errorf("%s: the kubernetes provider is not configured yet", token)
	}

	if token == releaseToken {
		return releases{cluster: s.cluster, charts: s.charts}, nil
	}

	return objects{cluster: s.cluster, kind: kind}, nil
}

// releaseToken is the type of a Helm release.
const releaseToken = "kubernetes:helm.sh/v3:Release"

// refusedModules are the plugin's modules whose types are no single object.
var refusedModules = []string{"helm.sh/", "yaml", "kustomize", "helm"}

// notServed tells whether a token's module is one of refusedModules.
func notServed(module string) bool {
	for _, refused := range refusedModules {
		if module == refused || strings.HasPrefix(module, strings.TrimSuffix(refused, "/")+"/") {
			return true
		}
	}

	return false
}

func (s *server) invoke(_ context.Context, r p.InvokeRequest) (p.InvokeResponse, error) {
	return p.InvokeResponse{}, fmt.Errorf("function %q is not served by the lab's stand-in of the kubernetes plugin; it serves no functions", r.Token)
}
