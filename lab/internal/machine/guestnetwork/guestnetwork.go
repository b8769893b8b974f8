// Package guestnetwork is the network of a simulated machine as its system configures it: addresses, name, firewall,
// and the way from inside the machine to others.
package guestnetwork

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/network"
)

// answerTimeout is how long a port has to accept a connection.
const answerTimeout = time.Second

// Loopback is every machine's own address.
var Loopback = netip.MustParseAddr("127.0.0.1")

// Network is a machine's network cards inside its network namespace: eth0, and further ones.
type Network struct {
	*network.Namespace

	// Platform is nil without usable metadata.
	Platform *guestinfo.Network

	life   *lifetime.Lifetime
	active *configuration.Active
	// machineID is the VM's UUID.
	machineID string
	// problem says why there is no usable metadata.
	problem error
	// switches are the port groups of further cards, by name.
	switches map[string]*network.Bridge

	mu        sync.Mutex
	addresses []netip.Prefix
	// cards are the addresses of further cards, eth1 first.
	cards [][]netip.Prefix
	// sideroLink is the machine's address at SideroLink, invalid when it has not joined; sideroName is that link's name.
	sideroLink netip.Prefix
	sideroName string
}

// New plugs a machine into a port group.
func New(life *lifetime.Lifetime, active *configuration.Active, vm hardware.VM, bridge *network.Bridge, switches map[string]*network.Bridge) (*Network, error) {
	n := WithoutCard(life, active, vm)
	n.switches = switches

	var err error
	if n.Namespace, err = bridge.NewNamespace(linkName(vm.ID)); err != nil {
		return nil, err
	}

	n.plug(vm.Networks)

	return n, nil
}

// PlugCards gives the machine those of its cards that it has not yet; networks are the port groups of all its cards. One
// that is gone stays until the machine's next start: nobody takes a card out of a running machine.
func (n *Network) PlugCards(networks []string) {
	n.plug(networks)
	n.Apply(n.active.Provider())
}

func (n *Network) plug(networks []string) {
	n.mu.Lock()
	defer n.mu.Unlock()

	for _, name := range networks[min(len(networks), 1+len(n.cards)):] {
		bridge, known := n.switches[name]
		if !known {
			n.life.Log.Error("a network card is in a port group that the lab does not have", "network", name)

			break
		}

		n.life.LogError("network card not plugged", n.AddCard(bridge))
		n.cards = append(n.cards, nil)
	}
}

// WithoutCard is a network that no machine is plugged into: it has a name, for tests.
func WithoutCard(life *lifetime.Lifetime, active *configuration.Active, vm hardware.VM) *Network {
	n := &Network{life: life, active: active, machineID: vm.ID}
	n.Platform, n.problem = guestinfo.ReadNetwork(vm.GuestInfo)

	return n
}

// linkName is the bridge's end of a machine's cable: the kernel allows 15 characters.
func linkName(id string) string {
	plain := strings.ReplaceAll(id, "-", "")

	return "vm" + plain[max(0, len(plain)-12):]
}

// ApplyPlatform configures eth0 as the hypervisor says. There is no DHCP server: a machine
// without an address stays unreachable.
func (n *Network) ApplyPlatform() {
	if n.problem != nil {
		n.life.Log.Error("guestinfo.metadata is not usable, the machine has no address", "error", n.problem)
	} else if n.Platform == nil || len(n.Platform.Addresses) == 0 {
		n.life.Log.Warn("guestinfo.metadata gives no address and there is no DHCP server: the machine is unreachable")
	}

	n.Apply(nil)
}

// Apply gives eth0 the addresses and the default route of all configuration layers.
func (n *Network) Apply(provider config.Provider) {
	wanted, gateway := wantedNetwork(n.Platform, provider)

	n.mu.Lock()
	old := n.addresses
	n.addresses = wanted
	n.mu.Unlock()

	for _, address := range old {
		if !slices.Contains(wanted, address) {
			n.life.LogError("address not removed", n.RemoveAddress(address))
		}
	}

	for _, address := range wanted {
		n.life.LogError("address not added", n.AddAddress(address))
	}

	if gateway.IsValid() {
		n.life.LogError("default route not set", n.SetDefaultRoute(gateway))
	}

	n.applyCards(provider)
	n.life.Changed()
}

// applyCards gives the further cards the addresses that platform and configuration say; nothing of them has a route but
// to its own network.
func (n *Network) applyCards(provider config.Provider) {
	n.mu.Lock()
	defer n.mu.Unlock()

	for index, old := range n.cards {
		card := fmt.Sprintf("eth%d", index+1)
		wanted := wantedOfCard(n.Platform, provider, card)

		for _, address := range old {
			if !slices.Contains(wanted, address) {
				n.life.LogError("address not removed", n.RemoveAddressFrom(card, address))
			}
		}

		for _, address := range wanted {
			n.life.LogError("address not added", n.AddAddressTo(card, address))
		}

		n.cards[index] = wanted
	}
}

