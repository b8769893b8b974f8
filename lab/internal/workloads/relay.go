package workloads

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// relayIdle is how long an exchange of datagrams is remembered after its last one; the kernel's conntrack has 30 s for one
	// that was answered.
	relayIdle = 30 * time.Second
	// datagramBytes is more than any datagram has.
	datagramBytes = 64 << 10
)

// relay is one address and port of a Service for UDP. Each client has an endpoint of its own, as long as it talks.
type relay struct {
	conn     *net.UDPConn
	backends atomic.Pointer[[]netip.AddrPort]
	turn     uint64
	cancel   context.CancelFunc
	wait     sync.WaitGroup

	mu       sync.Mutex
	sessions map[netip.AddrPort]*net.UDPConn
}

func (p *proxy) relay(ctx context.Context, at netip.AddrPort, backends []netip.AddrPort) error {
	if running := p.datagrams[at]; running != nil {
		running.backends.Store(&backends)

		return nil
	}

	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("a Service's address: %w", err)
	}

	opened := &relay{conn: conn, sessions: map[netip.AddrPort]*net.UDPConn{}}
	opened.backends.Store(&backends)
	ctx, opened.cancel = context.WithCancel(ctx)
	p.datagrams[at] = opened

	opened.wait.Go(func() { opened.receive(ctx) })

	return nil
}

func (r *relay) close() {
	r.cancel()
	r.conn.Close()

	r.mu.Lock()
	for _, session := range r.sessions {
		session.Close()
	}
	r.mu.Unlock()

	r.wait.Wait()
}

// receive passes on what clients send. A datagram that has no endpoint is lost, as in a network.
func (r *relay) receive(ctx context.Context) {
	buffer := make([]byte, datagramBytes)

	for ctx.Err() == nil {
		size, client, err := r.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}

		if err != nil {
			continue // of a datagram that was sent before
		}

		if session := r.session(ctx, client); session != nil {
			_, _ = session.Write(buffer[:size])
		}
	}
}

// session is the way of a client to an endpoint: the same one while it talks and the endpoint is ready.
func (r *relay) session(ctx context.Context, client netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()

	backends := *r.backends.Load()

	if known := r.sessions[client]; known != nil {
		if to, ok := known.RemoteAddr().(*net.UDPAddr); ok && contains(backends, to.AddrPort()) {
			return known
		}

		known.Close()
		delete(r.sessions, client)
	}

	if ctx.Err() != nil {
		return nil
	}

	r.turn++

	made, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(backends[r.turn%uint64(len(backends))]))
	if err != nil {
		return nil
	}

	r.sessions[client] = made
	r.wait.Go(func() { r.answer(client, made) })

	return made
}

func contains(all []netip.AddrPort, one netip.AddrPort) bool {
	for _, other := range all {
		if other.Port() == one.Port() && other.Addr() == one.Addr().Unmap() {
			return true
		}
	}

	return false
}

// answer passes an endpoint's answers to the client until nothing was said for a while.
func (r *relay) answer(client netip.AddrPort, session *net.UDPConn) {
	buffer := make([]byte, datagramBytes)

	for {
		_ = session.SetReadDeadline(time.Now().Add(relayIdle))

		size, err := session.Read(buffer)
		if err == nil {
			_, _ = r.conn.WriteToUDPAddrPort(buffer[:size], client)

			continue
		}

		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
			continue // the endpoint refused one datagram
		}

		session.Close()

		r.mu.Lock()
		defer r.mu.Unlock()

		if r.sessions[client] == session {
			delete(r.sessions, client)
		}

		return
	}
}
