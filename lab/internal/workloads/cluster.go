package workloads

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// cluster is what all parts share: clients, informers, addresses.
type cluster struct {
	name    string
	dir     string
	options Options
	log     *slog.Logger

	config *rest.Config
	client kubernetes.Interface
	custom dynamic.Interface

	objects informers.SharedInformerFactory
	// secrets leave Helm's out, which are large.
	secrets     informers.SharedInformerFactory
	definitions cache.SharedIndexInformer
	apiServices cache.SharedIndexInformer

	addresses *addresses

	forwardsDNS   func() bool
	serviceRanges []netip.Prefix
}

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func makeCluster(given Cluster, options Options, config *rest.Config, client kubernetes.Interface, custom dynamic.Interface) *cluster {
	c := &cluster{
		name: given.Name, dir: filepath.Join(options.Dir, given.Name), options: options,
		log: options.Log.With("cluster", given.Name), config: config, client: client, custom: custom,
		objects: informers.NewSharedInformerFactory(client, 0),
		secrets: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = "type!=helm.sh/release.v1"
		})),
		definitions: dynamicinformer.NewFilteredDynamicInformer(custom, definitionResource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer(),
		apiServices: dynamicinformer.NewFilteredDynamicInformer(custom, apiServiceResource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer(),
		addresses:   newAddresses(options.Links), forwardsDNS: given.ForwardsDNS, serviceRanges: given.ServiceRanges,
	}

	return c
}

// startInformers starts those that every cluster has, and waits for their first lists.
func (c *cluster) startInformers(ctx context.Context) error {
	shared := []cache.SharedIndexInformer{
		c.pods(), c.objects.Core().V1().Services().Informer(), c.objects.Discovery().V1().EndpointSlices().Informer(),
		c.objects.Core().V1().Nodes().Informer(), c.objects.Apps().V1().Deployments().Informer(),
		c.objects.Certificates().V1().CertificateSigningRequests().Informer(),
		c.objects.Admissionregistration().V1().ValidatingWebhookConfigurations().Informer(),
		c.objects.Admissionregistration().V1().MutatingWebhookConfigurations().Informer(),
		c.secretInformer(), c.definitions, c.apiServices,
	}

	if c.options.DataPath != nil {
		shared = append(shared, c.objects.Networking().V1().NetworkPolicies().Informer(), c.objects.Core().V1().Namespaces().Informer())
	}

	if err := c.definitions.SetTransform(withoutSchemas); err != nil {
		return err
	}

	synced := make([]cache.InformerSynced, 0, len(shared))

	for _, informer := range shared {
		if err := informer.SetWatchErrorHandler(c.watchFailed); err != nil {
			return err
		}

		synced = append(synced, informer.HasSynced)
	}

	c.objects.Start(ctx.Done())
	c.secrets.Start(ctx.Done())

	go c.definitions.Run(ctx.Done())
	go c.apiServices.Run(ctx.Done())

	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("the workloads' informers of cluster %s: %w", c.name, context.Cause(ctx))
	}

	return nil
}

// factoriesDown ends the informers and waits for their goroutines.
func (c *cluster) factoriesDown(cancel context.CancelFunc) {
	cancel()
	c.objects.Shutdown()
	c.secrets.Shutdown()
}

// watchFailed replaces the library's own log lines: an API server that restarts is nothing to report.
func (c *cluster) watchFailed(_ *cache.Reflector, err error) {
	c.log.Debug("a watch of the workloads ended, it is started again", "error", err)
}

// withoutSchemas keeps of a definition only what says that it is served: some schemas are larger than a MiB.
func withoutSchemas(object any) (any, error) {
	if definition, ok := object.(*unstructured.Unstructured); ok {
		unstructured.RemoveNestedField(definition.Object, "spec", "versions")
		definition.SetManagedFields(nil)
	}

	return object, nil
}

func (c *cluster) pods() cache.SharedIndexInformer { return c.objects.Core().V1().Pods().Informer() }

func (c *cluster) secretInformer() cache.SharedIndexInformer {
	return c.secrets.Core().V1().Secrets().Informer()
}

// secret is nil when there is none.
func (c *cluster) secret(namespace, name string) *corev1.Secret {
	found, err := c.secrets.Core().V1().Secrets().Lister().Secrets(namespace).Get(name)
	if err != nil {
		return nil
	}

	return found
}

