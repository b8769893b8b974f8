// Package datapath is the simulated part of Cilium's agent in every machine: it translates addresses of Services for pods and
// for the machine's own programs, and lets a pod's connection through only when somebody decides so. The kernel's packet
// filter does it, not eBPF; what is decided, and by whom, is a matter of the cluster that runs on the machines.
package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/network"
)

// Space is the network namespace of a machine.
type Space interface {
	HoldPods(ctx context.Context, decide func(network.Connection) bool) error
	SetServices(services network.Services) error
	Forget(which func(network.Connection) bool) error
}

// Machines are the data paths of all machines that run.
type Machines struct {
	mu       sync.Mutex
	running  []*Machine
	decider  Decider
	deciders int
	services network.Services
	version  int
}

// Decider says whether a connection is let through at a machine.
type Decider func(at *Machine, asked network.Connection) bool

// Machine is the data path of one, from its boot to its end. A nil one holds nobody to anything.
type Machine struct {
	all     *Machines
	space   Space
	address func() netip.Addr
	problem error
	pods    map[netip.Addr]*corev1.Pod
}

// Begin makes the data path of a machine that boots. `address` is the machine's own.
func (a *Machines) Begin(ctx context.Context, space Space, address func() netip.Addr) *Machine {
	if a == nil {
		return nil
	}

	m := &Machine{all: a, space: space, address: address, pods: map[netip.Addr]*corev1.Pod{}}

	m.problem = space.HoldPods(ctx, m.decide)

	a.mu.Lock()
	defer a.mu.Unlock()

	m.problem = errors.Join(m.problem, space.SetServices(a.services))
	a.running = append(a.running, m)

	context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()

		a.running = slices.DeleteFunc(a.running, func(one *Machine) bool { return one == m })
		a.version++
	})

	return m
}

func (m *Machine) decide(asked network.Connection) bool {
	m.all.mu.Lock()
	decider := m.all.decider
	m.all.mu.Unlock()

	return decider != nil && decider(m, asked)
}

// Address is the machine's own.
func (m *Machine) Address() netip.Addr { return m.address() }

// Plug is told of a pod before its first program starts, with the address that it has from now on. It fails where
// the kernel cannot hold network policies: a pod that none can hold does not start.
func (m *Machine) Plug(pod *corev1.Pod, address netip.Addr) error {
	if m == nil {
		return nil
	}

	if m.problem != nil {
		return lacking(m.problem)
	}

	m.all.mu.Lock()
	defer m.all.mu.Unlock()

	m.pods[address] = pod
	m.all.version++

	return nil
}

// Try says what this computer's kernel lacks for pods that run as processes, by a namespace that it makes and removes.
func Try(ctx context.Context, bridge *network.Bridge) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	space, err := bridge.NewNamespace("trial")
	if err != nil {
		return err
	}

	at := netip.MustParseAddrPort("192.0.2.1:443")
	// Two endpoints: between them the kernel has to choose.
	ends := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:443"), netip.MustParseAddrPort("192.0.2.3:443")}
	service := network.Service{At: at, Protocol: syscall.IPPROTO_TCP, Endpoints: ends}

	err = errors.Join(
		space.HoldPods(ctx, func(network.Connection) bool { return false }),
		space.SetServices(network.Services{All: []network.Service{service}}),
	)
	if err != nil {
		err = lacking(err)
	}

	return errors.Join(err, space.Close())
}

func lacking(problem error) error {
	return fmt.Errorf("the lab cannot hold network policies on this computer (it needs the kernel's nftables with connection tracking, address "+
		"translation and queues: modules nft_ct, nft_nat, nft_masq, nft_numgen, nft_queue or nft_compat with xt_NFQUEUE): %w", problem)
}

// Unplug is told when the address is free again.
func (m *Machine) Unplug(address netip.Addr) {
	if m == nil {
		return
	}

	m.all.mu.Lock()
	defer m.all.mu.Unlock()

	delete(m.pods, address)
	m.all.version++
}

// Has says whether an address is that of a pod that runs as a process on this machine.
func (m *Machine) Has(address netip.Addr) bool {
	m.all.mu.Lock()
	defer m.all.mu.Unlock()

	return m.pods[address] != nil
}

// Has says the same of all machines.
func (a *Machines) Has(address netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()

	return slices.ContainsFunc(a.running, func(m *Machine) bool { return m.pods[address] != nil })
}

// Pods are those that run as processes on all machines, by their addresses; another version is another answer.
func (a *Machines) Pods() (pods map[netip.Addr]*corev1.Pod, version int) {
	a.mu.Lock()
	defer a.mu.Unlock()

	pods = map[netip.Addr]*corev1.Pod{}
	for _, m := range a.running {
		maps.Copy(pods, m.pods)
	}

	return pods, a.version
}

// Version changes with the pods.
func (a *Machines) Version() int {
	a.mu.Lock()
	defer a.mu.Unlock()

	return a.version
}

// Decide makes somebody decide from now on, until the context ends.
func (a *Machines) Decide(ctx context.Context, decider Decider) {
	a.mu.Lock()
	defer a.mu.Unlock()

	a.deciders++
	own := a.deciders
	a.decider = decider

	context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()

		if a.deciders == own { // no other cluster has begun meanwhile
			a.decider = nil
		}
	})
}

// SetServices gives all machines the same translations. Datagrams to endpoints that are gone are not passed on as
// those of a connection any more; a connection of TCP ends with its endpoint.
func (a *Machines) SetServices(services network.Services) error {
	a.mu.Lock()
	defer a.mu.Unlock()

	if reflect.DeepEqual(a.services, services) {
		return nil
	}

	left := datagramEndpoints(services)
	gone := datagramEndpoints(a.services)
	maps.DeleteFunc(gone, func(at netip.AddrPort, _ bool) bool { return left[at] })

	var problems []error

	for _, m := range a.running {
		problems = append(problems, m.space.SetServices(services))

		if len(gone) > 0 {
			problems = append(problems, m.space.Forget(func(c network.Connection) bool { return c.Protocol == network.UDP && gone[c.To] }))
		}
	}

	if err := errors.Join(problems...); err != nil {
		return err
	}

	a.services = services

	return nil
}

func datagramEndpoints(services network.Services) map[netip.AddrPort]bool {
	found := map[netip.AddrPort]bool{}

	for _, service := range services.All {
		for _, endpoint := range service.Endpoints {
			if service.Protocol == network.UDP {
				found[endpoint] = true
			}
		}
	}

	return found
}

// Recheck ends the connections of pods that are not allowed any more, as Cilium, which asks the policies about every
// packet of who opened a connection.
func (a *Machines) Recheck(allowed func(at *Machine, asked network.Connection) bool) error {
	a.mu.Lock()
	running := slices.Clone(a.running)
	a.mu.Unlock()

	var problems []error
	for _, m := range running {
		problems = append(problems, m.space.Forget(func(c network.Connection) bool { return !allowed(m, c) }))
	}

	return errors.Join(problems...)
}
