package network

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interfaceName is what a VM's first network card is called by Talos on vSphere (net.ifnames=0).
const interfaceName = "eth0"

// maxLinkName is the kernel's IFNAMSIZ without the terminating zero.
const maxLinkName = 15

// portPatience is how long the bridge may take to see a new link; the kernel needs up to a second.
const portPatience = 10 * time.Second

// Namespace is the network of one machine: lo and its cards, eth0 and further ones, which are ends of veth pairs.
type Namespace struct {
	name   string
	handle *os.File
	ports  []string // the bridges' ends of further cards
	// services counts the tables of them.
	services int

	mu       sync.Mutex
	balanced []Balanced
}

// NewNamespace makes a network namespace whose eth0 is plugged into the bridge as the link `name`.
// No mount is needed: the open handle keeps the namespace alive.
func (b *Bridge) NewNamespace(name string) (*Namespace, error) {
	if len(name) == 0 || len(name) > maxLinkName {
		return nil, fmt.Errorf("namespace name %q: the kernel wants 1 to %d characters", name, maxLinkName)
	}

	handle, err := unshare()
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}

	n := &Namespace{name: name, handle: handle}

	if err := b.plug(n, name, interfaceName); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", name, err), handle.Close())
	}

	if err := n.Do(func() error { return bringUp("lo", interfaceName) }); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", name, err), n.Close())
	}

	if err := waitForPort(name); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", name, err), n.Close())
	}

	return n, nil
}

// waitForPort returns when the bridge forwards what the namespace says: the kernel looks at new links once a second
// only (net/core/link_watch.c), and drops what comes before, also the first question for a neighbour's address.
func waitForPort(name string) error {
	deadline := time.Now().Add(portPatience)

	for {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("port: %w", err)
		}

		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}

		if time.Now().After(deadline) {
			return fmt.Errorf("port: the link is %s after %s", link.Attrs().OperState, portPatience)
		}

		time.Sleep(10 * time.Millisecond)
	}
}

// unshare makes a new network namespace on a thread that is thrown away afterwards.
func unshare() (*os.File, error) {
	type result struct {
		handle *os.File
		err    error
	}

	done := make(chan result)

	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine

		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("unshare: %w", err)}

			return
		}

		handle, err := os.Open(threadNamespace())
		done <- result{handle, err}
	}()

	r := <-done

	return r.handle, r.err
}

func threadNamespace() string {
	return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
}

// AddCard gives the machine a further network card, which is plugged into the bridge; the first one is its eth1.
func (n *Namespace) AddCard(b *Bridge) error {
	number := strconv.Itoa(len(n.ports) + 1)
	port, card := n.name+number, "eth"+number

	err := b.plug(n, port, card)
	if err == nil {
		n.ports = append(n.ports, port)
		err = n.Do(func() error { return bringUp(card) })
	}

	if err == nil {
		err = waitForPort(port)
	}

	if err != nil {
		return fmt.Errorf("namespace %s: card %s: %w", n.name, card, err)
	}

	return nil
}

// plug joins the namespace to the bridge with a veth pair: `port` at the bridge, `card` in the namespace.
func (b *Bridge) plug(n *Namespace, port, card string) error {
	bridge, err := netlink.LinkByName(b.name)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", b.name, err)
	}

	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
		PeerName:      card,
		PeerNamespace: netlink.NsFd(int(n.handle.Fd())),
		// The same after each start, as a virtual card's.
		PeerHardwareAddr: hardwareAddress(port),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}

	link, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}

	return netlink.LinkSetUp(link)
}

// hardwareAddress is a card's: one of those that vCenter gives (00:50:56:80:00:00 to bf:ff:ff), by the name of its port.
func hardwareAddress(port string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(port))

	return net.HardwareAddr{0x00, 0x50, 0x56, 0x80 | sum[0]&0x3f, sum[1], sum[2]}
}

func bringUp(names ...string) error {
	for _, name := range names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}

		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s: up: %w", name, err)
		}
	}

	return nil
}

// Do runs f on an OS thread inside the namespace. Sockets that f opens stay there for their lifetime.
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()

	outside, err := os.Open(threadNamespace())
	if err != nil {
		runtime.UnlockOSThread()

		return fmt.Errorf("namespace %s: %w", n.name, err)
	}
	defer outside.Close()

	if err := unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()

		return fmt.Errorf("namespace %s: enter: %w", n.name, err)
	}

	result := f()

	if err := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread cannot be given back: it stays locked and ends with this goroutine.
		return errors.Join(result, fmt.Errorf("namespace %s: leave: %w", n.name, err))
	}

	runtime.UnlockOSThread()

	return result
}

// Listen is net.Listen inside the namespace.
func (n *Namespace) Listen(network, address string) (listener net.Listener, err error) {
	err = n.Do(func() error {
		listener, err = net.Listen(network, address)

		return err
	})

	return listener, err
}

