// Package ciliummetrics answers on a machine for the metrics of Cilium, whose programs are simulated: a few of the real names, so
// that who reads them finds his targets. What a metric says in its help is simulated means nothing.
package ciliummetrics

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/httpserver"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/lifetime"
)

const (
	// interval is how often the machine's pods are looked at.
	interval = time.Second
	// patience is how long another machine may take to answer; Cilium's own is longer.
	patience = 2 * time.Second
	// partOf is Cilium's label of all its pods.
	partOf, cilium = "app.kubernetes.io/part-of", "cilium"
)

// Machine is what the metrics need of the machine that Cilium's pods are on.
type Machine struct {
	*lifetime.Lifetime

	Listen func(network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Pods are those of the machine, and Nodes the addresses of the kubelets of the others.
	Pods  func() []corev1.Pod
	Nodes func(ctx context.Context) ([]netip.AddrPort, error)
	Log   *slog.Logger
}

// Run serves, from the machine's boot to its end, the ports of those pods of Cilium that run.
func (m Machine) Run() {
	open := map[int32]func(){}

	for ; !m.IsStopping(); m.Sleep(interval) {
		wanted := ports(m.Pods())

		for port, stop := range open {
			if _, still := wanted[port]; !still {
				stop()
				delete(open, port)
			}
		}

		for port, one := range wanted {
			if _, there := open[port]; there {
				continue
			}

			stop, err := m.serve(port, one)
			if err != nil {
				m.Log.Debug("metrics of Cilium (simulated)", "port", port, "error", err)

				continue
			}

			open[port] = stop
		}
	}

	for _, stop := range open {
		stop()
	}
}

// served is a port of one of Cilium's programs.
type served struct{ name, version string }

// ports are those in the machine's own network that running pods of Cilium have for their metrics, by number. The names are the
// chart's.
func ports(pods []corev1.Pod) map[int32]served {
	found := map[int32]served{}

	for _, pod := range pods {
		if pod.Labels[partOf] != cilium || !pod.Spec.HostNetwork || pod.Status.Phase != corev1.PodRunning {
			continue
		}

		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.Name == "prometheus" || strings.HasSuffix(port.Name, "-metrics") {
					name := port.Name
					if name == "prometheus" {
						name = container.Name
					}

					found[port.ContainerPort] = served{name, strings.TrimPrefix(configuration.ImageTag(container.Image), "v")}
				}
			}
		}
	}

	return found
}

// serve answers on a port until it is stopped.
func (m Machine) serve(port int32, one served) (stop func(), err error) {
	listener, err := m.Listen("tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithCancel(m.Context())
	ended := make(chan struct{})

	go func() {
		defer close(ended)

		m.LogError("metrics of Cilium (simulated)", httpserver.Serve(ctx, listener, &http.Server{Handler: m.handler(one)}, m.Log))
	}()

	return func() {
		cancel()
		<-ended
	}, nil
}

func (m Machine) handler(one served) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{m, one})

	routes := http.NewServeMux()
	routes.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))

	return routes
}

// collector has the metrics of one of Cilium's programs.
type collector struct {
	machine Machine
	of      served
}

// Describe gives none: what is collected depends on the program.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Names of ports and containers of the chart.
const (
	agent    = "cilium-agent"
	operator = "cilium-operator"
	envoy    = "envoy-metrics"
	hubble   = "hubble-metrics"
)

// Collect gives what the lab knows.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	put := func(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
		var names, values []string
		for at := 0; at+1 < len(labels); at += 2 {
			names, values = append(names, labels[at]), append(values, labels[at+1])
		}

		metrics <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
	}

	switch c.of.name {
	case agent:
		put(prometheus.GaugeValue, "cilium_version", "Cilium version (simulated)", 1, "version", c.of.version, "revision", "simulated", "arch", "amd64")
		put(prometheus.GaugeValue, "cilium_unreachable_nodes", "Number of nodes that cannot be reached", c.machine.unreachable())
		put(prometheus.GaugeValue, "cilium_endpoint_state", "Count of all endpoints, tagged by different endpoint states",
			c.machine.endpoints(), "endpoint_state", "ready")
	case operator:
		put(prometheus.GaugeValue, "cilium_operator_identity_gc_entries",
			"The number of alive and deleted identities at the end of a garbage collector run (simulated)", 0, "status", "alive")
	case envoy:
		put(prometheus.GaugeValue, "envoy_server_live", "1 if the server is not currently draining, 0 otherwise (simulated)", 1)
	case hubble:
		put(prometheus.CounterValue, "hubble_lost_events_total", "Number of lost events (simulated)", 0, "source", "hubble_ring_buffer")
	}
}

// endpoints are the running pods of the machine that have an address of their own.
func (m Machine) endpoints() float64 {
	count := 0

	for _, pod := range m.Pods() {
		if !pod.Spec.HostNetwork && pod.Status.Phase == corev1.PodRunning {
			count++
		}
	}

	return float64(count)
}

// unreachable counts the machines whose kubelet's port does not answer. Cilium asks its own agents instead, all the time.
func (m Machine) unreachable() float64 {
	ctx, cancel := context.WithTimeout(m.Context(), patience)
	defer cancel()

	nodes, err := m.Nodes(ctx)
	if err != nil {
		m.Log.Debug("metrics of Cilium (simulated)", "nodes", err)
	}

	var lost atomic.Int64

	done := make(chan struct{})

	for _, node := range nodes {
		go func() {
			defer func() { done <- struct{}{} }()

			conn, err := m.Dial(ctx, "tcp", node.String())
			if err != nil {
				lost.Add(1)

				return
			}

			conn.Close()
		}()
	}

	for range nodes {
		<-done
	}

	return float64(lost.Load())
}
