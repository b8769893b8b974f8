package workloads

import (
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// datagramEcho answers every datagram with its own name.
func datagramEcho(t *testing.T, says string) netip.AddrPort {
	t.Helper()

	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { conn.Close() })

	go func() {
		buffer := make([]byte, 100)

		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}

			_, _ = conn.WriteTo([]byte(says), from)
		}
	}()

	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

func TestDatagramsReachAReadyEndpointAndTheAnswersComeBack(t *testing.T) {
	first, second := datagramEcho(t, "first"), datagramEcho(t, "second")
	at := netip.MustParseAddrPort("127.10.96.2:5353")
	p := &proxy{datagrams: map[netip.AddrPort]*relay{}}

	if err := p.relay(t.Context(), at, []netip.AddrPort{first}); err != nil {
		t.Fatal(err)
	}

	defer p.datagrams[at].close()

	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	ask := func() string {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))

		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}

		buffer := make([]byte, 100)

		size, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}

		return string(buffer[:size])
	}

	if got := ask(); got != "first" {
		t.Error(got)
	}

	// The endpoint is not ready any more: the same client is given to another one.
	if err := p.relay(t.Context(), at, []netip.AddrPort{second}); err != nil {
		t.Fatal(err)
	}

	if got := ask(); got != "second" {
		t.Error(got)
	}
}

func TestAPortOfUDPHasTheEndpointsOfItsProtocol(t *testing.T) {
	udp, tcp, number := corev1.ProtocolUDP, corev1.ProtocolTCP, int32(53)
	dns, overTCP := "dns", "dns-tcp"
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: "kube-system"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{
			{Name: dns, Port: 53, Protocol: udp}, {Name: overTCP, Port: 53, Protocol: tcp},
		}},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}},
		Ports:      []discoveryv1.EndpointPort{{Name: &dns, Port: &number, Protocol: &udp}, {Name: &overTCP, Port: &number, Protocol: &tcp}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.254"}}},
	}

	plan := planProxy([]*corev1.Service{service}, []*discoveryv1.EndpointSlice{slice}, false)
	at, wanted := netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("10.244.0.254:53")

	for name, found := range map[string][]netip.AddrPort{"UDP": plan.datagrams[at], "TCP": plan.backends[at]} {
		if len(found) != 1 || found[0] != wanted {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestAClientStaysWithItsEndpointWhereTheServiceSaysSo(t *testing.T) {
	first, second := echoServer(t, "127.0.0.1", "first"), echoServer(t, "127.0.0.1", "second")
	backends := []netip.AddrPort{first.AddrPort(), second.AddrPort()}
	at := netip.MustParseAddrPort("127.10.96.3:5380")

	for _, sticky := range []bool{true, false} {
		p := &proxy{frontends: map[netip.AddrPort]*frontend{}}
		if err := p.open(t.Context(), at, backends, sticky); err != nil {
			t.Fatal(err)
		}

		answers := map[string]bool{}

		for range 6 {
			answer, err := ask(at.String())
			if err != nil {
				t.Fatal(err)
			}

			answers[answer] = true
		}

		p.frontends[at].close()

		if stayed := len(answers) == 1; stayed != sticky {
			t.Errorf("sessionAffinity %v: %v", sticky, answers)
		}
	}
}