// DialContext is net.Dialer.DialContext inside the namespace; the address must be an IP address and a port,
// as there is no resolver in a machine.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() error {
		var dialer net.Dialer

		conn, err = dialer.DialContext(ctx, network, address)

		return err
	})

	return conn, err
}

// Start starts a program inside the namespace; see the function Start.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	return start(cmd, func() error {
		if err := unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("namespace %s: enter: %w", n.name, err)
		}

		return nil
	})
}

// Start starts a program that is killed when the lab ends, however it ends: Pdeathsig follows the thread
// that forked, so that thread waits, locked, for as long as the program lives. The caller calls cmd.Wait as usual.
func Start(cmd *exec.Cmd) error {
	return start(cmd, func() error { return nil })
}

func start(cmd *exec.Cmd, enter func() error) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}

	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL

	started := make(chan error)

	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine

		if err := enter(); err != nil {
			started <- err

			return
		}

		err := cmd.Start()

		var pid int
		if err == nil {
			pid = cmd.Process.Pid
		}

		started <- err

		if err == nil {
			waitForExit(pid)
		}
	}()

	return <-started
}

// waitForExit returns when the process has ended, and leaves its exit status to cmd.Wait.
func waitForExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// AddAddress gives eth0 a further address.
func (n *Namespace) AddAddress(address netip.Prefix) error {
	return n.AddAddressTo(interfaceName, address)
}

// AddAddressTo gives a card a further address.
func (n *Namespace) AddAddressTo(card string, address netip.Prefix) error {
	return n.onCard(card, "add "+address.String(), func(link netlink.Link) error {
		return netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address)})
	})
}

// BringUp brings a link up that somebody else made in the namespace.
func (n *Namespace) BringUp(link string) error {
	return n.Do(func() error {
		if err := bringUp(link); err != nil {
			return fmt.Errorf("namespace %s: %w", n.name, err)
		}

		return nil
	})
}

// RemoveAddress takes an address from eth0; it is no error when eth0 has not got it.
func (n *Namespace) RemoveAddress(address netip.Prefix) error {
	return n.RemoveAddressFrom(interfaceName, address)
}

// RemoveAddressFrom takes an address from a card; it is no error when the card has not got it.
func (n *Namespace) RemoveAddressFrom(card string, address netip.Prefix) error {
	return n.onCard(card, "remove "+address.String(), func(link netlink.Link) error {
		err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(address)})
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil
		}

		return err
	})
}

// Addresses are those of eth0, link-local ones left out.
func (n *Namespace) Addresses() (addresses []netip.Prefix, err error) {
	err = n.onInterface("list addresses", func(link netlink.Link) error {
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}

		for _, entry := range list {
			address, _ := netip.AddrFromSlice(entry.IP)
			if address = address.Unmap(); address.IsLinkLocalUnicast() {
				continue
			}

			bits, _ := entry.Mask.Size()
			addresses = append(addresses, netip.PrefixFrom(address, bits))
		}

		return nil
	})

	return addresses, err
}

// Links are all links of the namespace.
func (n *Namespace) Links() (links []netlink.Link, err error) {
	err = n.Do(func() error {
		links, err = netlink.LinkList()

		return err
	})

	return links, err
}

// Routes are those of all tables.
func (n *Namespace) Routes() (routes []netlink.Route, err error) {
	err = n.Do(func() error {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)

		return err
	})

	return routes, err
}

// SetDefaultRoute sends everything that is not local through the gateway.
func (n *Namespace) SetDefaultRoute(gateway netip.Addr) error {
	return n.onInterface("default route through "+gateway.String(), func(link netlink.Link) error {
		everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gateway.Is6() {
			everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}

		return netlink.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       ipNet(everything),
			Gw:        gateway.AsSlice(),
		})
	})
}

// SetLink pulls the machine's cable, or plugs it in again: the bridge's end goes down,
// eth0 keeps its addresses and loses its carrier.
func (n *Namespace) SetLink(up bool) error {
	link, err := netlink.LinkByName(n.name)
	if err != nil {
		return fmt.Errorf("namespace %s: cable: %w", n.name, err)
	}

	if up {
		return netlink.LinkSetUp(link)
	}

	return netlink.LinkSetDown(link)
}

// Close unplugs the namespace and lets it go; it vanishes when the last program and socket in it are gone.
func (n *Namespace) Close() error {
	var problems []error

	for _, port := range append([]string{n.name}, n.ports...) {
		if link, err := netlink.LinkByName(port); err == nil {
			problems = append(problems, netlink.LinkDel(link))
		}
	}

	problems = append(problems, n.handle.Close())

	return errors.Join(problems...)
}

// onInterface runs f with eth0 inside the namespace.
func (n *Namespace) onInterface(what string, f func(netlink.Link) error) error {
	return n.onCard(interfaceName, what, f)
}

func (n *Namespace) onCard(card, what string, f func(netlink.Link) error) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(card)
		if err == nil {
			err = f(link)
		}

		if err != nil {
			return fmt.Errorf("namespace %s: %s: %s: %w", n.name, card, what, err)
		}

		return nil
	})
}
