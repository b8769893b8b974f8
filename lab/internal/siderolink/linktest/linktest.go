// Package linktest has what a machine joins in tests: SideroLink's own server, from its module, and its own receivers of
// events and logs. What a machine is told there is what it would be told elsewhere.
package linktest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/siderolabs/siderolink/api/events"
	"github.com/siderolabs/siderolink/pkg/agent"
	"github.com/siderolabs/siderolink/pkg/events"
	"github.com/siderolabs/siderolink/pkg/logreceiver"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"platform.lab/lab/internal/network"
)

const (
	// Token is the only one that the server takes.
	Token = "right"

	gateway    = "172.16.20.1"
	apiPort    = 8090
	eventsPort = 8091
	logsPort   = 8092

	patience = 4 * time.Minute
)

// API is where the server answers.
var API = net.JoinHostPort(gateway, strconv.Itoa(apiPort))

// Site is a port group, 172.16.20.0/24, with a server at its gateway. It needs namespaces of its own (package isolated).
type Site struct {
	*testing.T

	Bridge *network.Bridge
	// TLS is what the server shows; nil is none.
	TLS *tls.Config

	// addresses are the machines' at SideroLink, by UUID: others get random ones.
	addresses map[string]netip.Addr

	mu    sync.Mutex
	peers int
}

// NewSite makes a site without a server.
func NewSite(t *testing.T, addresses map[string]netip.Addr) *Site {
	t.Helper()

	// WireGuard in userspace keeps its sockets there; nobody else is to see them.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		if err := unix.Unmount("/run", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})

	bridge, err := network.NewBridge("lab0", netip.MustParsePrefix(gateway+"/24"))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { bridge.Close() })

	return &Site{T: t, Bridge: bridge, addresses: addresses}
}

// Serve starts the server and gives its end. Each one has another key and knows nobody.
func (s *Site) Serve() (stop func()) {
	s.Helper()

	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan struct{})
	settings := agent.Config{
		WireguardEndpoint: gateway + ":50180", APIEndpoint: API, JoinToken: Token, SinkEndpoint: "127.0.0.1:0", LogEndpoint: "127.0.0.1:0",
		ForceUserspace: true, APITLSConfig: s.TLS,
	}

	for uuid, address := range s.addresses {
		settings.UUIDIPv6Pairs = append(settings.UUIDIPv6Pairs, uuid+"="+address.String())
	}

	go func() {
		defer close(ended)

		if err := agent.Run(ctx, settings, s, zap.NewNop()); err != nil && ctx.Err() == nil {
			s.Error(err)
		}
	}()

	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	s.Cleanup(stop)
	s.Until("the server listens", func() bool {
		conn, err := net.Dial("tcp", API)
		if err == nil {
			conn.Close()
		}

		return err == nil
	})

	return stop
}

// HandlePeerAdded counts.
func (s *Site) HandlePeerAdded(wireguard.PeerEvent) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.peers++

	return nil
}

// HandlePeerRemoved is of no interest.
func (*Site) HandlePeerRemoved(wgtypes.Key) error { return nil }

// Peers is how often a server has given a machine its place.
func (s *Site) Peers() int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.peers
}

// Until waits for a condition.
func (s *Site) Until(what string, condition func() bool) {
	s.Helper()

	for begun := time.Now(); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > patience {
			s.Fatal("not seen: " + what)
		}
	}
}

// Documents are what a machine joins by; query is that of the API's URL.
func Documents(query string) string {
	server := serverAddress()

	return fmt.Sprintf(`apiVersion: v1alpha1
kind: SideroLinkConfig
apiUrl: grpc://%s?%s
---
apiVersion: v1alpha1
kind: EventSinkConfig
endpoint: '[%s]:%d'
---
apiVersion: v1alpha1
kind: KmsgLogConfig
name: server
url: tcp://[%s]:%d
`, API, query, server, eventsPort, server, logsPort)
}

// serverAddress is the server's at SideroLink.
func serverAddress() netip.Addr { return wireguard.NetworkPrefix("").Addr().Next() }

// sink keeps events.
type sink chan events.Event

// HandleEvent keeps one.
func (s sink) HandleEvent(ctx context.Context, event events.Event) error {
	select {
	case s <- event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Receive gives what machines send of their sequences and stages, and their kernels' log: "address text" a line.
func (s *Site) Receive() (<-chan events.Event, <-chan string) {
	s.Helper()

	happened, kernel := make(sink, 1000), make(chan string, 1000)
	server := grpc.NewServer()
	eventsapi.RegisterEventSinkServiceServer(server, events.NewSink(happened, []proto.Message{&machineapi.SequenceEvent{}, &machineapi.MachineStatusEvent{}}))

	receiver := logreceiver.NewServer(zap.NewNop(), s.listen(logsPort), func(source netip.Addr, line map[string]any) {
		select {
		case kernel <- fmt.Sprint(source, " ", line["msg"]):
		case <-s.Context().Done():
		}
	})
	sinks := s.listen(eventsPort)

	go func() { _ = server.Serve(sinks) }()
	go func() { _ = receiver.Serve() }()

	s.Cleanup(server.Stop)
	s.Cleanup(receiver.Stop)

	return happened, kernel
}

// listen is at the server's address, as soon as it has it.
func (s *Site) listen(port int) (listener net.Listener) {
	s.Helper()

	s.Until("the server has its address", func() bool {
		var err error
		listener, err = net.Listen("tcp", net.JoinHostPort(serverAddress().String(), strconv.Itoa(port)))

		return err == nil
	})

	return listener
}

// Next is what comes next.
func Next[T any](t *testing.T, from <-chan T) T {
	t.Helper()

	select {
	case one := <-from:
		return one
	case <-time.After(patience):
		t.Fatal("nothing comes")

		panic("unreachable")
	}
}
