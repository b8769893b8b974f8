package workloads

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

const (
	scrapeInterval = 5 * time.Second
	scrapeTimeout  = 4 * time.Second
	kubeletPort    = 10250
	maxScrape      = 16 << 20
)

// sample is one reading of a node or a container.
type sample struct {
	at time.Time
	// cpu is what was used since the start, in seconds; memory the working set in bytes.
	cpu, memory float64
}

// reading is all samples of one node's /metrics/resource.
type reading struct {
	node sample
	pods map[types.NamespacedName]map[string]sample
}

// usage is what two samples say together.
type usage struct {
	at     time.Time
	window time.Duration
	list   corev1.ResourceList
}

// between is the usage from one sample to a later one; false when they do not follow each other (a restart).
func between(before, now sample) (usage, bool) {
	window := now.at.Sub(before.at)
	if before.at.IsZero() || window <= 0 || now.cpu < before.cpu {
		return usage{}, false
	}

	nanocores := (now.cpu - before.cpu) / window.Seconds() * 1e9

	return usage{at: now.at, window: window, list: corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(math.Round(nanocores)), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(now.memory), resource.BinarySI),
	}}, true
}

// parseReading reads the metrics that metrics-server uses; a value without a time of its own has the given one.
func parseReading(text io.Reader, now time.Time) (reading, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)

	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return reading{}, err
	}

	read := reading{pods: map[types.NamespacedName]map[string]sample{}}

	for _, m := range families["node_cpu_usage_seconds_total"].GetMetric() {
		read.node.cpu, read.node.at = value(m), at(m, now)
	}

	for _, m := range families["node_memory_working_set_bytes"].GetMetric() {
		read.node.memory = value(m)
	}

	each := func(family string, set func(*sample, *dto.Metric)) {
		for _, m := range families[family].GetMetric() {
			name := map[string]string{}
			for _, pair := range m.GetLabel() {
				name[pair.GetName()] = pair.GetValue()
			}

			pod := types.NamespacedName{Namespace: name["namespace"], Name: name["pod"]}
			if read.pods[pod] == nil {
				read.pods[pod] = map[string]sample{}
			}

			s := read.pods[pod][name["container"]]
			set(&s, m)
			read.pods[pod][name["container"]] = s
		}
	}

	each("container_cpu_usage_seconds_total", func(s *sample, m *dto.Metric) { s.cpu, s.at = value(m), at(m, now) })
	each("container_memory_working_set_bytes", func(s *sample, m *dto.Metric) { s.memory = value(m) })

	return read, nil
}

// value is a metric's number, whatever its kind.
func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	case m.Gauge != nil:
		return m.GetGauge().GetValue()
	default:
		return m.GetUntyped().GetValue()
	}
}

func at(m *dto.Metric, now time.Time) time.Time {
	if m.TimestampMs == nil {
		return now
	}

	return time.UnixMilli(m.GetTimestampMs())
}

// scraper reads all kubelets again and again, with a pod's token.
type scraper struct {
	cluster *cluster
	client  *http.Client
	token   string
	// kinds of address in the order of preference; fixed is the port when the node's own is not to be used.
	kinds []string
	fixed int

	mu           sync.Mutex
	before, last map[string]reading
	problems     map[string]string
}

// newScraper honours metrics-server's flags about kubelets.
func (c *cluster) newScraper(pod *corev1.Pod, token string) *scraper {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.config.CAData)

	s := &scraper{
		cluster: c, token: token, kinds: []string{"Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"}, fixed: kubeletPort,
		before: map[string]reading{}, last: map[string]reading{}, problems: map[string]string{},
	}

	s.client = &http.Client{Timeout: scrapeTimeout, Transport: &http.Transport{
		DialContext: dialerOf(pod).DialContext,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12,
			InsecureSkipVerify: hasFlag(pod, "kubelet-insecure-tls"), //nolint:gosec // only when the pod is told so
		},
	}}

	if given := flagValues(pod, "kubelet-preferred-address-types"); len(given) > 0 {
		s.kinds = strings.Split(given[0], ",")
	}

	if given := flagValues(pod, "kubelet-port"); len(given) > 0 {
		if number, err := strconv.Atoi(given[0]); err == nil {
			s.fixed = number
		}
	}

	if hasFlag(pod, "kubelet-use-node-status-port") {
		s.fixed = 0
	}

	return s
}

