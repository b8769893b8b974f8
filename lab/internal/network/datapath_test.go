package network

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	caller  = netip.MustParsePrefix("10.244.0.250/32")
	called  = netip.MustParsePrefix("10.244.0.251/32")
	service = netip.MustParsePrefix("10.96.0.7/32")
)

// questions are what the kernel asked, and what is answered.
type questions struct {
	mu    sync.Mutex
	asked []Connection
	allow bool
}

func (q *questions) decide(c Connection) bool {
	q.mu.Lock()
	defer q.mu.Unlock()

	q.asked = append(q.asked, c)

	return q.allow
}

func (q *questions) set(allow bool) {
	q.mu.Lock()
	defer q.mu.Unlock()

	q.allow, q.asked = allow, nil
}

// about says whether the kernel asked about a connection from one address to another's port 9.
func (q *questions) about(from, to netip.Prefix) bool {
	q.mu.Lock()
	defer q.mu.Unlock()

	return slices.ContainsFunc(q.asked, func(c Connection) bool {
		return c.Protocol == TCP && c.From.Addr() == from.Addr() && c.To == netip.AddrPortFrom(to.Addr(), 9)
	})
}

// heldPods are two pods of a machine, both with a server, whose packets wait for an answer.
func heldPods(t *testing.T) (machine, from, to *Namespace, q *questions) {
	t.Helper()

	bridge := newBridge(t)
	machine = newNamespace(t, bridge, "one", first)

	if err := machine.SetDefaultRoute(gateway.Addr()); err != nil {
		t.Fatal(err)
	}

	q = &questions{}
	if err := machine.HoldPods(t.Context(), q.decide); err != nil {
		t.Fatal(err)
	}

	made := map[netip.Prefix]*Namespace{}

	for name, address := range map[string]netip.Prefix{PodLinks + "from": caller, PodLinks + "to": called} {
		pod, err := machine.NewPod(name, address.Addr(), first.Addr())
		if err != nil {
			t.Fatal(err)
		}

		t.Cleanup(func() { _ = machine.RemovePod(pod) })
		serve(t, pod)

		if err := AddRoute(address.Addr(), first.Addr()); err != nil {
			t.Fatal(err)
		}

		made[address] = pod
	}

	serve(t, machine)

	return machine, made[caller], made[called], q
}

func TestAPodsConnectionsWaitForADecision(t *testing.T) {
	machine, from, _, q := heldPods(t)

	for name, one := range map[string]struct {
		dial     func(context.Context, string, string) (net.Conn, error)
		from, to netip.Prefix
		answers  string
	}{
		"to another pod":      {from.DialContext, caller, called, PodLinks + "to"},
		"to its own machine":  {from.DialContext, caller, first, "one"},
		"from outside to one": {new(net.Dialer).DialContext, gateway, called, PodLinks + "to"},
	} {
		q.set(false)

		if got := answerOf(t, one.dial, one.to); !strings.Contains(got, "i/o timeout") {
			t.Errorf("%s, refused: %q", name, got)
		}

		if !q.about(one.from, one.to) {
			t.Errorf("%s: asked about %v", name, q.asked)
		}

		q.set(true)

		if got := answerOf(t, one.dial, one.to); got != one.answers {
			t.Errorf("%s, allowed: %q", name, got)
		}
	}

	q.set(false)

	if got := answerOf(t, machine.DialContext, called); got != PodLinks+"to" || len(q.asked) > 0 {
		t.Errorf("the machine itself: %q, %v", got, q.asked)
	}
}

func TestAConnectionThatIsForgottenIsDecidedAgain(t *testing.T) {
	machine, from, to, q := heldPods(t)
	q.set(true)

	listener, err := to.Listen("tcp", "0.0.0.0:10")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()

	client, err := from.DialContext(ctx, "tcp", "10.244.0.251:10")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	reads := func(text string, patience time.Duration) error {
		if _, err := io.WriteString(client, text); err != nil {
			t.Fatal(err)
		}

		_ = server.SetReadDeadline(time.Now().Add(patience))
		_, err := io.ReadFull(server, make([]byte, len(text)))

		return err
	}

	q.set(false)

	if err := reads("before", 5*time.Second); err != nil {
		t.Fatalf("a connection that was allowed: %v", err)
	}

	if err := machine.Forget(func(c Connection) bool { return c.From.Addr() == caller.Addr() }); err != nil {
		t.Fatal(err)
	}

	if err := reads("after", time.Second); err == nil {
		t.Error("a forgotten connection goes on")
	}

	q.set(true)

	if err := reads("again", 5*time.Second); err != nil {
		t.Errorf("a connection that is allowed again: %v", err)
	}
}

