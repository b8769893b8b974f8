package resources

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/imager/quirks"
	"github.com/siderolabs/talos/pkg/machinery/kernel"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	"github.com/siderolabs/talos/pkg/machinery/resources/config"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	networkresource "github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	linkresource "github.com/siderolabs/talos/pkg/machinery/resources/siderolink"
	"github.com/vishvananda/netlink"
)

// What somebody who manages machines takes down of each: its hardware, its links and routes, and what it is told apart by.

// publishMachineHardware shows what SMBIOS and the boot loader say. On vSphere each CPU is a socket, and the memory is one module.
func (p *Publisher) publishMachineHardware() {
	for number := range p.Hardware.CPUs {
		id := fmt.Sprintf("CPU-%d", number)
		put(p, hardware.NewProcessorInfo(id), func(r *hardware.Processor) {
			spec := r.TypedSpec()
			spec.Socket, spec.Manufacturer, spec.ProductName = strings.ReplaceAll(id, "-", " "), "simulated", "simulated"
			spec.CoreCount, spec.CoreEnabled, spec.ThreadCount = 1, 1, 1
		})
	}

	put(p, hardware.NewMemoryModuleInfo("RAM-slot-#0"), func(r *hardware.MemoryModule) {
		spec := r.TypedSpec()
		spec.DeviceLocator, spec.Size, spec.ProductName = "RAM slot #0", uint32(p.Hardware.MemoryMiB), "VMW-simulated" //nolint:gosec // a size
	})

	put(p, runtime.NewKernelCmdline(), func(r *runtime.KernelCmdline) { r.TypedSpec().Cmdline = kernelArguments(p.TalosVersion()) })
}

// kernelArguments are those of Talos' image for VMware (platform/vmware/vmware.go).
func kernelArguments(version string) string {
	return strings.Join(append([]string{
		constants.KernelParamPlatform + "=vmware", constants.KernelParamConfig + "=" + constants.ConfigGuestInfo, "console=tty0", "console=ttyS0",
		"earlyprintk=ttyS0,115200", constants.KernelParamNetIfnames + "=0",
	}, kernel.DefaultArgs(quirks.New(version))...), " ")
}

// publishMeta shows the values of META, and what follows from them.
func (p *Publisher) publishMeta() {
	wanted := map[resource.ID]bool{}

	for key, value := range p.Meta.All() {
		id := runtime.MetaKeyTagToID(key)
		wanted[id] = true

		put(p, runtime.NewMetaKey(runtime.NamespaceName, id), func(r *runtime.MetaKey) { r.TypedSpec().Value = value })
	}

	keepOnly[*runtime.MetaKey](p, runtime.NewMetaKey(runtime.NamespaceName, "").Metadata(), wanted)

	put(p, runtime.NewUniqueMachineToken(), func(r *runtime.UniqueMachineToken) { r.TypedSpec().Token = p.UniqueToken() })
	put(p, hardware.NewSystemInformation(hardware.SystemInformationID), func(r *hardware.SystemInformation) {
		r.TypedSpec().Manufacturer, r.TypedSpec().ProductName, r.TypedSpec().UUID = "VMware, Inc.", "VMware Virtual Platform", p.SystemUUID()
	})
}

// publishSideroLink shows whom the machine joins, and how far it got; nothing of a machine that joins nobody.
func (p *Publisher) publishSideroLink() {
	status := p.Link.Status()
	joins, linked, tunnelled := map[resource.ID]bool{}, map[resource.ID]bool{}, map[resource.ID]bool{}

	if status.Host != "" {
		joins[linkresource.ConfigID], linked[linkresource.StatusID] = true, true

		put(p, linkresource.NewConfig(config.NamespaceName, linkresource.ConfigID), func(r *linkresource.Config) {
			spec := r.TypedSpec()
			spec.APIEndpoint, spec.Host, spec.JoinToken = status.APIURL, status.Host, status.JoinToken
			spec.Insecure, spec.Tunnel = status.Insecure, status.Settings.Tunnel
		})
		put(p, linkresource.NewStatus(), func(r *linkresource.Status) {
			spec := r.TypedSpec()
			spec.Connected, spec.GRPCTunnel = status.Connected, status.Tunnelled
			spec.Host, _, _ = net.SplitHostPort(status.Host)

			if spec.LinkName = constants.SideroLinkName; status.Tunnelled {
				spec.LinkName = constants.SideroLinkTunnelName
			}
		})
	}

	if status.Tunnelled {
		tunnelled[linkresource.TunnelID] = true

		put(p, linkresource.NewTunnel(), func(r *linkresource.Tunnel) {
			spec := r.TypedSpec()
			spec.APIEndpoint, spec.LinkName, spec.MTU, spec.NodeAddress = status.APIURL, status.Link, wireguard.LinkMTU, status.Peer
		})
	}

	keepOnly[*linkresource.Config](p, linkresource.NewConfig(config.NamespaceName, "").Metadata(), joins)
	keepOnly[*linkresource.Status](p, linkresource.NewStatus().Metadata(), linked)
	keepOnly[*linkresource.Tunnel](p, linkresource.NewTunnel().Metadata(), tunnelled)
}

