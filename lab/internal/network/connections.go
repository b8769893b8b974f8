package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// policyQueue is the number of the queue in which first packets wait for a decision.
	policyQueue = 1
	// waiting is how many may.
	waiting = 4096
	// headerBytes hold the longest header of IPv4, and the ports behind it.
	headerBytes = 64
	// verdictTime is more than a kernel needs to take a verdict.
	verdictTime = time.Second
)

// Connection is who opens it, to where it goes after translation, and its protocol (RFC 790); without ports they are 0.
type Connection struct {
	Protocol byte
	From, To netip.AddrPort
}

// listenQueue answers the kernel's questions until the context ends.
func (n *Namespace) listenQueue(ctx context.Context, decide func(Connection) bool) error {
	queue, err := nfqueue.Open(&nfqueue.Config{
		NetNS: int(n.handle.Fd()), NfQueue: policyQueue, MaxPacketLen: headerBytes, MaxQueueLen: waiting,
		Copymode: nfqueue.NfQnlCopyPacket, AfFamily: unix.AF_INET, WriteTimeout: verdictTime,
	})
	if err != nil {
		return fmt.Errorf("queue of packets: %w", err)
	}

	err = queue.RegisterWithErrorFunc(ctx, func(packet nfqueue.Attribute) int {
		answer := nfqueue.NfDrop

		if packet.Payload != nil {
			if asked, whole := parse(*packet.Payload); whole && decide(asked) {
				answer = nfqueue.NfAccept
			}
		}

		if packet.PacketID != nil {
			_ = queue.SetVerdict(*packet.PacketID, answer) // one that is lost is sent again by its sender
		}

		return 0
	}, func(error) int {
		if ctx.Err() != nil {
			return 1
		}

		return 0 // packets were lost, as in a network
	})
	if err != nil {
		queue.Close()

		return fmt.Errorf("queue of packets: %w", err)
	}

	context.AfterFunc(ctx, func() { queue.Close() })

	return nil
}

// parse reads a packet's headers (RFC 791); false for what is no packet of IPv4.
func parse(packet []byte) (Connection, bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return Connection{}, false
	}

	var from, to uint16

	header := int(packet[0]&15) * 4
	protocol := packet[9]

	if protocol == TCP || protocol == UDP || protocol == unix.IPPROTO_SCTP {
		if len(packet) < header+4 {
			return Connection{}, false
		}

		from, to = binary.BigEndian.Uint16(packet[header:]), binary.BigEndian.Uint16(packet[header+2:])
	}

	return Connection{
		Protocol: protocol,
		From:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[12:16])), from),
		To:       netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[16:20])), to),
	}, true
}

// Forget makes the namespace forget the connections of which `which` says so: what comes next of them counts as new.
func (n *Namespace) Forget(which func(Connection) bool) error {
	err := n.Do(func() error {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, tracked(which))

		return err
	})
	if err != nil {
		return fmt.Errorf("namespace %s: connections: %w", n.name, err)
	}

	return nil
}

type tracked func(Connection) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter. Who answers is where the connection goes after translation.
func (t tracked) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	from, ok := netip.AddrFromSlice(flow.Forward.SrcIP)
	to, too := netip.AddrFromSlice(flow.Reverse.SrcIP)

	return ok && too && t(Connection{
		Protocol: flow.Forward.Protocol,
		From:     netip.AddrPortFrom(from.Unmap(), flow.Forward.SrcPort),
		To:       netip.AddrPortFrom(to.Unmap(), flow.Reverse.SrcPort),
	})
}
