package guestnetwork

import (
	"net/netip"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"

	"platform.lab/lab/internal/network"
)

// ApplyFirewall makes the kernel hold the firewall of a configuration. It counts at once, for new connections too while
// a configuration is only tried.
func (n *Network) ApplyFirewall(provider config.Provider) {
	n.life.LogError("firewall", n.SetFirewall(wantedFirewall(provider)))
}

// wantedFirewall is nil when a configuration has none, as Talos 1.13.9 decides (nftables_chain_config.go): the default
// is to accept, and there is no rule.
func wantedFirewall(provider config.Provider) *network.Firewall {
	configured := provider.NetworkRules()
	block, rules := configured.DefaultAction() == nethelpers.DefaultActionBlock, configured.Rules()

	if !block && len(rules) == 0 {
		return nil
	}

	firewall := &network.Firewall{Block: block, Inside: innerNetworks(provider)}

	for _, rule := range rules {
		firewall.Rules = append(firewall.Rules, network.FirewallRule{
			Protocol: byte(rule.Protocol()), Ports: rule.PortRanges(), From: rule.Subnets(), Except: rule.ExceptSubnets(),
		})
	}

	return firewall
}

// innerNetworks are the cluster's networks of pods and Services.
func innerNetworks(provider config.Provider) []netip.Prefix {
	cluster := provider.Cluster()
	if cluster == nil {
		return nil
	}

	var inner []netip.Prefix

	for _, text := range append(cluster.Network().PodCIDRs(), cluster.Network().ServiceCIDRs()...) {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			inner = append(inner, prefix)
		}
	}

	return inner
}
