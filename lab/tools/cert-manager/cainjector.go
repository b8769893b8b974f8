package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	_ "github.com/cert-manager/cert-manager/internal/cainjector/feature" // its gates
	cmscheme "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/scheme"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/util"
)

const (
	injectorElection = "cert-manager-cainjector-leader-election"
	// definitionWait is how long the definition of Certificate may be missing.
	definitionWait = 5 * time.Minute
)

// injectorOptions are what the command line says.
type injectorOptions struct {
	namespace string
	election  election
	metrics   string
	gates     map[string]bool
	logging   logsapi.LoggingConfiguration
	// certificates, and for each kind of object, whether it is looked at.
	certificates bool
	kinds        map[string]*bool
}

func (o *injectorOptions) add(set *pflag.FlagSet) {
	logsapi.SetRecommendedLoggingConfiguration(&o.logging)
	logf.AddFlags(&o.logging, set)
	o.election.add(set)

	set.String("config", "", "a configuration file; the lab's build refuses one")
	set.StringVar(&o.namespace, "namespace", "", "the only namespace whose certificates are injected; empty is all")
	set.StringVar(&o.metrics, "metrics-listen-address", metricsAddress, "where metrics are served; 0 is nowhere")
	set.Var(cliflag.NewMapStringBool(&o.gates), "feature-gates", "features that are switched on or off")
	set.BoolVar(&o.certificates, "enable-certificates-data-source", true, "whether a Certificate may be a source")

	o.kinds = map[string]*bool{}
	for flag, kind := range map[string]string{
		"enable-validatingwebhookconfigurations-injectable": cainjector.ValidatingWebhookConfigurationName,
		"enable-mutatingwebhookconfigurations-injectable":   cainjector.MutatingWebhookConfigurationName,
		"enable-customresourcedefinitions-injectable":       cainjector.CustomResourceDefinitionName,
		"enable-apiservices-injectable":                     cainjector.APIServiceName,
	} {
		o.kinds[kind] = set.Bool(flag, true, "whether authorities are written into objects of kind "+kind)
	}
}

// runCAInjector writes the authorities of webhooks and of aggregated APIs where the API server reads them.
func runCAInjector(ctx context.Context, arguments []string) error {
	var options injectorOptions

	set := flags("cainjector")
	options.add(set)

	if err := parse(set, arguments, options.gates, &options.logging); err != nil {
		return err
	}

	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}

	ctrl.SetLogger(logf.FromContext(ctx))

	manager, err := ctrl.NewManager(util.RestConfigWithUserAgent(config, "cainjector"), options.manager())
	if err != nil {
		return fmt.Errorf("the manager: %w", err)
	}

	if options.certificates {
		if err := certificatesServed(ctx, manager); err != nil {
			return fmt.Errorf("the definition of Certificate: %w", err)
		}
	}

	enabled := map[string]bool{}
	for kind, wanted := range options.kinds {
		enabled[kind] = *wanted
	}

	err = cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{
		Namespace: options.namespace, EnableCertificatesDataSource: options.certificates, EnabledReconcilersFor: enabled,
	})
	if err != nil {
		return err
	}

	return manager.Start(ctx)
}

func (o *injectorOptions) manager() ctrl.Options {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, cmscheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme,
	} {
		if err := add(known); err != nil {
			panic(err) // the libraries do not fit each other
		}
	}

	options := ctrl.Options{
		Scheme: known,
		Cache:  cache.Options{ReaderFailOnMissingInformer: true},
		// Secrets are read one by one: a cluster's are too many to keep.
		Client:                  client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Metrics:                 metricsserver.Options{BindAddress: o.metrics},
		LeaderElection:          o.election.enabled,
		LeaderElectionNamespace: o.election.namespace, LeaderElectionID: injectorElection,
		LeaderElectionReleaseOnCancel: true, LeaderElectionResourceLock: resourcelock.LeasesResourceLock,
		LeaseDuration: &o.election.lease, RenewDeadline: &o.election.renew, RetryPeriod: &o.election.retry,
	}

	if o.namespace != "" {
		options.Cache.DefaultNamespaces = map[string]cache.Config{o.namespace: {}}
	}

	return options
}

// certificatesServed waits for the definition of Certificate, which the chart may install after this program.
func certificatesServed(ctx context.Context, manager ctrl.Manager) error {
	direct, err := client.New(manager.GetConfig(), client.Options{Scheme: manager.GetScheme(), Mapper: manager.GetRESTMapper()})
	if err != nil {
		return err
	}

	return wait.PollUntilContextTimeout(ctx, time.Second, definitionWait, true, func(ctx context.Context) (bool, error) {
		err := direct.Get(ctx, client.ObjectKey{Name: "certificates.cert-manager.io"}, &apiextensionsv1.CustomResourceDefinition{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}

		return err == nil, err
	})
}
