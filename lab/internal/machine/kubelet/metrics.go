package kubelet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics of /metrics/resource, under the kubelet's names (pkg/kubelet/metrics/collectors of Kubernetes
// 1.34): what metrics-server reads. Swap is left out: Talos has none.
var (
	nodeCPU         = describe("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
	nodeMemory      = describe("node_memory_working_set_bytes", "Current working set of the node in bytes")
	containerStart  = describe("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer...)
	containerCPU    = describe("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer...)
	containerMemory = describe("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer...)
	podCPU          = describe("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod...)
	podMemory       = describe("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod...)
	scrapeError     = describe("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
	resourceError   = describe("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")

	nodeName          = describe("kubelet_node_name", "The node's name. The count is always 1.", "node")
	runningPods       = describe("kubelet_running_pods", "Number of pods that have a running pod sandbox")
	runningContainers = describe("kubelet_running_containers", "Number of containers currently running", "container_state")
	certificateLife   = describe("kubelet_certificate_manager_server_ttl_seconds", "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate.")
)

var (
	ofContainer = []string{"container", "namespace", "pod"}
	ofPod       = []string{"namespace", "pod"}
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func counter(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
}

// resourceCollector is /metrics/resource: the simulated use of CPU and memory, with the time of its reading.
type resourceCollector struct{ node *Kubelet }

// Describe gives none: the pods come and go.
func (resourceCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counters now.
func (c resourceCollector) Collect(metrics chan<- prometheus.Metric) {
	c.node.observe(c.node.PodsNow())

	at, node, containers := c.node.usage.snapshot()
	put := func(metric prometheus.Metric) { metrics <- prometheus.NewMetricWithTimestamp(at, metric) }

	put(counter(nodeCPU, node.seconds))
	put(gauge(nodeMemory, node.bytes))

	pods := map[[2]string]sample{}

	for _, one := range containers {
		put(gauge(containerStart, float64(one.started.UnixNano())/float64(time.Second), one.container, one.namespace, one.pod))
		put(counter(containerCPU, one.seconds, one.container, one.namespace, one.pod))
		put(gauge(containerMemory, one.bytes, one.container, one.namespace, one.pod))

		key := [2]string{one.namespace, one.pod}
		pods[key] = sample{seconds: pods[key].seconds + one.seconds, bytes: pods[key].bytes + one.bytes}
	}

	for key, one := range pods {
		put(counter(podCPU, one.seconds, key[:]...))
		put(gauge(podMemory, one.bytes, key[:]...))
	}

	metrics <- gauge(scrapeError, 0)
	metrics <- gauge(resourceError, 0)
}

// ownCollector is /metrics: of the kubelet's own only what an operator of a cluster alerts on.
type ownCollector struct{ node *Kubelet }

// Describe gives none, as resourceCollector's.
func (ownCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the kubelet's state now.
func (c ownCollector) Collect(metrics chan<- prometheus.Metric) {
	_, _, containers := c.node.usage.snapshot()
	pods := map[[2]string]bool{}

	for _, one := range containers {
		pods[[2]string{one.namespace, one.pod}] = true
	}

	metrics <- gauge(nodeName, 1, c.node.Network.Hostname())
	metrics <- gauge(runningPods, float64(len(pods)))
	metrics <- gauge(runningContainers, float64(len(containers)), "running")
	c.node.collectVolumes(metrics)

	if expires := c.node.serving.expires(); !expires.IsZero() {
		metrics <- gauge(certificateLife, time.Until(expires).Truncate(time.Second).Seconds())
	}
}
