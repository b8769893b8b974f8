package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"golang.org/x/sys/unix"
)

// firewallTable and firewallChain are Talos' names.
const (
	firewallTable = "talos"
	firewallChain = "ingress"
)

// firewallPriority is Talos' own: mangle + 10, before everything that others filter.
const firewallPriority = -150 + 10

// icmpPerSecond is what Talos lets in of ICMP while it blocks.
const icmpPerSecond = 5

// Protocols of the layer above IP (RFC 790, RFC 4443).
const (
	ICMP   = unix.IPPROTO_ICMP
	TCP    = unix.IPPROTO_TCP
	UDP    = unix.IPPROTO_UDP
	ICMPv6 = unix.IPPROTO_ICMPV6
)

// Firewall is Talos' ingress firewall of a machine (NetworkDefaultActionConfig, NetworkRuleConfig).
type Firewall struct {
	// Block drops what no rule lets in. Without it a rule's ports are closed to all that the rule does not name.
	Block bool
	Rules []FirewallRule
	// Inside are the cluster's networks of pods and Services: between them everything is let in.
	Inside []netip.Prefix
}

// FirewallRule names who reaches some ports.
type FirewallRule struct {
	Protocol byte
	// Ports are ranges, both ends included.
	Ports [][2]uint16
	// From may reach them, Except may not.
	From, Except []netip.Prefix
}

// SetFirewall replaces the namespace's firewall in one step; nil takes it away. It is the chain that Talos 1.13 makes for
// the hook `input` (nftables_chain_config.go). The second one, for `prerouting`, holds the same rules before
// destinations are rewritten: it has nothing to say here, since Cilium takes what is for a Service's address before.
func (n *Namespace) SetFirewall(firewall *Firewall) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.handle.Fd())))
	if err != nil {
		return fmt.Errorf("namespace %s: firewall: %w", n.name, err)
	}

	table := &nftables.Table{Name: firewallTable, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // what is not there cannot be removed
	conn.DelTable(table)

	if firewall != nil {
		conn.AddTable(table)
		firewall.build(conn, table)
	}

	if err := conn.Flush(); err != nil {
		return fmt.Errorf("namespace %s: firewall: %w", n.name, err)
	}

	return nil
}

func (f *Firewall) build(conn *nftables.Conn, table *nftables.Table) {
	policy := nftables.ChainPolicyAccept
	if f.Block {
		policy = nftables.ChainPolicyDrop
	}

	chain := conn.AddChain(&nftables.Chain{
		Name: firewallChain, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityRef(firewallPriority), Policy: &policy,
	})
	add := func(on *nftables.Chain, parts ...[]expr.Any) {
		rule := &nftables.Rule{Table: table, Chain: on}
		for _, part := range parts {
			rule.Exprs = append(rule.Exprs, part...)
		}

		conn.AddRule(rule)
	}

	// Talos trusts these; not siderolinktun, by which who manages a machine reaches it through a tunnel: that needs a rule.
	for _, trusted := range []string{"lo", constants.SideroLinkName} {
		add(chain, inInterface(trusted), verdict(expr.VerdictAccept))
	}

	if f.Block {
		add(chain, connection(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
		add(chain, connection(expr.CtStateBitINVALID), verdict(expr.VerdictDrop))

		for _, protocol := range []byte{ICMP, ICMPv6} {
			limit := []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: icmpPerSecond, Unit: expr.LimitTimeSecond, Burst: icmpPerSecond}}
			add(chain, transport(protocol), limit, verdict(expr.VerdictAccept))
		}

		for _, from := range f.Inside {
			for _, to := range f.Inside {
				if from.Addr().Is4() == to.Addr().Is4() {
					add(chain, within(from, source), within(to, destination), verdict(expr.VerdictAccept))
				}
			}
		}
	}

	for i, rule := range f.Rules {
		named := conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("rule-%d", i), Table: table})

		// With block, who is named is let in; with accept, who is not named is kept out.
		for _, except := range rule.Except {
			on := expr.VerdictReturn
			if !f.Block {
				on = expr.VerdictDrop
			}

			add(named, within(except, source), verdict(on))
		}

		for _, from := range rule.From {
			on := expr.VerdictAccept
			if !f.Block {
				on = expr.VerdictReturn
			}

			add(named, within(from, source), verdict(on))
		}

		if !f.Block {
			add(named, verdict(expr.VerdictDrop))
		}

		for _, ports := range rule.Ports {
			add(chain, transport(rule.Protocol), port(ports), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: named.Name}})
		}
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func inInterface(name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)

	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(padded)}
}

// connection matches what the kernel's connection tracking says of a packet.
func connection(states uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(states), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func transport(protocol byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{protocol})}
}

// port matches the destination's port, which lies at the same place in TCP and UDP.
func port(ports [2]uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
		&expr.Range{
			Op: expr.CmpOpEq, Register: 1,
			FromData: binary.BigEndian.AppendUint16(nil, ports[0]), ToData: binary.BigEndian.AppendUint16(nil, ports[1]),
		},
	}
}

// side is an address of a packet: where it lies in the headers of IPv4 and IPv6.
type side struct{ v4, v6 uint32 }

var (
	source      = side{v4: 12, v6: 8}
	destination = side{v4: 16, v6: 24}
)

func within(network netip.Prefix, of side) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), of.v4
	if network.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, of.v6
	}

	address := network.Masked().Addr().AsSlice()
	length := uint32(len(address)) //nolint:gosec // 4 or 16

	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		equal([]byte{family}),
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: ipNet(network).Mask, Xor: make([]byte, length)},
		equal(address),
	}
}