// publishLinks shows the links of the machine's network namespace. What is one end of a cable here is a card of VMware's there.
func (p *Publisher) publishLinks() {
	links, err := p.Network.Links()
	if err != nil {
		p.LogError("links", err)

		return
	}

	wanted, names := map[resource.ID]bool{}, map[int]string{}

	for _, link := range links {
		attributes := link.Attrs()
		wanted[attributes.Name], names[attributes.Index] = true, attributes.Name

		put(p, networkresource.NewLinkStatus(networkresource.NamespaceName, attributes.Name), func(r *networkresource.LinkStatus) {
			describeLink(r.TypedSpec(), link)
		})
	}

	keepOnly[*networkresource.LinkStatus](p, networkresource.NewLinkStatus(networkresource.NamespaceName, "").Metadata(), wanted)

	p.publishRoutes(names)
}

func describeLink(spec *networkresource.LinkStatusSpec, link netlink.Link) {
	attributes := link.Attrs()

	spec.Index, spec.MTU = uint32(attributes.Index), uint32(attributes.MTU) //nolint:gosec // small numbers
	spec.HardwareAddr = nethelpers.HardwareAddr(attributes.HardwareAddr)
	spec.Flags = nethelpers.LinkFlags(attributes.RawFlags)
	spec.OperationalState = nethelpers.OperationalState(attributes.OperState)
	spec.LinkState = attributes.OperState == netlink.OperUp

	switch {
	case strings.HasPrefix(attributes.Name, "eth"):
		spec.Type, spec.PermanentAddr = nethelpers.LinkEther, spec.HardwareAddr
		spec.Driver, spec.SpeedMegabits, spec.Port, spec.Duplex = "vmxnet3", 10_000, nethelpers.TwistedPair, nethelpers.Full
	case attributes.Name == "lo":
		spec.Type = nethelpers.LinkLoopbck
	default:
		spec.Type, spec.Kind = nethelpers.LinkNone, "tun"
	}
}

// publishRoutes shows the kernel's routes, those of all tables; names are the links' by their index.
func (p *Publisher) publishRoutes(names map[int]string) {
	routes, err := p.Network.Routes()
	if err != nil {
		p.LogError("routes", err)

		return
	}

	wanted := map[resource.ID]bool{}

	for _, route := range routes {
		spec := describeRoute(route, names)
		id := networkresource.RouteID(spec.Table, spec.Family, spec.Destination, spec.Gateway, spec.Priority, spec.OutLinkName)
		wanted[id] = true

		put(p, networkresource.NewRouteStatus(networkresource.NamespaceName, id), func(r *networkresource.RouteStatus) { *r.TypedSpec() = spec })
	}

	keepOnly[*networkresource.RouteStatus](p, networkresource.NewRouteStatus(networkresource.NamespaceName, "").Metadata(), wanted)
}

func describeRoute(route netlink.Route, names map[int]string) networkresource.RouteStatusSpec {
	spec := networkresource.RouteStatusSpec{
		Family: nethelpers.FamilyInet4, OutLinkIndex: uint32(route.LinkIndex), OutLinkName: names[route.LinkIndex], //nolint:gosec // an index
		Table: nethelpers.RoutingTable(route.Table), Priority: uint32(route.Priority), Scope: nethelpers.Scope(route.Scope), //nolint:gosec // small numbers
		Type: nethelpers.RouteType(route.Type), Protocol: nethelpers.RouteProtocol(route.Protocol), Flags: nethelpers.RouteFlags(route.Flags), //nolint:gosec // the same
	}

	if route.Family == netlink.FAMILY_V6 {
		spec.Family = nethelpers.FamilyInet6
	}

	spec.Gateway, _ = netip.AddrFromSlice(route.Gw)
	spec.Source, _ = netip.AddrFromSlice(route.Src)
	spec.Gateway, spec.Source = spec.Gateway.Unmap(), spec.Source.Unmap()

	if route.Dst != nil { // nothing is the default route
		if bits, _ := route.Dst.Mask.Size(); bits > 0 {
			address, _ := netip.AddrFromSlice(route.Dst.IP)
			spec.Destination = netip.PrefixFrom(address.Unmap(), bits)
		}
	}

	return spec
}

// publishClusterConfig shows how the machines of a cluster find each other (controllers/cluster/config.go).
func (p *Publisher) publishClusterConfig(provider talosconfig.Provider) {
	discovery := provider.Cluster().Discovery()

	put(p, cluster.NewConfig(config.NamespaceName, cluster.ConfigID), func(r *cluster.Config) {
		spec := r.TypedSpec()
		*spec = cluster.ConfigSpec{DiscoveryEnabled: discovery.Enabled()}

		if !discovery.Enabled() {
			return
		}

		spec.RegistryKubernetesEnabled, spec.RegistryServiceEnabled = discovery.Registries().Kubernetes().Enabled(), discovery.Registries().Service().Enabled()
		if !spec.RegistryServiceEnabled {
			return
		}

		spec.ServiceEndpoint, spec.ServiceEndpointInsecure = endpointOf(discovery.Registries().Service().Endpoint())
		spec.ServiceClusterID = provider.Cluster().ID()

		var err error
		spec.ServiceEncryptionKey, err = base64.StdEncoding.DecodeString(provider.Cluster().Secret())
		p.LogError("cluster.secret", err)
	})
}

// endpointOf is the host and port of the discovery service's URL, and whether it goes without TLS.
func endpointOf(endpoint string) (hostPort string, insecure bool) {
	parsed, err := url.ParseRequestURI(endpoint)
	if err != nil {
		return "", false
	}

	insecure = parsed.Scheme == "http"

	port := parsed.Port()
	if port == "" && insecure {
		port = "80"
	} else if port == "" {
		port = "443"
	}

	return net.JoinHostPort(parsed.Hostname(), port), insecure
}
