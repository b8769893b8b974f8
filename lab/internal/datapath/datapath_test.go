package datapath

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/network"
)

// space remembers what a machine's network was told.
type space struct {
	problem  error
	decide   func(network.Connection) bool
	services network.Services
	forgets  func(network.Connection) bool
}

func (s *space) HoldPods(_ context.Context, decide func(network.Connection) bool) error {
	s.decide = decide

	return s.problem
}

func (s *space) SetServices(services network.Services) error {
	s.services = services

	return nil
}

func (s *space) Forget(which func(network.Connection) bool) error {
	s.forgets = which

	return nil
}

func machineAt(text string) func() netip.Addr {
	return func() netip.Addr { return netip.MustParseAddr(text) }
}

var asked = network.Connection{Protocol: network.TCP, From: netip.MustParseAddrPort("10.244.0.5:40000"), To: netip.MustParseAddrPort("10.244.0.6:80")}

func TestNothingPassesBeforeSomebodyDecidesNorAfter(t *testing.T) {
	all, one := &Machines{}, &space{}
	machine := all.Begin(t.Context(), one, machineAt("172.16.20.51"))

	if one.decide(asked) {
		t.Error("let through before")
	}

	ctx, cancel := context.WithCancel(t.Context())

	all.Decide(ctx, func(at *Machine, c network.Connection) bool { return at == machine && c == asked })

	if !one.decide(asked) {
		t.Error("not let through")
	}

	next, end := context.WithCancel(t.Context())
	defer end()

	all.Decide(next, func(*Machine, network.Connection) bool { return true })
	cancel()

	if !one.decide(network.Connection{}) {
		t.Error("who decides now went with who decided before")
	}
}

func TestAPodThatNobodyCanHoldDoesNotStart(t *testing.T) {
	all := &Machines{}
	machine := all.Begin(t.Context(), &space{problem: errors.New("no such expression")}, machineAt("172.16.20.51"))

	err := machine.Plug(&corev1.Pod{}, asked.From.Addr())
	if err == nil || !strings.Contains(err.Error(), "nft_queue") || !strings.Contains(err.Error(), "no such expression") {
		t.Error(err)
	}
}

func TestTheMachinesPodsAreKnownWithTheirAddressesUntilTheyGo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	all := &Machines{}
	first, second := all.Begin(ctx, &space{}, machineAt("172.16.20.51")), all.Begin(t.Context(), &space{}, machineAt("172.16.20.52"))
	before := all.Version()

	if err := errors.Join(first.Plug(&corev1.Pod{}, asked.From.Addr()), second.Plug(&corev1.Pod{}, asked.To.Addr())); err != nil {
		t.Fatal(err)
	}

	if pods, version := all.Pods(); len(pods) != 2 || version == before {
		t.Errorf("%v, version %d", pods, version)
	}

	if !first.Has(asked.From.Addr()) || first.Has(asked.To.Addr()) || !all.Has(asked.To.Addr()) {
		t.Error("a pod of another machine is this one's")
	}

	second.Unplug(asked.To.Addr())
	cancel()

	// The end of a machine is told in the background.
	for {
		if pods, _ := all.Pods(); len(pods) == 0 {
			break
		}
	}
}

func TestAMachineThatBootsHasTheServicesOfTheOthers(t *testing.T) {
	all, one, two := &Machines{}, &space{}, &space{}
	all.Begin(t.Context(), one, machineAt("172.16.20.51"))

	dns := network.Service{Protocol: network.UDP, At: netip.MustParseAddrPort("10.96.0.10:53"), Endpoints: []netip.AddrPort{
		netip.MustParseAddrPort("10.244.0.5:53"), netip.MustParseAddrPort("10.244.1.5:53"),
	}}
	if err := all.SetServices(network.Services{All: []network.Service{dns}}); err != nil {
		t.Fatal(err)
	}

	all.Begin(t.Context(), two, machineAt("172.16.20.52"))

	if len(one.services.All) != 1 || len(two.services.All) != 1 {
		t.Errorf("%v, %v", one.services, two.services)
	}

	dns.Endpoints = dns.Endpoints[:1]
	if err := all.SetServices(network.Services{All: []network.Service{dns}}); err != nil {
		t.Fatal(err)
	}

	gone := network.Connection{Protocol: network.UDP, To: netip.MustParseAddrPort("10.244.1.5:53")}
	left := network.Connection{Protocol: network.UDP, To: netip.MustParseAddrPort("10.244.0.5:53")}

	if one.forgets == nil || !one.forgets(gone) || one.forgets(left) {
		t.Error("datagrams still go to an endpoint that is gone")
	}
}

func TestAConnectionThatIsNotAllowedAnyMoreIsForgotten(t *testing.T) {
	all, one := &Machines{}, &space{}
	all.Begin(t.Context(), one, machineAt("172.16.20.51"))

	if err := all.Recheck(func(_ *Machine, c network.Connection) bool { return c != asked }); err != nil {
		t.Fatal(err)
	}

	if !one.forgets(asked) || one.forgets(network.Connection{}) {
		t.Error("the wrong ones are forgotten")
	}
}
