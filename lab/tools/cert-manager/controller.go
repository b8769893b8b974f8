package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/acmechallenges"
	"github.com/cert-manager/cert-manager/pkg/controller/acmeorders"
	shimingress "github.com/cert-manager/cert-manager/pkg/controller/certificate-shim/ingresses"
	cracme "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/acme"
	crapprover "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	crca "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	crselfsigned "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	certificatesmetrics "github.com/cert-manager/cert-manager/pkg/controller/certificates/metrics"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	"github.com/cert-manager/cert-manager/pkg/healthz"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/acme" // an issuer
	dnsutil "github.com/cert-manager/cert-manager/pkg/issuer/acme/dns/util"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"         // an issuer
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned" // an issuer
	logf "github.com/cert-manager/cert-manager/pkg/logs"
)

const (
	controllerElection = "cert-manager-controller"
	// shutdownTime is what an answer that has begun may still take.
	shutdownTime = 5 * time.Second
	// electionHealth is how long after the end of its lease a leader that is stuck still counts as alive.
	electionHealth = 20 * time.Second
)

// controllers run; each registers itself when its package is imported.
var controllers = []string{
	issuers.ControllerName, clusterissuers.ControllerName, certificatesmetrics.ControllerName, shimingress.ControllerName,
	acmeorders.ControllerName, acmechallenges.ControllerName,
	cracme.CRControllerName, crapprover.ControllerName, crca.CRControllerName, crselfsigned.CRControllerName,
	trigger.ControllerName, issuing.ControllerName, keymanager.ControllerName, requestmanager.ControllerName,
	readiness.ControllerName, revisionmanager.ControllerName,
}

// controllerOptions are what the command line says.
type controllerOptions struct {
	controller.ContextOptions

	election        election
	controllers     []string
	workers         int
	metrics, health string
	recursiveOnly   bool
	gates           map[string]bool
	logging         logsapi.LoggingConfiguration
}

// add declares the flags. The defaults are cert-manager's (internal/apis/config/controller/v1alpha1/defaults.go).
func (o *controllerOptions) add(set *pflag.FlagSet) {
	logsapi.SetRecommendedLoggingConfiguration(&o.logging)
	logf.AddFlags(&o.logging, set)
	o.election.add(set)

	set.String("config", "", "a configuration file; the lab's build refuses one")
	set.StringVar(&o.Namespace, "namespace", "", "the only namespace that is looked at; empty is all")
	set.StringVar(&o.ClusterResourceNamespace, "cluster-resource-namespace", "kube-system", "where a ClusterIssuer's Secrets are")
	set.Float32Var(&o.KubernetesAPIQPS, "kube-api-qps", 20, "requests a second to the API server")
	set.IntVar(&o.KubernetesAPIBurst, "kube-api-burst", 50, "requests at once to the API server")
	set.StringSliceVar(&o.controllers, "controllers", []string{"*"}, "those that run: * is all, -NAME is all but NAME")
	set.IntVar(&o.workers, "concurrent-workers", 5, "workers of each controller")
	set.IntVar(&o.MaxConcurrentChallenges, "max-concurrent-challenges", 60, "challenges at a time")
	set.StringVar(&o.metrics, "metrics-listen-address", metricsAddress, "where metrics are served")
	set.StringVar(&o.health, "internal-healthz-listen-address", "0.0.0.0:9403", "where the health is served")
	set.Var(cliflag.NewMapStringBool(&o.gates), "feature-gates", "features that are switched on or off")

	set.BoolVar(&o.EnableOwnerRef, "enable-certificate-owner-ref", false, "whether a Secret goes with its Certificate")
	set.StringSliceVar(&o.CopiedAnnotationPrefixes, "copied-annotation-prefixes",
		[]string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"}, "annotations that a request gets")
	set.DurationVar(&o.CertificateRequestMinimumBackoffDuration, "certificate-request-minimum-backoff-duration", time.Hour, "first pause after a failure")
	set.DurationVar(&o.CertificateRequestMaximumBackoffDuration, "certificate-request-maximum-backoff-duration", 32*time.Hour, "longest pause")
	set.BoolVar(&o.ClusterIssuerAmbientCredentials, "cluster-issuer-ambient-credentials", true, "whether a ClusterIssuer may use the environment's")
	set.BoolVar(&o.IssuerAmbientCredentials, "issuer-ambient-credentials", false, "whether an Issuer may use the environment's")

	set.StringVar(&o.DefaultIssuerName, "default-issuer-name", "", "the issuer of an Ingress that names none")
	set.StringVar(&o.DefaultIssuerKind, "default-issuer-kind", "Issuer", "its kind")
	set.StringVar(&o.DefaultIssuerGroup, "default-issuer-group", "cert-manager.io", "its group")
	set.StringSliceVar(&o.DefaultAutoCertificateAnnotations, "auto-certificate-annotations", []string{"kubernetes.io/tls-acme"}, "what asks for it")
	set.StringSliceVar(&o.ExtraCertificateAnnotations, "extra-certificate-annotations", nil, "annotations that an Ingress' Certificate gets")

	set.StringVar(&o.HTTP01SolverImage, "acme-http01-solver-image", "", "the image of HTTP-01 solvers")
	set.StringVar(&o.HTTP01SolverRuntimeClassName, "acme-http01-solver-runtime-class-name", "", "their runtime class")
	set.StringToStringVar(&o.HTTP01SolverExtraLabels, "acme-http01-solver-extra-labels", nil, "their further labels")
	set.BoolVar(&o.ACMEHTTP01SolverRunAsNonRoot, "acme-http01-solver-run-as-non-root", true, "whether they may not be root")
	o.HTTP01SolverResourceRequestCPU, o.HTTP01SolverResourceRequestMemory = resource.MustParse("10m"), resource.MustParse("64Mi")
	o.HTTP01SolverResourceLimitsCPU, o.HTTP01SolverResourceLimitsMemory = resource.MustParse("100m"), resource.MustParse("64Mi")

	set.StringSliceVar(&o.DNS01Nameservers, "dns01-recursive-nameservers", nil, "name servers that are asked whether a challenge is there")
	set.BoolVar(&o.recursiveOnly, "dns01-recursive-nameservers-only", false, "whether only they are asked, not the zone's own")
	set.DurationVar(&o.DNS01CheckRetryPeriod, "dns01-check-retry-period", 10*time.Second, "the pause between two such questions")
}

// runController issues certificates.
func runController(ctx context.Context, arguments []string) error {
	var options controllerOptions

	set := flags("controller")
	options.add(set)

	if err := parse(set, arguments, options.gates, &options.logging); err != nil {
		return err
	}

	if err := options.complete(); err != nil {
		return err
	}

	factory, err := controller.NewContextFactory(ctx, options.ContextOptions)
	if err != nil {
		return err
	}

	// What one of them has to say ends all of them.
	group, ctx := errgroup.WithContext(ctx)

	shared, err := factory.Build()
	if err != nil {
		return err
	}

	collect(shared)

	health := healthz.NewServer(electionHealth)

	listener, err := net.Listen("tcp", options.health)
	if err != nil {
		return err
	}

	group.Go(func() error { return health.Start(ctx, listener) })

	work := func(ctx context.Context) error { return options.work(ctx, factory, shared) }
	if options.election.enabled {
		group.Go(func() error { return options.elect(ctx, shared, health.LeaderHealthzAdaptor, work) })
	} else {
		group.Go(func() error { return work(ctx) })
	}

	group.Go(func() error { return options.serveMetrics(ctx, shared) })

	return group.Wait()
}

// complete derives what no flag says, and refuses what cannot be.
func (o *controllerOptions) complete() error {
	o.DNS01CheckAuthoritative = !o.recursiveOnly
	o.GatewayAPIExtraProtocols = sets.New[string]()

	if len(o.DNS01Nameservers) == 0 {
		o.DNS01Nameservers = dnsutil.RecursiveNameservers
	}

	for _, one := range o.controllers {
		if name := without(one); one != "*" && !slices.Contains(controllers, name) {
			return fmt.Errorf("--controllers: %s is unknown", name)
		}
	}

	return nil
}

func without(name string) string {
	if len(name) > 0 && name[0] == '-' {
		return name[1:]
	}

	return name
}

// enabled are the controllers that run.
func (o *controllerOptions) enabled() []string {
	return slices.DeleteFunc(slices.Clone(controllers), func(name string) bool {
		listed := slices.Contains(o.controllers, "*") || slices.Contains(o.controllers, name)
		left := o.Namespace != "" && name == clusterissuers.ControllerName

		return !listed || left || slices.Contains(o.controllers, "-"+name)
	})
}

// work runs all controllers until the context ends.
func (o *controllerOptions) work(ctx context.Context, factory *controller.ContextFactory, shared *controller.Context) error {
	log := logf.FromContext(ctx)
	group, ctx := errgroup.WithContext(ctx)

	for _, name := range o.enabled() {
		one, err := controller.Known()[name](factory)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}

		log.V(logf.InfoLevel).Info("starting controller", "controller", name)
		group.Go(func() error { return one.Run(o.workers, ctx) })
	}

	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	shared.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())

	return group.Wait()
}

