// Package statemetrics is a stand-in for the program kube-state-metrics 2.17, whose module no proxy serves: some of its metrics
// under their real names, over Kubernetes' own client.
package statemetrics

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"platform.lab/lab/internal/httpserver"
)

// Name is the program's in its image.
const Name = "kube-state-metrics"

// Where the real one serves when it is told nothing else.
const (
	usualPort          = 8080
	usualTelemetryPort = 8081
)

// options are the flags that the stand-in has; it refuses the real one's others.
type options struct {
	resources             []string
	namespaces            []string // of whose objects the metrics are; none: all
	port, telemetryPort   int
	automaticMemoryLimits bool
}

// Main runs the program in a pod, until it is asked to end.
func Main(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))

	given := options{}
	root := &cobra.Command{
		Use: Name, SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), given) },
	}
	f := root.Flags()
	f.StringSliceVar(&given.resources, "resources", nil, "the resources whose metrics are served; left out: all that the stand-in knows")
	f.StringSliceVar(&given.namespaces, "namespaces", nil, "the namespaces of whose objects the metrics are; left out: all")
	f.IntVar(&given.port, "port", usualPort, "where the metrics are served")
	f.IntVar(&given.telemetryPort, "telemetry-port", usualTelemetryPort, "where the program's own metrics are served")
	f.BoolVar(&given.automaticMemoryLimits, "auto-gomemlimit", false, "nothing: the lab has no control group to take a limit from")
	root.SetArgs(args)

	return root.ExecuteContext(ctx)
}

func run(ctx context.Context, given options) error {
	chosen, err := choose(given.resources)
	if err != nil {
		return err
	}

	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}

	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}

	store := newStore(client, chosen, given.namespaces...)

	store.start(ctx)
	defer store.shutdown()

	alive := func(ctx context.Context) error {
		return client.CoreV1().RESTClient().Get().AbsPath("/livez").Do(ctx).Error()
	}

	at := func(port int) string { return ":" + strconv.Itoa(port) }

	return httpserver.ServeAll(ctx, map[string]*http.Server{
		at(given.port):          {Handler: metricsHandler(store, alive)},
		at(given.telemetryPort): {Handler: telemetryHandler(store)},
	}, slog.Default())
}

// choose finds resources by their names; all when none is named.
func choose(names []string) ([]resource, error) {
	all := resources()
	if len(names) == 0 {
		return all, nil
	}

	var known, unknown []string
	for _, one := range all {
		known = append(known, one.name)
	}

	for _, name := range names {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}

	if len(unknown) > 0 {
		return nil, fmt.Errorf("--resources: the lab's stand-in for %s has no metrics of %s, only of %s",
			Name, strings.Join(unknown, ", "), strings.Join(known, ", "))
	}

	return slices.DeleteFunc(all, func(one resource) bool { return !slices.Contains(names, one.name) }), nil
}

// store holds the objects of the chosen resources.
type store struct {
	factories []factory
	objects   []objects
}

// objects are those of a resource, of one namespace or of all.
type objects struct {
	resource
	informer
}

// newStore reads the resources in these namespaces; in all, when none is named.
func newStore(client kubernetes.Interface, chosen []resource, namespaces ...string) *store {
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}

	s := &store{}

	for _, namespace := range namespaces {
		made := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
		s.factories = append(s.factories, made)

		for _, one := range chosen {
			s.objects = append(s.objects, objects{one, one.inform(made)})
		}
	}

	return s
}

func (s *store) start(ctx context.Context) {
	for _, one := range s.factories {
		one.Start(ctx.Done())
	}
}

func (s *store) shutdown() {
	for _, one := range s.factories {
		one.Shutdown()
	}
}

// filled says whether all objects have been read once.
func (s *store) filled() bool {
	return !slices.ContainsFunc(s.objects, func(one objects) bool { return !one.HasSynced() })
}

// Describe gives none: the objects come and go.
func (*store) Describe(chan<- *prometheus.Desc) {}

// Collect gives the metrics of what is there now.
func (s *store) Collect(metrics chan<- prometheus.Metric) {
	put := func(of family, value float64, labels ...string) {
		var names, values []string
		for at := 0; at+1 < len(labels); at += 2 {
			names, values = append(names, labels[at]), append(values, labels[at+1])
		}

		metrics <- prometheus.MustNewConstMetric(prometheus.NewDesc(of.name, of.help, names, nil), of.kind, value, values...)
	}

	for _, one := range s.objects {
		for _, object := range one.GetStore().List() {
			one.measure(object, put)
		}
	}
}

// metricsHandler is the port of the metrics. It is alive while the API server is, as the real one.
func metricsHandler(store *store, alive func(context.Context) error) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(store)

	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, true) })
	mux.HandleFunc("/livez", func(w http.ResponseWriter, r *http.Request) {
		err := alive(r.Context())
		if err != nil {
			slog.Warn("the API server is not alive", "error", err)
		}

		answer(w, err == nil)
	})

	return mux
}

// telemetryHandler is the port of the program's own metrics, which says when it is ready: once all objects are read.
func telemetryHandler(store *store) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, store.filled()) })

	return mux
}

// answer is the real one's to a probe.
func answer(w http.ResponseWriter, well bool) {
	code := http.StatusOK
	if !well {
		code = http.StatusServiceUnavailable
	}

	w.WriteHeader(code)
	fmt.Fprint(w, http.StatusText(code))
}