// available says whether a Deployment has an available replica.
func (c *cluster) available(namespace, name string) bool {
	deployment, err := c.objects.Apps().V1().Deployments().Lister().Deployments(namespace).Get(name)

	return err == nil && deployment.Status.AvailableReplicas > 0
}

// signal says that something changed; one that waits to be heard is enough.
type signal chan struct{}

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// on is a signal that is raised by every change of what the informers hold, until the context ends.
func on(ctx context.Context, informers ...cache.SharedIndexInformer) (signal, error) {
	changed := make(signal, 1)

	for _, informer := range informers {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed.raise() },
			UpdateFunc: func(any, any) { changed.raise() },
			DeleteFunc: func(any) { changed.raise() },
		})
		if err != nil {
			return nil, err
		}

		context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) }) // it may have ended already
	}

	changed.raise()

	return changed, nil
}

// settle is how long a sweep waits for more of the changes that come together.
const settle = 50 * time.Millisecond

// sweep runs a job after every signal until the context ends. A job that fails is run again after a pause that
// grows; the same failure is reported once.
func (c *cluster) sweep(ctx context.Context, what string, changed signal, job func(context.Context) error) {
	var (
		again <-chan time.Time
		pause = time.Second
		last  string
	)

	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			sleep(ctx, settle)
		case <-again:
		}

		err := job(ctx)
		again = nil

		if err == nil || ctx.Err() != nil {
			pause, last = time.Second, ""

			continue
		}

		if last != err.Error() {
			last = err.Error()
			c.log.Warn("a workload failed, it is tried again", "part", what, "error", err)
		}

		again = time.After(pause)
		pause = min(2*pause, longestPause)
	}
}

// customInformers are informers of custom resources by the plural name of their definition.
type customInformers map[string]cache.SharedIndexInformer

// whileServed runs a job while all the definitions are there ("certificates.cert-manager.io" and the like, of
// the version), with synchronized informers of their objects.
func (c *cluster) whileServed(ctx context.Context, what, version string, names []string, job func(context.Context, customInformers) error) error {
	changed, err := on(ctx, c.definitions)
	if err != nil {
		return err
	}

	var (
		cancel context.CancelFunc
		ended  chan struct{}
	)

	stop := func() {
		if cancel != nil {
			cancel()
			<-ended

			cancel = nil
		}
	}
	defer stop()

	c.sweep(ctx, what, changed, func(ctx context.Context) error {
		served := c.serves(names)

		switch {
		case !served:
			stop()
		case cancel == nil:
			var inner context.Context

			inner, cancel = context.WithCancel(ctx)
			ended = make(chan struct{})

			go func() {
				defer close(ended)

				c.retry(inner, what, func(ctx context.Context) error { return c.withInformers(ctx, version, names, job) })
			}()
		}

		return nil
	})

	return nil
}

func (c *cluster) withInformers(ctx context.Context, version string, names []string, job func(context.Context, customInformers) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	all := customInformers{}

	for _, name := range names {
		group := schema.ParseGroupResource(name)
		informer := dynamicinformer.NewFilteredDynamicInformer(
			c.custom, group.WithVersion(version), metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()

		if err := informer.SetWatchErrorHandler(c.watchFailed); err != nil {
			return err
		}

		go informer.Run(ctx.Done())

		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return context.Cause(ctx)
		}

		all[name] = informer
	}

	return job(ctx, all)
}

// serves says whether all definitions are established.
func (c *cluster) serves(names []string) bool {
	for _, name := range names {
		object, found, err := c.definitions.GetStore().GetByKey(name)
		if err != nil || !found {
			return false
		}

		definition, ok := object.(*unstructured.Unstructured)
		if !ok || definition.GetDeletionTimestamp() != nil || conditionOf(definition, "Established") != string(metav1.ConditionTrue) {
			return false
		}
	}

	return true
}

// conditionOf is the status of a condition, "" when the object has none of the kind.
func conditionOf(object *unstructured.Unstructured, kind string) string {
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		if condition, ok := entry.(map[string]any); ok && condition["type"] == kind {
			status, _ := condition["status"].(string)

			return status
		}
	}

	return ""
}