func TestAServicesAddressIsTranslatedAndTheEndpointSeesWhoCalls(t *testing.T) {
	machine, from, to, q := heldPods(t)
	q.set(true)

	at := netip.AddrPortFrom(service.Addr(), 9)
	if got := answerOf(t, from.DialContext, service); got == PodLinks+"to" {
		t.Fatalf("before: %q", got)
	}

	set := func(endpoints ...netip.Prefix) {
		t.Helper()

		one := Service{Protocol: TCP, At: at}
		for _, address := range endpoints {
			one.Endpoints = append(one.Endpoints, netip.AddrPortFrom(address.Addr(), 9))
		}

		for _, sticky := range []bool{false, true} {
			one.Sticky = sticky
			if err := machine.SetServices(Services{All: []Service{one}}); err != nil {
				t.Fatal(err)
			}
		}
	}

	set(called)
	q.set(true)

	if got := answerOf(t, from.DialContext, service); got != PodLinks+"to" || !q.about(caller, called) {
		t.Errorf("a pod: %q, %v", got, q.asked)
	}

	if got := answerOf(t, machine.DialContext, service); got != PodLinks+"to" {
		t.Errorf("the machine: %q", got)
	}

	if got := answerOf(t, to.DialContext, service); got != PodLinks+"to" {
		t.Errorf("a pod that is its own endpoint: %q", got)
	}

	set(caller, called)

	// Sticky: one client, one endpoint.
	var answers []string
	for range 4 {
		answers = append(answers, answerOf(t, machine.DialContext, service))
	}

	if len(slices.Compact(answers)) != 1 {
		t.Errorf("a sticky client: %q", answers)
	}

	if err := machine.SetServices(Services{All: []Service{{Protocol: TCP, At: at, Endpoints: []netip.AddrPort{
		netip.AddrPortFrom(caller.Addr(), 9), netip.AddrPortFrom(called.Addr(), 9),
	}}}}); err != nil {
		t.Fatal(err)
	}

	found := map[string]bool{}
	for range 40 {
		found[answerOf(t, machine.DialContext, service)] = true
	}

	if !found[PodLinks+"from"] || !found[PodLinks+"to"] || len(found) != 2 {
		t.Errorf("two endpoints: %v", found)
	}

	// As many as a platform has.
	many := make([]Service, 100)
	for i := range many {
		many[i] = Service{Protocol: TCP, At: netip.AddrPortFrom(service.Addr(), uint16(10+i)), Endpoints: []netip.AddrPort{
			netip.AddrPortFrom(caller.Addr(), 9), netip.AddrPortFrom(called.Addr(), 9), netip.AddrPortFrom(first.Addr(), 9),
		}}
	}

	many[99].At = at

	for range 3 {
		if err := machine.SetServices(Services{All: many}); err != nil {
			t.Fatal(err)
		}
	}

	if got := answerOf(t, from.DialContext, service); got != PodLinks+"to" && got != PodLinks+"from" && got != "one" {
		t.Errorf("the last of many: %q", got)
	}

	set()

	if got := answerOf(t, from.DialContext, service); got == PodLinks+"to" {
		t.Errorf("without endpoints: %q", got)
	}
}

func TestWhatGoesToAServiceThatTheMachineDoesNotKnowIsLost(t *testing.T) {
	machine, from, _, q := heldPods(t)
	q.set(true)

	// Somebody outside would answer for the whole range.
	if err := AddLoopback(service.Addr()); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = RemoveLoopback(service.Addr()) })

	const lost = "i/o timeout"

	dials := map[string]func(context.Context, string, string) (net.Conn, error){"a pod": from.DialContext, "the machine": machine.DialContext}
	at := netip.AddrPortFrom(service.Addr(), 9)
	ranges := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}

	for name, one := range map[string]struct {
		services Services
		want     string
	}{
		"before the agent":     {Services{}, "connection refused"},
		"not known":            {Services{Ranges: ranges}, lost},
		"known by one port":    {Services{Ranges: ranges, All: []Service{{Protocol: TCP, At: netip.AddrPortFrom(service.Addr(), 10)}}}, lost},
		"without endpoints":    {Services{Ranges: ranges, All: []Service{{Protocol: TCP, At: at}}}, "connection refused"},
		"with an endpoint":     {Services{Ranges: ranges, All: []Service{{Protocol: TCP, At: at, Endpoints: []netip.AddrPort{netip.AddrPortFrom(called.Addr(), 9)}}}}, PodLinks + "to"},
		"of another's address": {Services{Ranges: []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")}}, "connection refused"},
	} {
		if err := machine.SetServices(one.services); err != nil {
			t.Fatal(err)
		}

		for who, dial := range dials {
			limit := patience
			if one.want == lost {
				limit = time.Second
			}

			if got := answerWithin(t, limit, dial, service); !strings.Contains(got, one.want) {
				t.Errorf("%s, %s: %q", name, who, got)
			}
		}
	}
}

func TestAPacketIsReadByItsHeaders(t *testing.T) {
	header := []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	got, whole := parse(append(slices.Clone(header), 0x1f, 0x90, 0, 80))

	if want := (Connection{TCP, netip.MustParseAddrPort("10.0.0.1:8080"), netip.MustParseAddrPort("10.0.0.2:80")}); !whole || got != want {
		t.Errorf("%+v", got)
	}

	for name, packet := range map[string][]byte{"without ports": header, "short": header[:10], "IPv6": append([]byte{0x60}, header...)} {
		if got, whole := parse(packet); whole {
			t.Errorf("%s: %+v", name, got)
		}
	}

	ping := slices.Clone(header)
	ping[9] = ICMP

	if got, whole := parse(ping); !whole || got.Protocol != ICMP || got.To.Port() != 0 {
		t.Errorf("%+v", got)
	}
}
