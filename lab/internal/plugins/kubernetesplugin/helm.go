package kubernetesplugin

// Layer: Helm's SDK on the provider's connection.

import (
	"net/http"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"
)

// helmAccess is the connection as Helm's SDK takes it (genericclioptions.RESTClientGetter). All releases share the
// cluster's discovery.
type helmAccess struct {
	*cluster
	// release is the namespace of the release: objects without one go there.
	release string
	// dry makes the server check every write and do none.
	dry bool
}

// ToRESTConfig returns a copy, for Helm changes it.
func (a helmAccess) ToRESTConfig() (*rest.Config, error) {
	config := rest.CopyConfig(a.config)
	if a.dry {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return dryRun{next} })
	}

	return config, nil
}

// ToDiscoveryClient returns the discovery that is asked once and then again after definitions came.
func (a helmAccess) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return a.discovery, nil
}

// ToRESTMapper returns the mapper that asks again for a kind it does not know.
func (a helmAccess) ToRESTMapper() (meta.RESTMapper, error) { return asking{a.mapper, a.cluster}, nil }

// ToRawKubeConfigLoader tells Helm the namespace; the connection itself comes from ToRESTConfig.
func (a helmAccess) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(clientcmdapi.Config{}, &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: a.release}})
}

// asking is the cluster's mapper with cluster.mapping's second try.
type asking struct {
	meta.ResettableRESTMapper
	cluster *cluster
}

// RESTMapping finds a kind in one version.
func (a asking) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	if len(versions) == 1 {
		return a.cluster.mapping(kind.WithVersion(versions[0]))
	}

	return a.ResettableRESTMapper.RESTMapping(kind, versions...)
}

// dryRun asks the server to do nothing of what it is asked.
type dryRun struct{ next http.RoundTripper }

// RoundTrip adds dryRun=All to every write.
func (d dryRun) RoundTrip(request *http.Request) (*http.Response, error) {
	switch request.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		request = request.Clone(request.Context())
		query := request.URL.Query()
		query.Set("dryRun", metav1.DryRunAll)
		request.URL.RawQuery = query.Encode()
	}

	return d.next.RoundTrip(request)
}

// helm prepares an action in a release's namespace. Helm's records lie where the provider's helmReleaseSettings say.
func (c *cluster) helm(namespace string) (*action.Configuration, error) {
	configuration := &action.Configuration{}

	return configuration, configuration.Init(helmAccess{cluster: c, release: namespace}, namespace, c.helmDriver, silent)
}

// dryClient is Helm's client whose writes do nothing.
func (c *cluster) dryClient(namespace string) *kube.Client {
	client := kube.New(helmAccess{cluster: c, release: namespace, dry: true})
	client.Namespace = namespace

	return client
}

// silent is Helm's log: it can hold values, and what matters comes back as an error.
func silent(string, ...any) {}

// capabilities are what templates see of the cluster, with the kinds that the chart's own crds/ will have brought.
func (c *cluster) capabilities(definitions []chart.CRD) (*chartutil.Capabilities, error) {
	versions, err := action.GetVersionSet(c.discovery)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, err
	}

	for _, file := range definitions {
		for _, document := range documents(string(file.File.Data)) {
			var definition apiextensions.CustomResourceDefinition
			if err := yaml.Unmarshal([]byte(document), &definition); err != nil {
				continue
			}

			for _, v := range definition.Spec.Versions {
				group := schema.GroupVersion{Group: definition.Spec.Group, Version: v.Name}.String()
				versions = append(versions, group, path.Join(group, definition.Spec.Names.Kind))
			}
		}
	}

	return &chartutil.Capabilities{
		APIVersions: versions,
		KubeVersion: chartutil.KubeVersion{Version: c.version.GitVersion, Major: c.version.Major, Minor: c.version.Minor},
		HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}, nil
}

// webhookDown tells whether an admission webhook did not answer. What serves it may come earlier in the same run.
func webhookDown(err error) bool {
	return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook")
}
