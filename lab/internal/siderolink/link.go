// Package siderolink is the machine's side of SideroLink: it asks the API for its place, keeps a WireGuard link to the server,
// and sends events. It follows Talos 1.13.9 (internal/app/machined/pkg/controllers/siderolink, .../runtime/events_sink.go) and
// knows nothing of who serves.
//
// Not there: a link in the kernel. WireGuard runs in userspace, over UDP and inside gRPC alike.
package siderolink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	pb "github.com/siderolabs/siderolink/api/siderolink"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wgbind"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wggrpc"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"platform.lab/lab/internal/machine/lifetime"
)

// Talos' own times.
const (
	provisionTimeout = 30 * time.Second
	// checkEvery is how often the link is looked at.
	checkEvery = 30 * time.Second
	// relayPause is between two streams of a tunnel, relayRetry between two that the server refuses.
	relayPause = 10 * time.Second
	relayRetry = 5 * time.Second
	// Controllers that failed run again after firstPause, then ever later.
	firstPause   = 500 * time.Millisecond
	longestPause = time.Minute
)

// pending packets of a tunnel: then those from the server wait, and the oldest to the server are lost.
const pending = 100

// key is a private key of WireGuard.
type key = wgtypes.Key

// Network is the machine's network, as far as a link needs it.
type Network interface {
	// Do runs f in the machine's network namespace.
	Do(f func() error) error
	Dial(ctx context.Context, protocol, address string) (net.Conn, error)
	// Ready says whether the machine has an address.
	Ready() bool
	// SetSideroLink brings a link up and gives it its address, in place of the one that the machine had at SideroLink before;
	// without an address the link is gone.
	SetSideroLink(link string, address netip.Prefix) error
}

// Machine is what the link needs of the machine that joins.
type Machine struct {
	*lifetime.Lifetime

	Network Network
	// Configuration is the active one; nil when there is none.
	Configuration func() config.Provider
	// UUID is the system's (SMBIOS), UniqueToken what the server has told this disk apart by.
	UUID         func() string
	UniqueToken  func() string
	TalosVersion func() string
	// Roots are the authorities that the machine trusts.
	Roots func() (*x509.CertPool, error)
}

// identity is what a machine provisions with: another one provisions again.
type identity struct {
	Settings

	joins       bool
	uuid, token string
}

// Status is a link as the machine sees it.
type Status struct {
	// Settings are those of the configuration; without a Host the machine joins nothing.
	Settings

	// Link is the name of the interface; "" before the first answer of the API.
	Link string
	// Tunnelled says whether the link runs inside gRPC, which the server decides too.
	Tunnelled bool
	Address   netip.Prefix
	// Peer is the machine's address in the tunnel.
	Peer netip.AddrPort
	// Connected is false while the server does not answer.
	Connected bool
}

// Link keeps a machine's way to the server.
type Link struct {
	Machine

	private key
	queues  *wgbind.QueuePair
	// downAfter is how long a server may be silent; each checkEvery it is looked whether it was.
	downAfter, checkEvery time.Duration

	known   identity
	answer  provisioned
	device  *device
	relay   *relay
	checked time.Time
	// retryAt is when a failed attempt is made again; zero: the last one succeeded.
	retryAt time.Time
	pause   time.Duration

	mu     sync.Mutex
	status Status
}

// New is a link that is not up. Its key lives as long as the boot.
func New(machine Machine) (*Link, error) {
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return nil, fmt.Errorf("error generating Wireguard key: %w", err)
	}

	return &Link{
		Machine: machine, private: private, queues: wgbind.NewQueuePair(pending, pending),
		downAfter: wireguard.PeerDownInterval, checkEvery: checkEvery, pause: firstPause,
	}, nil
}

// Status is the present one.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()

	return l.status
}

func (l *Link) setStatus(change func(*Status)) {
	l.mu.Lock()
	before := l.status
	change(&l.status)
	changed := before != l.status
	l.mu.Unlock()

	if changed {
		l.Changed()
	}
}

// Run keeps the link as the configuration wants it, until the power goes.
func (l *Link) Run() {
	defer l.takeDown()

	for ; !l.IsOver(); l.Sleep(lifetime.Tick) {
		if l.Network.Ready() && l.isDue() {
			l.attempt()
		}

		l.keepRelay()
	}
}

