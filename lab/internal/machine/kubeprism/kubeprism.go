// Package kubeprism is the balancer before the API servers of all control planes, on every machine.
package kubeprism

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/lifetime"
)

// upstreamTimeout is how long an API server has to accept a connection before the next one is tried.
const upstreamTimeout = time.Second

// Balancer forwards TCP connections to the first of several servers that accepts, beginning with another one
// each time: what KubePrism is on a machine, and what KWOK reaches a cluster through.
type Balancer struct {
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Targets func() []string

	mu   sync.Mutex
	turn int
}

// Serve forwards connections until the context ends, and returns when all are closed.
func (l *Balancer) Serve(ctx context.Context, listener net.Listener) {
	defer context.AfterFunc(ctx, func() { listener.Close() })()

	var forwarding sync.WaitGroup
	defer forwarding.Wait()

	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}

		forwarding.Go(func() { l.forward(ctx, conn) })
	}
}

func (l *Balancer) forward(ctx context.Context, conn net.Conn) {
	defer conn.Close()

	upstream := l.connect(ctx)
	if upstream == nil {
		return
	}
	defer upstream.Close()

	hangUp := func() {
		conn.Close()
		upstream.Close()
	}
	defer context.AfterFunc(ctx, hangUp)()

	var copying sync.WaitGroup

	for _, pair := range [][2]net.Conn{{conn, upstream}, {upstream, conn}} {
		copying.Go(func() {
			defer hangUp()

			_, _ = io.Copy(pair[0], pair[1])
		})
	}

	copying.Wait()
}

func (l *Balancer) connect(ctx context.Context) net.Conn {
	targets := l.Targets()

	l.mu.Lock()
	l.turn++
	turn := l.turn
	l.mu.Unlock()

	for i := range targets {
		attempt, cancel := context.WithTimeout(ctx, upstreamTimeout)
		conn, err := l.Dial(attempt, "tcp", targets[(turn+i)%len(targets)])

		cancel()

		if err == nil {
			return conn
		}
	}

	return nil
}

// Machine is what KubePrism needs of its machine.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Network   *guestnetwork.Network
	Discovery *discovery.Service
}

// Run serves the API servers of all control planes on the machine's loopback
// (machine.features.kubePrism, port 7445).
func (k Machine) Run() {
	prism := k.Provider().Machine().Features().KubePrism()
	if prism == nil || !prism.Enabled() {
		return
	}

	listener, err := k.Network.Listen("tcp", net.JoinHostPort(guestnetwork.Loopback.String(), strconv.Itoa(prism.Port())))
	if err != nil {
		k.LogError("KubePrism", err)

		return
	}

	balance := Balancer{Dial: k.Network.DialContext, Targets: k.apiServers}
	balance.Serve(k.Context(), listener)
}

// apiServers are the addresses of all control planes' API servers, this machine's own first.
func (k Machine) apiServers() []string {
	cluster := k.Provider().Cluster()
	port := strconv.Itoa(cluster.LocalAPIServerPort())

	var targets []string

	if k.IsControlPlane() {
		targets = append(targets, net.JoinHostPort(guestnetwork.Loopback.String(), port))
	}

	for _, address := range k.Discovery.ControlPlanes(cluster.ID()) {
		if address != k.Network.Address() {
			targets = append(targets, net.JoinHostPort(address.String(), port))
		}
	}

	return targets
}
