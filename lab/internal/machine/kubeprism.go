package machine

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// upstreamTimeout is how long an API server has to accept a connection before the next one is tried.
const upstreamTimeout = time.Second

// balancer forwards TCP connections to the first of several servers that accepts, beginning with another one
// each time: what KubePrism is on a machine, and what KWOK reaches a cluster through.
type balancer struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	targets func() []string

	mu   sync.Mutex
	turn int
}

// serve accepts connections until the listener is closed.
func (l *balancer) serve(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}

		go l.forward(ctx, conn)
	}
}

func (l *balancer) forward(ctx context.Context, conn net.Conn) {
	defer conn.Close()

	upstream := l.connect(ctx)
	if upstream == nil {
		return
	}
	defer upstream.Close()

	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		upstream.Close()
	})
	defer stop()

	done := make(chan struct{}, 2)

	for _, pair := range [][2]net.Conn{{conn, upstream}, {upstream, conn}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}

	<-done
}

func (l *balancer) connect(ctx context.Context) net.Conn {
	targets := l.targets()

	l.mu.Lock()
	l.turn++
	turn := l.turn
	l.mu.Unlock()

	for i := range targets {
		attempt, cancel := context.WithTimeout(ctx, upstreamTimeout)
		conn, err := l.dial(attempt, "tcp", targets[(turn+i)%len(targets)])

		cancel()

		if err == nil {
			return conn
		}
	}

	return nil
}

// runKubePrism serves the API servers of all control planes on the machine's loopback
// (machine.features.kubePrism, port 7445).
func (b *boot) runKubePrism() {
	prism := b.Provider().Machine().Features().KubePrism()
	if prism == nil || !prism.Enabled() {
		return
	}

	listener, err := b.network.Listen("tcp", net.JoinHostPort(loopback4.String(), strconv.Itoa(prism.Port())))
	if err != nil {
		b.LogError("KubePrism", err)

		return
	}

	stop := context.AfterFunc(b.Context(), func() { listener.Close() })
	defer stop()

	balance := balancer{dial: b.network.DialContext, targets: b.apiServers}
	balance.serve(b.Context(), listener)
}

// apiServers are the addresses of all control planes' API servers, this machine's own first.
func (b *boot) apiServers() []string {
	cluster := b.Provider().Cluster()
	port := strconv.Itoa(cluster.LocalAPIServerPort())

	var targets []string

	if b.IsControlPlane() {
		targets = append(targets, net.JoinHostPort(loopback4.String(), port))
	}

	for _, address := range b.machine.fleet.discovery.ControlPlanes(cluster.ID()) {
		if address != b.network.Address() {
			targets = append(targets, net.JoinHostPort(address.String(), port))
		}
	}

	return targets
}

// canReach says whether another machine's API can be reached from this one.
func (b *boot) canReach(other *boot) bool {
	return b == other || other.network.Address().IsValid() && b.network.Answers(other.network.Address(), apiPort)
}

// reachable says whether the machine's cable is plugged in and it has an address.
func (b *boot) reachable() bool {
	return b.network.Address().IsValid()
}
