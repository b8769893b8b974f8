package world

import (
	"net/netip"
	"testing"
)

func operators(networks ...string) Settings {
	var s Settings

	s.Network.CIDR = netip.MustParsePrefix("172.16.20.0/24")
	s.Network.Gateway = netip.MustParseAddr("172.16.20.1")

	if len(networks) > 0 {
		s.Network.Firewall = &struct {
			Operators []netip.Prefix `json:"operators"`
		}{}
		for _, one := range networks {
			s.Network.Firewall.Operators = append(s.Network.Firewall.Operators, netip.MustParsePrefix(one))
		}
	}

	return s
}

func TestCommandsComeFromTheFirstNetworkOfTheOperators(t *testing.T) {
	for network, want := range map[string]string{
		"172.16.10.0/24":  "172.16.10.1",
		"172.16.10.7/32":  "172.16.10.7",
		"172.16.10.8/31":  "172.16.10.8",
		"172.16.20.16/28": "172.16.20.17",
	} {
		if got, moves := operatorAddress(operators(network, "10.1.0.0/16")); !moves || got.String() != want {
			t.Errorf("%s: %s, %t", network, got, moves)
		}
	}
}

func TestCommandsComeFromTheGatewayWhereThatIsOpen(t *testing.T) {
	for _, s := range []Settings{operators(), operators("172.16.0.0/16"), operators("172.16.20.0/24")} {
		if got, moves := operatorAddress(s); moves {
			t.Errorf("%s", got)
		}
	}
}
