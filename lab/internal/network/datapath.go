package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// PodLinks begins the names of the machine's ends of its pods' cables, as with Cilium.
const PodLinks = "lxc"

// The tables of a machine's data path: translation of Services' addresses, and network policies.
const (
	servicesTable = "cilium-services"
	policyTable   = "cilium-policy"
)

// messages are told to the kernel at once: a socket holds the answers to some 270.
const messages = 100

// hairpinMark is on packets that a pod sent to itself by a Service.
const hairpinMark = 0x200

// Service is an address and port of a Service, and its ready endpoints.
type Service struct {
	// Protocol is TCP or UDP.
	Protocol  byte
	At        netip.AddrPort
	Endpoints []netip.AddrPort
	// Sticky keeps a client with one endpoint.
	Sticky bool
}

// Services are what a machine's data path knows of a cluster's Services.
type Services struct {
	All []Service
	// Ranges are the cluster's addresses of Services: what goes there and is of no known Service leaves no machine.
	Ranges []netip.Prefix
}

// SetServices replaces, in one step, what the namespace translates: connections of pods and of the machine's own programs to
// an address of a Service go to one of its endpoints, with the caller's own address. What comes from other machines is not
// touched. Without endpoints there is no translation. What goes to the Services' ranges otherwise is lost: a client that
// knows a Service before the machine does asks again. It is not to be called by two at a time.
func (n *Namespace) SetServices(services Services) error {
	if err := n.setServices(services); err != nil {
		return fmt.Errorf("namespace %s: services: %w", n.name, err)
	}

	return nil
}

func (n *Namespace) setServices(services Services) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.handle.Fd())))
	if err != nil {
		return err
	}

	// The next table is filled in parts, since the kernel's answers to all of it do not fit into a socket at once. What makes it
	// count is the last part, which also takes the former one away.
	former := &nftables.Table{Name: fmt.Sprintf("%s-%d", servicesTable, n.services%2), Family: nftables.TableFamilyIPv4}
	table := &nftables.Table{Name: fmt.Sprintf("%s-%d", servicesTable, (n.services+1)%2), Family: nftables.TableFamilyIPv4}

	for _, one := range []*nftables.Table{former, table} {
		conn.AddTable(one) // what is not there cannot be removed
	}

	conn.DelTable(table)
	conn.AddTable(table)

	b := &builder{conn: conn, table: table}
	all := b.chain("services", nil)

	for i, service := range services.All {
		if len(service.Endpoints) > 0 && service.At.Addr().Is4() {
			chain, err := b.balance(i, service)
			if err != nil {
				return err
			}

			b.add(all, destinedFor(service), jump(chain))
		}
	}

	if err := conn.Flush(); err != nil {
		return err
	}

	b.add(b.chain("prerouting", natChain(nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)), fromLinks(expr.MetaKeyIIFNAME, PodLinks), jump(all))
	b.add(b.chain("output", natChain(nftables.ChainHookOutput, nftables.ChainPriorityNATDest)), jump(all))
	b.add(b.chain("postrouting", natChain(nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(hairpinMark)), &expr.Masq{},
	})
	b.keep(services)

	conn.DelTable(former)

	if err := conn.Flush(); err != nil {
		return err
	}

	n.services++

	return nil
}

// keep drops what goes to the Services' ranges and was not translated, but for Services without endpoints: who answers for
// those refuses at once.
func (b *builder) keep(services Services) {
	lost := b.chain("unknown-services", nil)

	for _, service := range services.All {
		if len(service.Endpoints) == 0 && service.At.Addr().Is4() {
			b.add(lost, destinedFor(service), verdict(expr.VerdictReturn))
		}
	}

	for _, one := range services.Ranges {
		if one.Addr().Is4() {
			b.add(lost, within(one, destination), verdict(expr.VerdictDrop))
		}
	}

	for name, hook := range map[string]*nftables.ChainHook{"passing": nftables.ChainHookForward, "leaving": nftables.ChainHookOutput} {
		chain := &nftables.Chain{Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter}
		b.add(b.chain(name, chain), jump(lost))
	}
}

