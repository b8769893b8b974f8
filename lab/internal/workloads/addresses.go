package workloads

import (
	"errors"
	"net/netip"
	"sync"

	"platform.lab/lab/internal/network"
)

// place is where an address is added.
type place int

const (
	// onLoopback answers to what is routed here: the machines' default route, and the lab itself.
	onLoopback place = iota
	// onBridge is a neighbour of the machines, found by ARP.
	onBridge
)

// Links carry addresses of the lab's own namespace.
type Links interface {
	Add(address netip.Addr, on place) error
	Remove(address netip.Addr, on place) error
}

// KernelLinks are lo and the bridge of the running world.
func KernelLinks(bridge *network.Bridge) Links { return kernelLinks{bridge} }

type kernelLinks struct{ bridge *network.Bridge }

func (k kernelLinks) Add(address netip.Addr, on place) error {
	if on == onBridge {
		return k.bridge.AddAddress(address)
	}

	return network.AddLoopback(address)
}

func (k kernelLinks) Remove(address netip.Addr, on place) error {
	if on == onBridge {
		return k.bridge.RemoveAddress(address)
	}

	return network.RemoveLoopback(address)
}

// addresses are those that the workloads of a cluster have added. Several may need the same one.
type addresses struct {
	links Links

	mu   sync.Mutex
	held map[held]int
}

type held struct {
	address netip.Addr
	on      place
}

func newAddresses(links Links) *addresses { return &addresses{links: links, held: map[held]int{}} }

func (a *addresses) hold(address netip.Addr, on place) error {
	a.mu.Lock()
	defer a.mu.Unlock()

	key := held{address, on}
	if a.held[key] == 0 {
		if err := a.links.Add(address, on); err != nil {
			return err
		}
	}

	a.held[key]++

	return nil
}

func (a *addresses) release(address netip.Addr, on place) error {
	a.mu.Lock()
	defer a.mu.Unlock()

	key := held{address, on}
	if a.held[key] > 1 {
		a.held[key]--

		return nil
	}

	delete(a.held, key)

	return a.links.Remove(address, on)
}

// releaseAll takes away whatever a part has left behind.
func (a *addresses) releaseAll() error {
	a.mu.Lock()
	defer a.mu.Unlock()

	var problems []error
	for key := range a.held {
		problems = append(problems, a.links.Remove(key.address, key.on))
	}

	clear(a.held)

	return errors.Join(problems...)
}