// isDue says whether the link has to be made (again): the machine provisions with something else, the last attempt failed, or
// the server is silent.
func (l *Link) isDue() bool {
	if wanted := l.identity(); wanted != l.known {
		l.known, l.answer = wanted, provisioned{}
		l.retryAt, l.pause = time.Time{}, firstPause
		l.setStatus(func(s *Status) { s.Settings = wanted.Settings })

		return true
	}

	switch {
	case !l.known.joins:
		return false
	case !l.retryAt.IsZero():
		return time.Now().After(l.retryAt)
	case time.Since(l.checked) < l.checkEvery:
		return false
	default:
		l.checked = time.Now()

		return l.isDown()
	}
}

func (l *Link) identity() identity {
	settings, joins := Of(l.Configuration())
	if !joins {
		return identity{}
	}

	return identity{Settings: settings, joins: true, uuid: l.UUID(), token: l.UniqueToken()}
}

// isDown says whether the server does not answer, and keeps the status true.
func (l *Link) isDown() bool {
	since, err := l.device.sinceHandshake()
	l.LogError("siderolink", err)

	down := err != nil || since >= l.downAfter
	l.setStatus(func(s *Status) { s.Connected = !down })

	return down
}

// attempt makes the link; a failure is tried again, ever later.
func (l *Link) attempt() {
	err := l.reconcile()
	if err == nil {
		l.retryAt, l.pause = time.Time{}, firstPause

		return
	}

	l.LogError("controller failed", fmt.Errorf("siderolink.ManagerController: %w", err))
	l.retryAt = time.Now().Add(l.pause)
	l.pause = min(l.pause*3/2, longestPause)
}

// reconcile asks the API unless it named further endpoints, and takes the next of them.
func (l *Link) reconcile() error {
	if !l.known.joins {
		l.takeDown()

		return nil
	}

	if len(l.answer.endpoints) == 0 {
		answer, err := l.provision()
		if err != nil {
			return fmt.Errorf("error provisioning: %w", err)
		}

		l.answer = answer
	}

	return l.configure()
}

// provision asks the API for the machine's place.
func (l *Link) provision() (provisioned, error) {
	ctx, cancel := context.WithTimeout(l.Context(), provisionTimeout)
	defer cancel()

	options, err := l.dialOptions()
	if err != nil {
		return provisioned{}, err
	}

	client, err := grpc.NewClient(target(l.known.Host), options...)
	if err != nil {
		return provisioned{}, fmt.Errorf("error dialing SideroLink endpoint %q: %w", l.known.Host, err)
	}
	defer client.Close()

	version := l.TalosVersion()
	request := &pb.ProvisionRequest{
		NodeUuid: l.known.uuid, NodePublicKey: l.private.PublicKey().String(), NodeUniqueToken: &l.known.token, TalosVersion: &version,
	}

	if l.known.JoinToken != "" {
		request.JoinToken = &l.known.JoinToken
	}

	if l.known.Tunnel {
		request.WireguardOverGrpc = &l.known.Tunnel
	}

	answer, err := pb.NewProvisionServiceClient(client).Provision(ctx, request)
	if err != nil {
		return provisioned{}, err
	}

	return provisioned{
		serverKey: answer.ServerPublicKey, server: answer.ServerAddress, node: answer.NodeAddressPrefix,
		endpoints: answer.GetEndpoints(), peer: answer.GrpcPeerAddrPort,
	}, nil
}

// target keeps gRPC from looking the name up itself: the machine's network does.
func target(host string) string { return "passthrough:///" + host }

func (l *Link) dialOptions() ([]grpc.DialOption, error) {
	secure := insecure.NewCredentials()

	if !l.known.Insecure {
		roots, err := l.Roots()
		if err != nil {
			return nil, fmt.Errorf("trusted authorities: %w", err)
		}

		secure = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots})
	}

	return []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return l.Network.Dial(ctx, "tcp", address)
		}),
	}, nil
}

