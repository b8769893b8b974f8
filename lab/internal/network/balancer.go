package network

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// balancerTable is of what comes to a machine for LoadBalancer addresses. Cilium does the same in BPF, before any table of the
// kernel: Talos' firewall has nothing to say of it.
const balancerTable = "cilium-balancer"

// answersHere marks a connection whose endpoint is elsewhere: its answers have to come back through the machine.
const answersHere = 0x1ab

// stickySeed makes a client's number: the same on every machine.
const stickySeed = 0x1ab5eed

// Balanced is one port of a LoadBalancer address, and where a machine passes on what comes for it by the network. What comes
// from its own pods and programs is a matter of SetServices.
type Balanced struct {
	At       netip.AddrPort
	Protocol byte
	// Endpoints are the machine's own ones, with externalTrafficPolicy Local.
	Endpoints []Endpoint
	// Sticky keeps a client with one endpoint.
	Sticky bool
}

// Endpoint is where packets go.
type Endpoint struct {
	At netip.AddrPort
	// Here says that it is a process on the machine, which then sees the client's address. To another place packets get the
	// machine's address.
	Here bool
}

// SetBalanced replaces what the machine passes on, in one step. What comes for such an address and has no endpoint is dropped.
// Only IPv4 is passed on.
func (n *Namespace) SetBalanced(all []Balanced) error {
	all = slices.DeleteFunc(slices.Clone(all), func(one Balanced) bool { return !one.At.Addr().Is4() })

	n.mu.Lock()
	defer n.mu.Unlock()

	if reflect.DeepEqual(n.balanced, all) || len(n.balanced)+len(all) == 0 {
		return nil
	}

	if err := n.Do(Forward); err != nil {
		return err
	}

	conn, err := nftables.New(nftables.WithNetNSFd(int(n.handle.Fd())))
	if err != nil {
		return fmt.Errorf("namespace %s: LoadBalancer addresses: %w", n.name, err)
	}

	table := &nftables.Table{Name: balancerTable, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table) // what is not there cannot be removed
	conn.DelTable(table)
	conn.AddTable(table)
	balance(&builder{conn: conn, table: table}, all)

	if err := conn.Flush(); err != nil {
		return fmt.Errorf("namespace %s: LoadBalancer addresses: %w (the kernel needs nft_nat, nft_masq, nft_numgen and nft_hash)", n.name, err)
	}

	n.balanced = all

	return nil
}

func balance(b *builder, all []Balanced) {
	arriving := b.chain("arriving", natChain(nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest))
	leaving := b.chain("leaving", natChain(nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource))
	passing := b.chain("passing", &nftables.Chain{
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})

	b.add(leaving, marked(), []expr.Any{&expr.Masq{}})

	dropped := map[netip.Addr]bool{}

	for _, one := range all {
		for index, endpoint := range one.Endpoints {
			var away []expr.Any
			if !endpoint.Here {
				away = mark()
			}

			b.add(arriving, byNetwork(), destinedFor(Service{At: one.At, Protocol: one.Protocol}), choose(len(one.Endpoints), index, one.Sticky), away, redirect(endpoint.At))
		}

		if address := one.At.Addr(); !dropped[address] {
			dropped[address] = true

			b.add(passing, byNetwork(), within(single(address), destination), verdict(expr.VerdictDrop))
		}
	}
}

// byNetwork matches packets that come from no pod of the machine.
func byNetwork() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(PodLinks)},
	}
}

// choose matches for one of so many endpoints: by chance, each as often as the others, or by the client's address.
func choose(all, index int, sticky bool) []expr.Any {
	if index == all-1 {
		return nil // whoever came here has no other
	}

	if sticky {
		return []expr.Any{
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: source.v4, Len: net4Bytes, DestRegister: 1},
			&expr.Hash{
				SourceRegister: 1, DestRegister: 1, Length: net4Bytes, Modulus: uint32(all), Seed: stickySeed, //nolint:gosec // a few
				Type: expr.HashTypeJenkins,
			},
			equal(binaryutil.NativeEndian.PutUint32(uint32(index))), //nolint:gosec // a few
		}
	}

	// The ones before it did not match: of those that are left it is one.
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: uint32(all - index), Type: unix.NFT_NG_RANDOM}, //nolint:gosec // a few
		equal(binaryutil.NativeEndian.PutUint32(0)),
	}
}

// redirect gives packets another destination.
func redirect(to netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(to.Port())},                  //nolint:mnd // the next register
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2}, //nolint:mnd // the same
	}
}

func mark() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(answersHere)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

func marked() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(answersHere))}
}