// dialerOf dials from a pod's own address, by which a machine's firewall knows it; the lab's loopback must hold it.
func dialerOf(pod *corev1.Pod) *net.Dialer {
	dialer := &net.Dialer{}
	if own := net.ParseIP(pod.Status.PodIP); own != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: own}
	}

	return dialer
}

// hasFlag says whether a pod's arguments switch something on.
func hasFlag(pod *corev1.Pod, name string) bool {
	for _, container := range pod.Spec.Containers {
		for _, argument := range container.Args {
			if argument == "--"+name || argument == "--"+name+"=true" {
				return true
			}
		}
	}

	return false
}

func (s *scraper) run(ctx context.Context) {
	defer s.client.CloseIdleConnections()

	for {
		s.round(ctx)

		if !sleep(ctx, scrapeInterval) {
			return
		}
	}
}

// round reads every kubelet at the same time.
func (s *scraper) round(ctx context.Context) {
	nodes, err := s.cluster.objects.Core().V1().Nodes().Lister().List(labels.Everything())
	if err != nil {
		return
	}

	var wait sync.WaitGroup

	for _, node := range nodes {
		wait.Go(func() {
			read, err := s.scrape(ctx, node)
			if ctx.Err() == nil {
				s.keep(node.Name, read, err)
			}
		})
	}

	wait.Wait()
}

func (s *scraper) keep(node string, read reading, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	if err != nil {
		if s.problems[node] != err.Error() {
			s.problems[node] = err.Error()
			s.cluster.log.Warn("metrics-server cannot read a kubelet", "node", node, "error", err)
		}

		delete(s.before, node)
		delete(s.last, node)

		return
	}

	delete(s.problems, node)

	if last := s.last[node]; !read.node.at.Equal(last.node.at) {
		s.before[node], s.last[node] = last, read
	}
}

func (s *scraper) scrape(ctx context.Context, node *corev1.Node) (reading, error) {
	host := s.hostOf(node)
	if host == "" {
		return reading{}, errors.New("the node has no address of the preferred kinds")
	}

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/metrics/resource", nil)
	if err != nil {
		return reading{}, err
	}

	request.Header.Set("Authorization", "Bearer "+s.token)

	response, err := s.client.Do(request)
	if err != nil {
		return reading{}, err
	}
	defer response.Body.Close()

	if response.StatusCode != http.StatusOK {
		return reading{}, fmt.Errorf("%s: %s", request.URL, response.Status)
	}

	return parseReading(io.LimitReader(response.Body, maxScrape), time.Now())
}

func (s *scraper) hostOf(node *corev1.Node) string {
	number := s.fixed
	if number == 0 {
		number = int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	}

	for _, kind := range s.kinds {
		for _, address := range node.Status.Addresses {
			if string(address.Type) == kind {
				return net.JoinHostPort(address.Address, strconv.Itoa(number))
			}
		}
	}

	return ""
}

// nodeUsage is a node's, false before there are two readings.
func (s *scraper) nodeUsage(node string) (usage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()

	return between(s.before[node].node, s.last[node].node)
}

// podUsage is that of a pod's containers.
func (s *scraper) podUsage(node string, pod types.NamespacedName) map[string]usage {
	s.mu.Lock()
	defer s.mu.Unlock()

	all := map[string]usage{}

	for container, now := range s.last[node].pods[pod] {
		if used, ok := between(s.before[node].pods[pod][container], now); ok {
			all[container] = used
		}
	}

	return all
}