// configure makes the link what the API answered.
func (l *Link) configure() error {
	server, err := netip.ParseAddr(l.answer.server)
	if err != nil {
		return fmt.Errorf("error parsing server address: %w", err)
	}

	node, err := netip.ParsePrefix(l.answer.node)
	if err != nil {
		return fmt.Errorf("error parsing node address: %w", err)
	}

	peer, name := netip.AddrPort{}, constants.SideroLinkName
	if l.answer.peer != "" {
		if peer, err = netip.ParseAddrPort(l.answer.peer); err != nil {
			return err
		}

		name = constants.SideroLinkTunnelName
	}

	text, err := l.answer.take()
	if err != nil {
		return err
	}

	endpoint, port, err := addrPort(text)
	if err != nil {
		return err
	}

	l.Log.Info("configuring siderolink connection", "peer_endpoint", text)

	if err := l.ensureDevice(name, peer.IsValid()); err != nil {
		return err
	}

	if err := l.device.configure(l.private, l.answer.serverKey, endpoint, server, port); err != nil {
		return err
	}

	if err := l.Network.SetSideroLink(name, node); err != nil {
		return err
	}

	if err := l.useRelay(peer); err != nil {
		return err
	}

	l.checked = time.Now()
	l.setStatus(func(s *Status) { s.Link, s.Tunnelled, s.Address, s.Peer = name, peer.IsValid(), node, peer })
	l.Log.Info("siderolink connection configured", "endpoint", l.known.Host, "node_uuid", l.known.uuid, "node_address", node.String())

	return nil
}

// ensureDevice makes the link, in place of one of the other kind.
func (l *Link) ensureDevice(name string, tunnelled bool) error {
	if l.device != nil && l.device.name == name {
		return nil
	}

	l.takeDown()

	bind := conn.NewDefaultBind()
	if tunnelled {
		bind = wgbind.NewClientBind(l.queues, zap.NewNop())
	}

	var err error
	l.device, err = newDevice(l.Network, name, bind, l.Log)

	if err != nil {
		l.device = nil
	}

	return err
}

// useRelay opens the tunnel for another address; no address is no tunnel.
func (l *Link) useRelay(peer netip.AddrPort) error {
	if l.relay != nil && !l.relay.isOver() && l.relay.peer == peer && l.relay.host == l.known.Host {
		return nil
	}

	l.closeRelay()

	if !peer.IsValid() {
		return nil
	}

	return l.openRelay(peer)
}

// relay is a tunnel's stream to the server.
type relay struct {
	*wggrpc.Relay

	host string
	peer netip.AddrPort
	over chan struct{}
	// ended is when it did; it may be read when over is closed.
	ended time.Time
}

func (r *relay) isOver() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

// openRelay carries the link's packets inside gRPC. The stream is opened again when it breaks; it ends when the server takes
// another one in its place or does not know the machine (any more).
func (l *Link) openRelay(peer netip.AddrPort) error {
	options, err := l.dialOptions()
	if err != nil {
		return err
	}

	opened, err := wggrpc.NewRelayToHost(target(l.known.Host), relayPause, l.queues, peer, options...)
	if err != nil {
		return fmt.Errorf("failed to create tunnel relay: %w", err)
	}

	running := &relay{Relay: opened, host: l.known.Host, peer: peer, over: make(chan struct{})}
	l.relay = running

	l.Log.Info("updating tunnel relay", "new_endpoint", running.host, "new_node_address", peer.String())
	l.Go(func() {
		defer close(running.over)

		l.LogError("tunnel relay failed, retrying", opened.Run(l.Context(), zap.NewNop()))
		opened.Close()

		running.ended = time.Now()
	})

	return nil
}

// keepRelay opens a stream that the server has refused again.
func (l *Link) keepRelay() {
	if l.relay != nil && l.relay.isOver() && time.Since(l.relay.ended) >= relayRetry {
		l.LogError("siderolink", l.openRelay(l.relay.peer))
	}
}

func (l *Link) closeRelay() {
	if l.relay != nil {
		l.relay.Close()
		<-l.relay.over
		l.relay = nil
	}
}

// takeDown takes the link away.
func (l *Link) takeDown() {
	l.closeRelay()

	if l.device == nil {
		return
	}

	l.device.close()
	l.LogError("siderolink", l.Network.SetSideroLink(l.device.name, netip.Prefix{}))
	l.device = nil
	l.setStatus(func(s *Status) { *s = Status{Settings: s.Settings} })
}
