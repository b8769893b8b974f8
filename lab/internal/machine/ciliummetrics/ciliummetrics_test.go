package ciliummetrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/machine/lifetime"
)

// patienceOfTest is how long a test waits for what must come.
const patienceOfTest = time.Minute

func pod(name string, hostNetwork bool, ports ...corev1.ContainerPort) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{partOf: cilium}},
		Spec: corev1.PodSpec{HostNetwork: hostNetwork, Containers: []corev1.Container{{
			Name: name, Image: "quay.io/cilium/cilium:v1.19.6@sha256:00", Ports: ports,
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func port(name string, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number}
}

func TestThePortsAreThoseOfCiliumsRunningPodsInTheMachinesNetwork(t *testing.T) {
	stranger := pod("cilium-agent", true, port("prometheus", 1))
	stranger.Labels = nil

	waits := pod("cilium-operator", true, port("prometheus", 9963))
	waits.Status.Phase = corev1.PodPending

	found := ports([]corev1.Pod{
		pod("cilium-agent", true, port("peer-service", 4244), port("prometheus", 9962), port("hubble-metrics", 9965)),
		pod("hubble-relay", false, port("prometheus", 9966)), stranger, waits,
	})

	want := map[int32]served{9962: {"cilium-agent", "1.19.6"}, 9965: {"hubble-metrics", "1.19.6"}}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("%v instead of %v", found, want)
	}
}

// machine is one whose pods can be changed; its ports are any of this computer.
type machine struct {
	mu     sync.Mutex
	pods   []corev1.Pod
	opened map[string]string
}

func (m *machine) set(pods ...corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.pods = pods
}

func (m *machine) listen(network, address string) (net.Listener, error) {
	listener, err := net.Listen(network, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}

	m.mu.Lock()
	defer m.mu.Unlock()

	m.opened[address] = listener.Addr().String()

	return listener, nil
}

// read asks for a port's metrics until they are as wanted.
func (m *machine) read(t *testing.T, address string, wanted func(text string, err error) bool) {
	t.Helper()

	var (
		text []byte
		err  error
	)

	for end := time.Now().Add(patienceOfTest); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		m.mu.Lock()
		real := m.opened[address]
		m.mu.Unlock()

		var request *http.Request
		if request, err = http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+real+"/metrics", nil); err != nil {
			t.Fatal(err)
		}

		var response *http.Response
		if response, err = (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request); err == nil {
			text, err = io.ReadAll(response.Body)
			response.Body.Close()
		}

		if wanted(string(text), err) {
			return
		}
	}

	t.Fatalf("%s: %v\n%s", address, err, text)
}

func TestTheMetricsAreThereWhileThePodRuns(t *testing.T) {
	life := lifetime.New(t.Context(), slog.New(slog.DiscardHandler))
	on := &machine{opened: map[string]string{}}
	far := netip.MustParseAddrPort("192.0.2.2:10250")

	m := Machine{
		Lifetime: life, Listen: on.listen, Log: slog.New(slog.DiscardHandler),
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			if address == far.String() {
				return nil, errors.New("no answer")
			}

			near, other := net.Pipe()
			other.Close()

			return near, nil
		},
		Nodes: func(context.Context) ([]netip.AddrPort, error) {
			return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:10250"), far}, nil
		},
		Pods: func() []corev1.Pod {
			on.mu.Lock()
			defer on.mu.Unlock()

			return on.pods
		},
	}

	running := corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	on.set(pod("cilium-agent", true, port("prometheus", 9962), port("hubble-metrics", 9965)), running)
	life.Go(m.Run)
	t.Cleanup(func() {
		life.Cut()
		life.Wait()
	})

	on.read(t, ":9962", func(text string, _ error) bool {
		return strings.Contains(text, "\ncilium_unreachable_nodes 1\n") && strings.Contains(text, `version="1.19.6"`) &&
			strings.Contains(text, "\ncilium_endpoint_state{endpoint_state=\"ready\"} 1\n")
	})
	on.read(t, ":9965", func(text string, _ error) bool { return strings.Contains(text, "hubble_lost_events_total") })

	on.set(running)
	on.read(t, ":9962", func(_ string, err error) bool { return err != nil })
}
