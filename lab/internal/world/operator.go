package world

import (
	"errors"
	"net/netip"

	"platform.lab/lab/internal/network"
)

// operatorAddress is where the world's commands reach the machines from: an address of the first network that the machines'
// firewall opens to operators. Without a firewall, and when the gateway itself is in that network, they come from the
// gateway, whose address the lab has anyway.
func operatorAddress(s Settings) (netip.Addr, bool) {
	firewall := s.Network.Firewall
	if firewall == nil || len(firewall.Operators) == 0 || firewall.Operators[0].Contains(s.Network.Gateway) {
		return netip.Addr{}, false
	}

	first := firewall.Operators[0].Masked()
	if first.Bits() >= first.Addr().BitLen()-1 { // one or two hosts, without an address of the network itself
		return first.Addr(), true
	}

	return first.Addr().Next(), true
}

// moveOperator gives the world's commands their address.
func moveOperator(s Settings, bridge *network.Bridge, say func(string, ...any)) error {
	if s.Network.Firewall != nil {
		if err := canFilter(bridge); err != nil {
			say("the machines' firewall is not enforced, their ports are open: %v", err)
		}
	}

	own, moves := operatorAddress(s)
	if !moves {
		return nil
	}

	add := func() error { return network.AddLoopback(own) }
	if s.Network.CIDR.Contains(own) {
		add = func() error { return bridge.AddAddress(own) }
	}

	if err := add(); err != nil {
		return err
	}

	say("this computer is %s, in platform:network.firewall.operators (simulated)", own)

	return bridge.SetSource(s.Network.CIDR, own)
}

// canFilter says why this kernel cannot hold a machine's firewall; it tries in a namespace that is gone afterwards.
func canFilter(bridge *network.Bridge) error {
	probe, err := bridge.NewNamespace("firewall-probe")
	if err != nil {
		return err
	}

	return errors.Join(probe.SetFirewall(&network.Firewall{Block: true}), probe.Close())
}
