package workloads

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/programs"
)

const (
	clusterIP  = "127.10.96.1"
	balancerIP = "127.20.0.100"
)

func echoServer(t *testing.T, address, says string) *net.TCPAddr {
	t.Helper()

	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { listener.Close() })

	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}

			_, _ = io.ReadAll(conn) // to the client's end of sending
			_, _ = io.WriteString(conn, says)
			conn.Close()
		}
	}()

	return listener.Addr().(*net.TCPAddr)
}

func ask(address string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()

	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}

	answer, err := io.ReadAll(conn)

	return string(answer), err
}

func pointer[T any](value T) *T { return &value }

func testService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{clusterIP}, Ports: []corev1.ServicePort{
			{Name: "web", Port: 8081, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		}},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: balancerIP}}}},
	}
}

func testSlice(name string, port int32, ready bool, addresses ...string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Ports:      []discoveryv1.EndpointPort{{Name: pointer("web"), Port: &port}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: addresses, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
}

func TestOnlyReadyEndpointsOfTheNamedPortAreBackends(t *testing.T) {
	other := testSlice("other", 9, true, "127.0.0.9")
	other.Ports[0].Name = pointer("metrics")

	plan := planProxy([]*corev1.Service{testService()}, []*discoveryv1.EndpointSlice{
		testSlice("a", 8080, true, "127.0.0.2", "127.0.0.3"), testSlice("b", 8080, false, "127.0.0.4"), other,
	}, true)

	wanted := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:8080"), netip.MustParseAddrPort("127.0.0.3:8080")}
	for _, address := range []string{clusterIP, balancerIP} {
		if got := plan.backends[netip.MustParseAddrPort(address+":8081")]; !slices.Equal(got, wanted) {
			t.Errorf("%s: %v", address, got)
		}
	}

	if len(plan.backends) != 2 {
		t.Errorf("UDP is not served: %v", plan.backends)
	}

	if plan.addresses[netip.MustParseAddr(clusterIP)] != onLoopback || plan.addresses[netip.MustParseAddr(balancerIP)] != onBridge {
		t.Errorf("%v", plan.addresses)
	}
}

func TestHeadlessAndExternalServicesHaveNoAddress(t *testing.T) {
	headless, external := testService(), testService()
	headless.Spec.ClusterIPs, headless.Status = []string{"None"}, corev1.ServiceStatus{}
	external.Spec.Type = corev1.ServiceTypeExternalName

	if plan := planProxy([]*corev1.Service{headless, external}, nil, true); len(plan.addresses) != 0 {
		t.Errorf("%v", plan.addresses)
	}
}

func TestWhereTheMachinesTranslateNobodyOutsideAnswersForAClusterIP(t *testing.T) {
	server := echoServer(t, "127.0.0.1", "one")
	agent := readyPod("kube-system", "cilium-x", "127.0.0.1", map[string]string{"k8s-app": "cilium"})
	b := newBench(t, testService(), testSlice("a", int32(server.Port), true, "127.0.0.1"), agent)
	b.options.Images = []programs.Image{{}}

	b.start(runProxy)
	b.until("the address", func() bool { return b.links.has(clusterIP) })
	b.until("a refused connection", func() bool {
		answer, err := ask(clusterIP + ":8081")
		if answer != "" {
			t.Fatalf("answered: %q", answer)
		}

		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func TestAServiceAnswersFromItsEndpointsInTurnWhileItsDataPathRuns(t *testing.T) {
	one, two := echoServer(t, "127.0.0.1", "one"), echoServer(t, "127.0.0.1", "two")
	first, second := testSlice("a", int32(one.Port), true, "127.0.0.1"), testSlice("b", int32(two.Port), true, "127.0.0.1")
	b := newBench(t, testService(), first, second)
	at := clusterIP + ":8081"

	b.start(runProxy)

	if b.links.has(clusterIP) {
		t.Error("an address without Cilium")
	}

	pods := b.client.CoreV1().Pods("kube-system")
	if _, err := pods.Create(b.Context(), readyPod("kube-system", "cilium-x", "127.0.0.1", map[string]string{"k8s-app": "cilium"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	seen := map[string]bool{}
	b.until("both endpoints answer", func() bool {
		answer, _ := ask(at)
		seen[answer] = true

		return seen["one"] && seen["two"]
	})

	if b.links.has(balancerIP) {
		t.Error("a LoadBalancer address without a speaker")
	}

	speaker := readyPod("metallb-system", "speaker", "127.0.0.1", map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"})
	if _, err := b.client.CoreV1().Pods("metallb-system").Create(b.Context(), speaker, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("the LoadBalancer address", func() bool { return b.links.has(balancerIP) })

	slices := b.client.DiscoveryV1().EndpointSlices("default")
	for _, name := range []string{"a", "b"} {
		if err := slices.Delete(b.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	b.until("a refused connection without endpoints", func() bool {
		_, err := ask(at)

		return errors.Is(err, syscall.ECONNREFUSED)
	})

	if !b.links.has(clusterIP) {
		t.Error("the address went with the endpoints")
	}

	if err := b.client.CoreV1().Services("default").Delete(b.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("no address without the Service", func() bool { return !b.links.has(clusterIP) && !b.links.has(balancerIP) })
}

func TestAConnectionToADeadEndpointIsReset(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	port := dead.Addr().(*net.TCPAddr).Port
	dead.Close()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	f := &frontend{listener: listener, cancel: cancel}
	f.backends.Store(&[]netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))})
	f.wait.Go(func() { f.accept(ctx) })

	defer f.close()

	if answer, err := ask(listener.Addr().String()); err == nil {
		t.Errorf("%q", answer)
	}
}