var errNotLeader = errors.New("leader election lost")

// elect does the work while this replica is the leader.
func (o *controllerOptions) elect(
	ctx context.Context, shared *controller.Context, watchdog *leaderelection.HealthzAdaptor, work func(context.Context) error,
) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}

	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, o.election.namespace, controllerElection,
		shared.Client.CoreV1(), shared.Client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "-external-cert-manager-controller", EventRecorder: shared.Recorder})
	if err != nil {
		return err
	}

	worked := make(chan error, 1)

	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: o.election.lease, RenewDeadline: o.election.renew, RetryPeriod: o.election.retry,
		ReleaseOnCancel: true, WatchDog: watchdog,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { worked <- work(ctx) },
			OnStoppedLeading: func() { logf.FromContext(ctx).V(logf.InfoLevel).Info("leader election ended") },
		},
	})
	if err != nil {
		return err
	}

	leading, stop := context.WithCancel(ctx)
	defer stop()

	var failed error

	ended := make(chan struct{})

	go func() {
		defer close(ended)

		elector.Run(leading)
	}()

	select {
	case failed = <-worked:
		stop()
		<-ended
	case <-ended:
	}

	if failed == nil && ctx.Err() == nil {
		failed = errNotLeader
	}

	return failed
}

// collect lets the metrics tell of the objects, which the informers of the one that leads know.
func collect(shared *controller.Context) {
	objects := shared.SharedInformerFactory.Certmanager().V1()
	shared.Metrics.SetupCertificateCollector(objects.Certificates().Lister())
	shared.Metrics.SetupIssuerCollector(objects.Issuers().Lister())
	shared.Metrics.SetupClusterIssuerCollector(objects.ClusterIssuers().Lister())
	shared.Metrics.SetupACMECollector(shared.SharedInformerFactory.Acme().V1().Challenges().Lister())
}

// serveMetrics serves the metrics of all replicas.
func (o *controllerOptions) serveMetrics(ctx context.Context, shared *controller.Context) error {
	listener, err := net.Listen("tcp", o.metrics)
	if err != nil {
		return err
	}

	server := shared.Metrics.NewServer(listener)

	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()

		_ = server.Shutdown(ctx) // else the clients had their time
	})

	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}

	return nil
}
