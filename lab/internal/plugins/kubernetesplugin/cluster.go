package kubernetesplugin

// Layer: the connection to one cluster's API server.

import (
	"context"
	"errors"
	"fmt"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"platform.lab/lab/internal/plugins"
)

// Rate limits of the published plugin's client.
const (
	defaultQPS   = 50
	defaultBurst = 120
)

// cluster is a configured connection. When unreachable is set there is none: previews answer with what they were given.
type cluster struct {
	settings
	client      dynamic.Interface
	config      *rest.Config
	discovery   discovery.CachedDiscoveryInterface
	mapper      meta.ResettableRESTMapper
	version     *version.Info
	unreachable error
}

// connect builds the clients and asks for the server's version once, as the published plugin does in Configure.
func connect(_ context.Context, config property.Map) (*cluster, error) {
	c := &cluster{settings: settingsOf(config)}

	helm, err := helmSettingsOf(config)
	if err != nil {
		return nil, err
	}

	c.helmDriver = helm.Driver

	clientConfig, err := restConfig(config)
	if err != nil {
		c.unreachable = err

		return c, nil //nolint:nilerr // previews must work without a cluster; every other call reports it
	}

	limits, err := clientSettingsOf(config)
	if err != nil {
		return nil, err
	}

	limits.apply(clientConfig)

	api, err := discovery.NewDiscoveryClientForConfig(clientConfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}

	if c.client, err = dynamic.NewForConfig(clientConfig); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}

	c.config = clientConfig
	c.discovery = memory.NewMemCacheClient(api)
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(c.discovery)
	c.version, c.unreachable = api.ServerVersion()

	return c, nil
}

// restConfig takes the kubeconfig of the provider, or the ambient one, with its overrides.
func restConfig(config property.Map) (*rest.Config, error) {
	overrides := &clientcmd.ConfigOverrides{
		CurrentContext: plugins.TextOf(config, "context"),
		Context:        clientcmdapi.Context{Cluster: plugins.TextOf(config, "cluster"), Namespace: plugins.TextOf(config, "namespace")},
	}

	if plugins.TextOf(config, "kubeconfig") == "" {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()

		return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	}

	loaded, err := loadKubeconfig(plugins.TextOf(config, "kubeconfig"))
	if err != nil {
		return nil, err
	}

	return clientcmd.NewDefaultClientConfig(*loaded, overrides).ClientConfig()
}

func (s clientSettings) apply(config *rest.Config) {
	config.QPS, config.Burst = defaultQPS, defaultBurst
	config.WarningHandler = rest.NoWarnings{}

	if s.QPS != nil {
		config.QPS = *s.QPS
	}

	if s.Burst != nil {
		config.Burst = *s.Burst
	}

	if s.Timeout != nil {
		config.Timeout = time.Duration(*s.Timeout) * time.Second
	}
}

// mapping finds a kind at the server. A kind that is missing may have come since discovery was cached.
func (c *cluster) mapping(kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	found, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		found, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}

	return found, err
}

// serves tells whether the cluster is reachable and knows the kind.
func (c *cluster) serves(kind schema.GroupVersionKind) bool {
	if c.unreachable != nil {
		return false
	}

	_, err := c.mapping(kind)

	return err == nil
}

// namespaced tells whether objects of the kind live in namespaces. What nobody can tell is taken to be.
func (c *cluster) namespaced(kind schema.GroupVersionKind) bool {
	if c.unreachable != nil {
		return true
	}

	found, err := c.mapping(kind)

	return err != nil || found.Scope.Name() == meta.RESTScopeNameNamespace
}

// resource returns the client for an object's kind and namespace.
func (c *cluster) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	found, err := c.mapping(object.GroupVersionKind())
	if err != nil {
		return nil, err
	}

	client := c.client.Resource(found.Resource)
	if found.Scope.Name() == meta.RESTScopeNameNamespace {
		return client.Namespace(canonicalNamespace(object.GetNamespace())), nil
	}

	return client, nil
}

// errUnreachable is what every call but a preview answers without a cluster.
func (c *cluster) errUnreachable() error {
	return fmt.Errorf("configured Kubernetes cluster is unreachable: %w", c.unreachable)
}

// readUnreachable answers a refresh without a cluster, as the provider is set to.
func (c *cluster) readUnreachable(ctx context.Context, r p.ReadRequest) (p.ReadResponse, error) {
	p.GetLogger(ctx).Warningf("configured Kubernetes cluster is unreachable: %v", c.unreachable)

	switch {
	case c.deleteUnreachable:
		return p.ReadResponse{}, nil
	case c.skipUpdateUnreachable:
		return p.ReadResponse{ID: r.ID, Properties: r.Properties, Inputs: r.Inputs}, nil
	}

	return p.ReadResponse{}, errors.New("failed to read resource state due to unreachable cluster. If the cluster was deleted, you can " +
		"remove this resource from Pulumi state by rerunning the operation with the PULUMI_K8S_DELETE_UNREACHABLE environment variable set to \"true\"")
}