// balance makes the chain that chooses an endpoint.
func (b *builder) balance(number int, service Service) (*nftables.Chain, error) {
	chain := b.chain(fmt.Sprintf("service-%d", number), nil)

	for i, endpoint := range service.Endpoints {
		to := b.chain(fmt.Sprintf("service-%d-%d", number, i), nil)
		address := netip.PrefixFrom(endpoint.Addr(), endpoint.Addr().BitLen())

		// The answer of a pod to itself must come back through the machine, so the question comes from there.
		b.add(to, within(address, source), []expr.Any{
			&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(hairpinMark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		})
		b.add(to, redirect(endpoint))
		b.add(chain, choose(len(service.Endpoints), i, service.Sticky), jump(to))

		if b.added >= messages {
			if err := b.conn.Flush(); err != nil {
				return nil, err
			}

			b.added = 0
		}
	}

	return chain, nil
}

func destinedFor(service Service) []expr.Any {
	return slices.Concat(
		within(netip.PrefixFrom(service.At.Addr(), service.At.Addr().BitLen()), destination),
		transport(service.Protocol), port([2]uint16{service.At.Port(), service.At.Port()}),
	)
}

// HoldPods lets the namespace pass on the first packet of a connection from or to a pod only when `decide` says so, until
// the context ends; after it, and before somebody decides, none. What belongs to a connection that was let through
// passes. The machine's own packets to its pods are not asked about. It calls `decide` for one packet after the other.
func (n *Namespace) HoldPods(ctx context.Context, decide func(Connection) bool) error {
	err := n.buildPolicy([]expr.Any{&expr.Queue{Num: policyQueue}})
	if err != nil {
		// A kernel without nftables' own queues has those of iptables.
		number := xt.Unknown(binary.NativeEndian.AppendUint64(nil, policyQueue))
		err = n.buildPolicy([]expr.Any{&expr.Target{Name: "NFQUEUE", Info: &number}})
	}

	if err == nil {
		err = n.listenQueue(ctx, decide)
	}

	if err != nil {
		return fmt.Errorf("namespace %s: network policies: %w", n.name, err)
	}

	return nil
}

func (n *Namespace) buildPolicy(queue []expr.Any) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.handle.Fd())))
	if err != nil {
		return err
	}

	table := &nftables.Table{Name: policyTable, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)

	b := &builder{conn: conn, table: table}
	accept := nftables.ChainPolicyAccept

	for name, hook := range map[string]*nftables.ChainHook{"forward": nftables.ChainHookForward, "input": nftables.ChainHookInput} {
		chain := b.chain(name, &nftables.Chain{Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept})
		// What belongs to no connection opens none.
		b.add(chain, connection(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED|expr.CtStateBitINVALID), verdict(expr.VerdictAccept))
		b.add(chain, fromLinks(expr.MetaKeyIIFNAME, PodLinks), queue)

		if hook == nftables.ChainHookForward {
			b.add(chain, fromLinks(expr.MetaKeyOIFNAME, PodLinks), queue)
		}
	}

	return conn.Flush()
}

// fromLinks matches a beginning of an interface's name.
func fromLinks(key expr.MetaKey, prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal([]byte(prefix))}
}

func jump(to *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name}}
}

func natChain(hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return &nftables.Chain{Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority}
}

// builder fills a table.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	// added counts since the last part.
	added int
}

// chain adds one; nil is one that is jumped to.
func (b *builder) chain(name string, chain *nftables.Chain) *nftables.Chain {
	if chain == nil {
		chain = &nftables.Chain{}
	}

	chain.Name, chain.Table = name, b.table
	b.added++

	return b.conn.AddChain(chain)
}

func (b *builder) add(chain *nftables.Chain, parts ...[]expr.Any) {
	b.added++
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: slices.Concat(parts...)})
}
