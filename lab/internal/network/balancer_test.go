package network

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	balanced  = netip.MustParseAddrPort("192.0.2.100:80")
	firstPod  = netip.MustParseAddr("198.51.100.1")
	secondPod = netip.MustParseAddr("198.51.100.129")
)

// newPod plugs a pod into a machine, and lets the bridge's namespace route to it. It answers with its own name and the
// address that it is asked from.
func newPod(t *testing.T, machine *Namespace, name string, address, through netip.Addr) *Namespace {
	t.Helper()

	pod, err := machine.NewPod(name, address, through)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = machine.RemovePod(pod) })

	if err := AddRoute(address, through); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = RemoveRoute(address) })

	listener, err := pod.Listen("tcp", "0.0.0.0:8080")
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

			from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			_, _ = io.WriteString(conn, name+" "+from)
			conn.Close()
		}
	}()

	return pod
}

// noAnswer stands for all that a client may see of a port that nobody serves.
const noAnswer = "no answer"

// askPort gives the answer of a port.
func askPort(t *testing.T, dial dialer, at netip.AddrPort) string {
	t.Helper()

	answer, err := ask(t, time.Second, dial, at)
	if err != nil {
		return noAnswer
	}

	return answer
}

func TestAMachinePassesOnWhatComesForALoadBalancerAddress(t *testing.T) {
	bridge := newBridge(t)
	one, two := newNamespace(t, bridge, "one", first), newNamespace(t, bridge, "two", second)

	for _, machine := range []*Namespace{one, two} {
		if err := machine.SetDefaultRoute(gateway.Addr()); err != nil {
			t.Fatal(err)
		}
	}

	if err := Forward(); err != nil {
		t.Fatal(err)
	}

	newPod(t, one, "lxcone", firstPod, first.Addr())
	newPod(t, two, "lxctwo", secondPod, second.Addr())

	// Who has the address says a speaker; here a route does.
	if err := AddRoute(balanced.Addr(), first.Addr()); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = RemoveRoute(balanced.Addr()) })

	here := Endpoint{At: netip.AddrPortFrom(firstPod, 8080), Here: true}
	there := Endpoint{At: netip.AddrPortFrom(secondPod, 8080)}
	outside := new(net.Dialer).DialContext
	set := func(endpoints ...Endpoint) {
		t.Helper()

		if err := one.SetBalanced([]Balanced{{At: balanced, Protocol: TCP, Endpoints: endpoints}}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what, got, wanted string) {
		t.Helper()

		if got != wanted {
			t.Errorf("%s: %q, not %q", what, got, wanted)
		}
	}

	set(here)
	expect("to a pod of the machine", askPort(t, outside, balanced), "lxcone "+gateway.Addr().String())
	expect("a port of no Service", askPort(t, outside, netip.AddrPortFrom(balanced.Addr(), 81)), noAnswer)

	set(there)
	expect("to another machine's pod", askPort(t, outside, balanced), "lxctwo "+first.Addr().String())

	set(here, there)

	var answers []string
	for range 60 {
		answers = append(answers, askPort(t, outside, balanced))
	}

	slices.Sort(answers)

	if all := slices.Compact(answers); len(all) != 2 {
		t.Errorf("two endpoints answer as %q", all)
	}

	set()
	expect("without endpoints", askPort(t, outside, balanced), noAnswer)
}

func TestAStickyServiceKeepsAClientWithOneEndpoint(t *testing.T) {
	bridge := newBridge(t)
	one := newNamespace(t, bridge, "one", first)

	newPod(t, one, "lxcone", firstPod, first.Addr())
	newPod(t, one, "lxctwo", secondPod, first.Addr())

	if err := AddRoute(balanced.Addr(), first.Addr()); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = RemoveRoute(balanced.Addr()) })

	endpoints := []Endpoint{{At: netip.AddrPortFrom(firstPod, 8080), Here: true}, {At: netip.AddrPortFrom(secondPod, 8080), Here: true}}
	if err := one.SetBalanced([]Balanced{{At: balanced, Protocol: TCP, Endpoints: endpoints, Sticky: true}}); err != nil {
		t.Fatal(err)
	}

	wanted := askPort(t, new(net.Dialer).DialContext, balanced)
	for range 20 {
		if got := askPort(t, new(net.Dialer).DialContext, balanced); got != wanted || got == noAnswer {
			t.Fatalf("%q after %q", got, wanted)
		}
	}
}
