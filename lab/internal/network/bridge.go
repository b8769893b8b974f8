// Package network is the lab's wiring: a bridge in the lab's own network namespace, and for every
// machine a namespace of its own whose eth0 is plugged into that bridge. It talks netlink to the
// kernel and needs no `ip` binary. Everything lives in the network namespace of the calling
// process, which the lab has unshared before: nothing here can touch the host's network.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is the switch of the port group: it carries the gateway's address.
type Bridge struct {
	name string
}

// gatewayHardware is the bridge's own hardware address. Without one the kernel gives it the lowest of its ports, another
// one with every machine that comes and goes, and machines would answer to an address that is gone.
var gatewayHardware = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}

// NewBridge makes a bridge with the given address in the current network namespace and brings it up.
func NewBridge(name string, address netip.Prefix) (*Bridge, error) {
	bridge, err := plainBridge(name, netlink.LinkAttrs{Name: name, HardwareAddr: gatewayHardware})
	if err != nil {
		return nil, err
	}

	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address)})
	}

	if err != nil {
		return nil, fmt.Errorf("bridge %s: address %s: %w", name, address, err)
	}

	return bridge, nil
}

// NewSwitch makes the switch of a further port group: nobody has an address in it but the machines that are plugged in.
func NewSwitch(name string) (*Bridge, error) { return plainBridge(name, netlink.LinkAttrs{Name: name}) }

func plainBridge(name string, attributes netlink.LinkAttrs) (*Bridge, error) {
	bridge := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("bridge %s: %w (the lab needs its own network namespace)", name, err)
	}

	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("bridge %s: up: %w", name, err)
	}

	return &Bridge{name: name}, nil
}

// Close removes the bridge.
func (b *Bridge) Close() error {
	link, err := netlink.LinkByName(b.name)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", b.name, err)
	}

	return netlink.LinkDel(link)
}

// AddLoopback gives lo of the current network namespace further addresses (as /32 or /128) and brings it up.
func AddLoopback(addresses ...netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}

	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: up: %w", err)
	}

	var problems []error

	for _, address := range addresses {
		if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen()))}); err != nil {
			problems = append(problems, fmt.Errorf("lo: address %s: %w", address, err))
		}
	}

	return errors.Join(problems...)
}

// RemoveLoopback takes an address from lo; it is no error when lo has not got it.
func RemoveLoopback(address netip.Addr) error {
	return removeAddress("lo", address)
}

// AddAddress gives the bridge a further address (as /32 or /128): machines find it by ARP.
func (b *Bridge) AddAddress(address netip.Addr) error {
	link, err := netlink.LinkByName(b.name)
	if err == nil {
		err = netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen()))})
	}

	if err != nil {
		return fmt.Errorf("bridge %s: address %s: %w", b.name, address, err)
	}

	return nil
}

// SetSource decides which of the lab's own addresses its connections to a network behind the bridge come from.
func (b *Bridge) SetSource(behind netip.Prefix, source netip.Addr) error {
	link, err := netlink.LinkByName(b.name)
	if err == nil {
		err = netlink.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL,
			Dst: ipNet(behind.Masked()), Src: source.AsSlice(),
		})
	}

	if err != nil {
		return fmt.Errorf("bridge %s: source %s: %w", b.name, source, err)
	}

	return nil
}

// RemoveAddress takes an address from the bridge; it is no error when the bridge has not got it.
func (b *Bridge) RemoveAddress(address netip.Addr) error {
	return removeAddress(b.name, address)
}

func removeAddress(name string, address netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen()))})
	}

	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("%s: address %s: %w", name, address, err)
	}

	return nil
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}
}
