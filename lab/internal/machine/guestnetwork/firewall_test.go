package guestnetwork

import (
	"net/netip"
	"reflect"
	"testing"

	"platform.lab/lab/internal/machine/configtest"
	"platform.lab/lab/internal/network"
)

const firewallPatch = `apiVersion: v1alpha1
kind: NetworkDefaultActionConfig
ingress: block
---
apiVersion: v1alpha1
kind: NetworkRuleConfig
name: talos
portSelector:
  ports: [50000, 50100-50200]
  protocol: tcp
ingress:
  - { subnet: 172.16.20.0/24, except: 172.16.20.1/32 }
  - { subnet: 172.16.10.0/24 }
`

func TestAMachinesFirewallIsThatOfItsConfiguration(t *testing.T) {
	got := wantedFirewall(configtest.Patched(t, configtest.Base(t), firewallPatch))
	want := &network.Firewall{
		Block: true,
		Rules: []network.FirewallRule{{
			Protocol: network.TCP, Ports: [][2]uint16{{50000, 50000}, {50100, 50200}},
			From:   []netip.Prefix{netip.MustParsePrefix("172.16.20.0/24"), netip.MustParsePrefix("172.16.10.0/24")},
			Except: []netip.Prefix{netip.MustParsePrefix("172.16.20.1/32")},
		}},
		Inside: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12")},
	}

	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAMachineWithoutFirewallDocumentsIsOpen(t *testing.T) {
	if got := wantedFirewall(configtest.Base(t)); got != nil {
		t.Errorf("got %+v", got)
	}
}