func wantedOfCard(platform *guestinfo.Network, provider config.Provider, card string) []netip.Prefix {
	var wanted []netip.Prefix
	if platform != nil {
		wanted = slices.Clone(platform.Cards[card])
	}

	if provider == nil {
		return wanted
	}

	for _, link := range provider.NetworkCommonLinkConfigs() {
		for _, address := range link.Addresses() {
			if link.Name() == card && !slices.Contains(wanted, address.Address()) {
				wanted = append(wanted, address.Address())
			}
		}
	}

	return wanted
}

// furtherCard matches the names of network cards beside eth0. A VLAN's addresses are eth0's: the lab has no VLANs.
var furtherCard = regexp.MustCompile(`^eth[1-9]\d*$`)

// AddAddress gives eth0 a further address.
func (n *Network) AddAddress(address netip.Prefix) error {
	defer n.life.Changed()

	return n.Namespace.AddAddress(address)
}

// RemoveAddress takes an address from eth0; it is no error when eth0 has not got it.
func (n *Network) RemoveAddress(address netip.Prefix) error {
	defer n.life.Changed()

	return n.Namespace.RemoveAddress(address)
}

// wantedNetwork merges the platform's network with that of the machine configuration's link documents
// (LinkConfig, and the older machine.network.interfaces).
func wantedNetwork(platform *guestinfo.Network, provider config.Provider) (addresses []netip.Prefix, gateway netip.Addr) {
	if platform != nil {
		addresses, gateway = slices.Clone(platform.Addresses), platform.Gateway
	}

	if provider == nil {
		return addresses, gateway
	}

	for _, link := range provider.NetworkCommonLinkConfigs() {
		if furtherCard.MatchString(link.Name()) {
			continue
		}

		for _, address := range link.Addresses() {
			if !slices.Contains(addresses, address.Address()) {
				addresses = append(addresses, address.Address())
			}
		}

		for _, route := range link.Routes() {
			if _, specific := route.Destination().Get(); specific {
				continue
			}

			gateway = route.Gateway().ValueOr(gateway)
		}
	}

	for _, device := range devices(provider) {
		for _, text := range device.Addresses() {
			if address, err := netip.ParsePrefix(text); err == nil && !slices.Contains(addresses, address) {
				addresses = append(addresses, address)
			}
		}
	}

	return addresses, gateway
}

// devices are the network interfaces of the older machine.network.interfaces.
func devices(provider config.Provider) []talosconfig.Device {
	if provider.Machine() == nil || provider.Machine().Network() == nil {
		return nil
	}

	return provider.Machine().Network().Devices()
}

// Address is the machine's first address; invalid when it has none.
func (n *Network) Address() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()

	if len(n.addresses) == 0 {
		return netip.Addr{}
	}

	return n.addresses[0].Addr()
}

// Hostname follows Talos' layers: machine configuration, platform, and at last a stable one made from the identity.
func (n *Network) Hostname() string {
	provider := n.active.Provider()

	if provider != nil {
		if host := provider.NetworkHostnameConfig(); host != nil && host.Hostname() != "" {
			return host.Hostname()
		}
	}

	if n.Platform != nil && n.Platform.Hostname != "" {
		return n.Platform.Hostname
	}

	if provider != nil {
		if host := provider.NetworkHostnameConfig(); host != nil && host.AutoHostname() == nethelpers.AutoHostnameKindAddr {
			return "talos-" + strings.NewReplacer(".", "-", ":", "").Replace(n.Address().String())
		}
	}

	return "talos-" + linkName(n.machineID)[2:]
}

// WatchCable pulls and plugs the machine's cable as a fault file comes and goes.
func (n *Network) WatchCable(fault string) {
	plugged := true

	for ; !n.life.IsOver(); n.life.Sleep(lifetime.Tick) {
		_, err := os.Stat(fault)
		if wanted := err != nil; wanted != plugged {
			n.life.Log.Warn("cable", "plugged", wanted, "fault", fault)
			n.life.LogError("cable", n.SetLink(wanted))
			plugged = wanted
		}
	}
}

// Dial reaches an address from inside the machine; a name is looked up in the lab.
func (n *Network) Dial(ctx context.Context, protocol, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}

	if host == "localhost" {
		host = Loopback.String()
	} else if _, err := netip.ParseAddr(host); err != nil {
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
		if err != nil {
			return nil, err
		}

		host = found[0].Unmap().String()
	}

	return n.DialContext(ctx, protocol, net.JoinHostPort(host, port))
}

