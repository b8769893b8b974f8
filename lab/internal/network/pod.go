package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NewPod makes the network namespace of a pod on the machine: its eth0 is one end of a veth pair whose other end, `name`, is
// in the machine. The machine routes: the pod has a single address, and no neighbour but the machine's address `gateway`.
func (n *Namespace) NewPod(name string, address, gateway netip.Addr) (*Namespace, error) {
	if len(name) == 0 || len(name) > maxLinkName {
		return nil, fmt.Errorf("pod's link %q: the kernel wants 1 to %d characters", name, maxLinkName)
	}

	handle, err := unshare()
	if err != nil {
		return nil, fmt.Errorf("pod's namespace %s: %w", name, err)
	}

	pod := &Namespace{name: name, handle: handle}

	err = n.Do(func() error { return n.plugPod(pod, address) })
	if err == nil {
		err = pod.Do(func() error { return setUpPod(address, gateway) })
	}

	if err != nil {
		return nil, errors.Join(fmt.Errorf("pod's namespace %s: %w", name, err), n.RemovePod(pod))
	}

	return pod, nil
}

// plugPod runs in the machine.
func (n *Namespace) plugPod(pod *Namespace, address netip.Addr) error {
	if err := Forward(); err != nil {
		return err
	}

	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: pod.name}, PeerName: interfaceName, PeerNamespace: netlink.NsFd(int(pod.handle.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}

	link, err := netlink.LinkByName(pod.name)
	if err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}

	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("veth pair: up: %w", err)
	}

	return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(single(address))})
}

// setUpPod runs in the pod.
func setUpPod(address, gateway netip.Addr) error {
	if err := bringUp("lo", interfaceName); err != nil {
		return err
	}

	// As containerd does: a program needs no rights for a low port of its own pod.
	if err := setKernel("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
		return err
	}

	link, err := netlink.LinkByName(interfaceName)
	if err != nil {
		return err
	}

	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(single(address))}); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}

	index := link.Attrs().Index
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipNet(single(gateway))}); err != nil {
		return fmt.Errorf("route to %s: %w", gateway, err)
	}

	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)

	return netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(everything), Gw: gateway.AsSlice()})
}

// RemovePod takes a pod's namespace from the machine; it vanishes when the last program and socket in it are gone.
func (n *Namespace) RemovePod(pod *Namespace) error {
	return errors.Join(n.Do(func() error {
		link, err := netlink.LinkByName(pod.name)
		if err != nil {
			return nil //nolint:nilerr // it never came so far
		}

		return netlink.LinkDel(link)
	}), pod.handle.Close())
}

// Forward lets the current network namespace pass on packets that are for others.
func Forward() error { return setKernel("net/ipv4/ip_forward", "1") }

// setKernel sets a variable of the calling thread's network namespace.
func setKernel(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("%s=%s: %w", name, value, err)
	}

	return nil
}

// AddRoute sends what is for an address through a machine, from the current network namespace.
func AddRoute(address, through netip.Addr) error {
	err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(single(address)), Gw: through.AsSlice()})
	if err != nil {
		return fmt.Errorf("route to %s through %s: %w", address, through, err)
	}

	return nil
}

// RemoveRoute takes back AddRoute; it is no error when there is no such route.
func RemoveRoute(address netip.Addr) error {
	err := netlink.RouteDel(&netlink.Route{Dst: ipNet(single(address))})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("route to %s: %w", address, err)
	}

	return nil
}

func single(address netip.Addr) netip.Prefix { return netip.PrefixFrom(address, address.BitLen()) }
