package network

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// operator is an address of the lab's own namespace that is no neighbour of the machines.
var operator = netip.MustParseAddr("198.51.100.7")

// withFirewall is a machine that serves port 9, another machine, and an operator's computer behind the gateway.
func withFirewall(t *testing.T, firewall *Firewall) (machine, other *Namespace) {
	t.Helper()

	bridge := newBridge(t)
	machine, other = newNamespace(t, bridge, "one", first), newNamespace(t, bridge, "two", second)
	serve(t, machine)

	if err := machine.SetDefaultRoute(gateway.Addr()); err != nil {
		t.Fatal(err)
	}

	if err := AddLoopback(operator); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = RemoveLoopback(operator) })

	if err := machine.SetFirewall(firewall); err != nil {
		t.Fatal(err)
	}

	return machine, other
}

// letsIn says whether the machine's port 9 takes a new connection from an address of the lab's own namespace.
func letsIn(from netip.Addr) bool { return connects(from, patience) }

// keepsOut says the opposite: a firewall drops what it does not take, and nothing tells that.
func keepsOut(from netip.Addr) bool { return !connects(from, 300*time.Millisecond) }

func connects(from netip.Addr, limit time.Duration) bool {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: limit}

	conn, err := dialer.Dial("tcp", net.JoinHostPort(first.Addr().String(), "9"))
	if err != nil {
		return false
	}

	conn.Close()

	return true
}

func rule(port uint16, from, except []netip.Prefix) FirewallRule {
	return FirewallRule{Protocol: TCP, Ports: [][2]uint16{{port, port}}, From: from, Except: except}
}

var (
	machines      = []netip.Prefix{first.Masked()}
	theGateway    = []netip.Prefix{netip.PrefixFrom(gateway.Addr(), 32)}
	operatorsOnly = []netip.Prefix{netip.PrefixFrom(operator, 32)}
)

func TestABlockingFirewallLetsInWhomItsRulesNameAndNobodyElse(t *testing.T) {
	machine, other := withFirewall(t, &Firewall{Block: true, Rules: []FirewallRule{rule(9, machines, theGateway), rule(9, operatorsOnly, nil)}})

	if !letsIn(operator) {
		t.Error("the operator is kept out")
	}

	if !keepsOut(gateway.Addr()) {
		t.Error("the gateway is let in, though it is excepted")
	}

	if got := answerOf(t, other.DialContext, first); got != "one" {
		t.Errorf("from the other machine: %q", got)
	}

	if got := answerOf(t, machine.DialContext, first); got != "one" {
		t.Errorf("from the machine itself: %q", got)
	}
}

func TestABlockingFirewallClosesPortsWithoutARule(t *testing.T) {
	machine, _ := withFirewall(t, &Firewall{Block: true, Rules: []FirewallRule{rule(10, operatorsOnly, nil)}})

	if !keepsOut(operator) {
		t.Error("a port that no rule names is open")
	}

	if err := machine.SetFirewall(nil); err != nil {
		t.Fatal(err)
	}

	if !letsIn(operator) {
		t.Error("without a firewall the port is closed")
	}
}

func TestAnAcceptingFirewallClosesARulesPortsToOthers(t *testing.T) {
	withFirewall(t, &Firewall{Rules: []FirewallRule{rule(9, operatorsOnly, nil)}})

	if !letsIn(operator) {
		t.Error("who is named is kept out")
	}

	if !keepsOut(gateway.Addr()) {
		t.Error("who is not named is let in")
	}
}

func TestABlockedMachineReachesOthersItselfAndReadsTheirAnswers(t *testing.T) {
	machine, other := withFirewall(t, &Firewall{Block: true})
	serve(t, other)

	if got := answerOf(t, machine.DialContext, second); got != "two" {
		t.Errorf("from the blocked machine: %q", got)
	}
}

func TestPodsReachTheClustersInnerNetworksAndNoPortOfTheMachine(t *testing.T) {
	pods := netip.PrefixFrom(operator, 32)
	withFirewall(t, &Firewall{Block: true, Inside: []netip.Prefix{pods}})

	if !keepsOut(operator) {
		t.Error("a pod reaches a port of the machine without a rule")
	}
}

func TestAFirewallIsReplacedInOneStep(t *testing.T) {
	machine, _ := withFirewall(t, &Firewall{Block: true})

	for range 2 {
		if err := machine.SetFirewall(&Firewall{Block: true, Rules: []FirewallRule{rule(9, operatorsOnly, nil)}}); err != nil {
			t.Fatal(err)
		}

		if !letsIn(operator) {
			t.Error("the new rule does not count")
		}
	}
}