// Ready says whether the machine has an address.
func (n *Network) Ready() bool { return n.Address().IsValid() }

// SetSideroLink brings a link up and gives it its address, in place of the one that the machine had at SideroLink before;
// without an address the link is gone, and its address with it.
func (n *Network) SetSideroLink(link string, address netip.Prefix) error {
	n.mu.Lock()
	before, named := n.sideroLink, n.sideroName
	n.sideroLink, n.sideroName = address, link
	n.mu.Unlock()

	defer n.life.Changed()

	if !address.IsValid() {
		return nil
	}

	if before.IsValid() && before != address && named == link {
		n.life.LogError("address not removed", n.RemoveAddressFrom(link, before))
	}

	if err := n.BringUp(link); err != nil {
		return err
	}

	return n.AddAddressTo(link, address)
}

// SideroLink is the machine's address at SideroLink, and the name of the link; invalid when it has not joined.
func (n *Network) SideroLink() (netip.Prefix, string) {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.sideroLink, n.sideroName
}

// CertificateAddresses are those that the certificates of the machine's servers name: its own, and that at SideroLink
// (NodeAddressAccumulative; what leads to other machines is made of NodeAddresses, NodeAddressRouted).
func (n *Network) CertificateAddresses() []netip.Addr {
	all := n.NodeAddresses()
	if joined, _ := n.SideroLink(); joined.IsValid() {
		all = append(all, joined.Addr())
	}

	return all
}

// Answers says whether a TCP port can be reached from the machine.
func (n *Network) Answers(address netip.Addr, port int) bool {
	ctx, cancel := context.WithTimeout(n.life.Context(), answerTimeout)
	defer cancel()

	conn, err := n.DialContext(ctx, "tcp", net.JoinHostPort(address.String(), fmt.Sprint(port)))
	if err != nil {
		return false
	}

	conn.Close()

	return true
}

// NodeAddresses are the machine's addresses, without the VIP, that at SideroLink, and masks.
func (n *Network) NodeAddresses() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()

	var list []netip.Addr
	for _, address := range slices.Concat(append([][]netip.Prefix{n.addresses}, n.cards...)...) {
		list = append(list, address.Addr())
	}

	return list
}

// FurtherAddresses are those of the cards beside eth0, by the cards' names.
func (n *Network) FurtherAddresses() map[string][]netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()

	found := map[string][]netip.Prefix{}
	for index, addresses := range n.cards {
		found[fmt.Sprintf("eth%d", index+1)] = slices.Clone(addresses)
	}

	return found
}

// HasAddress says whether the machine has an address now, the VIP among them.
func (n *Network) HasAddress(text string) bool {
	addresses, err := n.Addresses()
	if err != nil {
		return false
	}

	for _, address := range addresses {
		if address.Addr().String() == text {
			return true
		}
	}

	return false
}

// Resolvers are the name servers of the configuration (ResolverConfig), else those of the platform.
func (n *Network) Resolvers() []netip.Addr {
	if provider := n.active.Provider(); provider != nil {
		if resolver := provider.NetworkResolverConfig(); resolver != nil && len(resolver.Resolvers()) > 0 {
			return resolver.Resolvers()
		}
	}

	return n.Platform.Resolvers
}

// NodeIP is the machine's address among machine.kubelet.nodeIP.validSubnets; invalid when there is none.
func (n *Network) NodeIP(provider config.Provider) netip.Addr {
	return n.AddressIn(provider.Machine().Kubelet().NodeIP().ValidSubnets())
}

// AddressIn is the machine's first address in one of the subnets, of which none means all.
func (n *Network) AddressIn(subnets []string) netip.Addr {
	for _, address := range n.NodeAddresses() {
		if len(subnets) == 0 || slices.ContainsFunc(subnets, func(subnet string) bool {
			prefix, err := netip.ParsePrefix(subnet)

			return err == nil && prefix.Contains(address)
		}) {
			return address
		}
	}

	return netip.Addr{}
}

// VirtualIP is the machine's first VIP.
func VirtualIP(provider config.Provider) (netip.Addr, bool) {
	for _, vip := range provider.NetworkVirtualIPConfigs() {
		return vip.VIP(), true
	}

	for _, device := range devices(provider) {
		if vip := device.VIPConfig(); vip != nil {
			if address, err := netip.ParseAddr(vip.IP()); err == nil {
				return address, true
			}
		}
	}

	return netip.Addr{}, false
}
