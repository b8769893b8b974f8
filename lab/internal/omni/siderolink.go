package omni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	eventsapi "github.com/siderolabs/siderolink/api/events"
	pb "github.com/siderolabs/siderolink/api/siderolink"
	"github.com/siderolabs/siderolink/pkg/events"
	"github.com/siderolabs/siderolink/pkg/logreceiver"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wgbind"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wggrpc"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	// maxPackets is how many packets of machines wait before the tunnels are held up.
	maxPackets = 100
	// tunnelPort is the port of a machine's end of the tunnel, which nobody listens on.
	tunnelPort = "50888"
	// peerPoll is how often it is looked which machines are connected.
	peerPoll = 5 * time.Second
	// peersRemoved is how often peers are removed that are down.
	peersRemoved = 10 * time.Second
)

// sideroLink is the server's end of the machines' connections: WireGuard, by UDP or inside gRPC.
type sideroLink struct {
	private wgtypes.Key
	// endpoint is where WireGuard answers by UDP.
	endpoint netip.AddrPort
	server   netip.Prefix
	peers    chan wireguard.PeerEvent
	allowed  *wggrpc.AllowedPeers
	traffic  *wgbind.PeerTraffic
	device   *wireguard.Device
}

// EventCh implements wireguard.PeerSource.
func (l *sideroLink) EventCh() <-chan wireguard.PeerEvent { return l.peers }

// HandlePeerAdded lets a peer use the tunnel inside gRPC.
func (l *sideroLink) HandlePeerAdded(event wireguard.PeerEvent) error {
	if event.VirtualAddr.IsValid() {
		l.allowed.AddToken(event.PubKey, event.VirtualAddr.String())
	}
	return nil
}

// HandlePeerRemoved shuts the tunnel for it.
func (l *sideroLink) HandlePeerRemoved(key wgtypes.Key) error {
	l.allowed.RemoveToken(key)
	return nil
}

// newSideroLink makes the interface "siderolink" in the present network namespace.
func (o *Omni) newSideroLink(ctx context.Context, endpoint netip.AddrPort) (*sideroLink, error) {
	private, err := o.sideroLinkKey(ctx)
	if err != nil {
		return nil, err
	}
	prefix := wireguard.NetworkPrefix("")
	link := &sideroLink{
		private: private, endpoint: endpoint, server: netip.PrefixFrom(prefix.Addr().Next(), prefix.Bits()),
		peers: make(chan wireguard.PeerEvent), allowed: wggrpc.NewAllowedPeers(), traffic: wgbind.NewPeerTraffic(maxPackets),
	}
	link.device, err = wireguard.NewDevice(wireguard.DeviceConfig{
		Bind:        wgbind.NewServerBind(conn.NewDefaultBind(), wireguard.VirtualNetworkPrefix(), link.traffic, zap.NewNop()),
		PeerHandler: link, Logger: zap.NewNop(), ServerPrefix: link.server, PrivateKey: private,
		AutoPeerRemoveInterval: peersRemoved, ListenPort: endpoint.Port(),
	})
	if err != nil {
		return nil, fmt.Errorf("simulated Omni: SideroLink: %w", err)
	}
	return link, nil
}

// sideroLinkKey is the server's key, which outlives the process: machines keep their tunnels.
func (o *Omni) sideroLinkKey(ctx context.Context) (wgtypes.Key, error) {
	kept, err := safe.StateGetByID[*siderolink.Config](ctx, o.state, siderolink.ConfigID)
	if err == nil {
		return wgtypes.ParseKey(kept.TypedSpec().Value.PrivateKey)
	}
	if !state.IsNotFoundError(err) {
		return wgtypes.Key{}, err
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return wgtypes.Key{}, err
	}
	prefix := wireguard.NetworkPrefix("")
	return key, put(ctx, o.state, siderolink.NewConfig(), func(res *siderolink.Config) error {
		res.TypedSpec().Value = &specs.SiderolinkConfigSpec{
			PrivateKey: key.String(), PublicKey: key.PublicKey().String(), Subnet: prefix.String(), ServerAddress: prefix.Addr().Next().String(),
		}
		return nil
	})
}

// ServeMachines answers the machines until the context ends: the machine API on a listener, WireGuard at an endpoint,
// events and kernel logs inside SideroLink. It needs a network namespace of its own, /dev/net/tun and /run.
func (o *Omni) ServeMachines(ctx context.Context, listener net.Listener, endpoint netip.AddrPort) error {
	link, err := o.newSideroLink(ctx, endpoint)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer link.device.Close()
	answer := grpc.NewServer()
	pb.RegisterProvisionServiceServer(answer, &provisionServer{omni: o, link: link})
	pb.RegisterWireGuardOverGRPCServiceServer(answer, wggrpc.NewService(link.traffic, link.allowed, zap.NewNop()))

	parts, inner := errgroup.WithContext(ctx)
	parts.Go(func() error { return link.device.Run(inner, zap.NewNop(), link) })
	parts.Go(func() error { return serveGRPC(inner, answer, listener) })
	parts.Go(func() error { return o.serveEvents(inner, link) })
	parts.Go(func() error { return o.serveLogs(inner, link) })
	parts.Go(func() error { return o.keepPeers(inner, link) })
	parts.Go(func() error { return o.serveBalancers(inner, link) })
	if err := parts.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// inside listens at the server's address in SideroLink.
func (l *sideroLink) inside(ctx context.Context, port int) (net.Listener, error) {
	address := net.JoinHostPort(l.server.Addr().String(), fmt.Sprint(port))
	for {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil || ctx.Err() != nil {
			return listener, err
		}
		// The kernel wants a moment until a new IPv6 address may be used.
		if !sleep(ctx, 100*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// sleep tells whether the context goes on.
func sleep(ctx context.Context, duration time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(duration):
		return true
	}
}

func (o *Omni) serveEvents(ctx context.Context, link *sideroLink) error {
	listener, err := link.inside(ctx, o.options.EventPort)
	if err != nil {
		return err
	}
	answer := grpc.NewServer()
	eventsapi.RegisterEventSinkServiceServer(answer, events.NewSink(eventSink{omni: o}, []proto.Message{
		&machineapi.MachineStatusEvent{}, &machineapi.SequenceEvent{},
	}))
	return serveGRPC(ctx, answer, listener)
}

func (o *Omni) serveLogs(ctx context.Context, link *sideroLink) error {
	listener, err := link.inside(ctx, o.options.LogPort)
	if err != nil {
		return err
	}
	receive := logreceiver.NewServer(zap.NewNop(), listener, o.logs.receive)
	stop := context.AfterFunc(ctx, receive.Stop)
	defer stop()
	if err := receive.Serve(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// keepPeers gives WireGuard the machines that are linked already, looks which are connected, and takes out those whose
// link is gone.
func (o *Omni) keepPeers(ctx context.Context, link *sideroLink) error {
	links, err := safe.StateListAll[*siderolink.Link](ctx, o.state)
	if err != nil {
		return err
	}
	for one := range links.All() {
		if err := link.add(ctx, one.TypedSpec().Value); err != nil {
			return err
		}
	}
	for sleep(ctx, peerPoll) {
		if err := o.lookAtPeers(ctx, link); err != nil && ctx.Err() == nil {
			o.log.Warn("SideroLink's peers are not known", "error", err)
		}
	}
	return nil
}

func (l *sideroLink) add(ctx context.Context, spec *specs.SiderolinkSpec) error {
	key, err := wgtypes.ParseKey(spec.NodePublicKey)
	if err != nil {
		return err
	}
	address, err := netip.ParsePrefix(spec.NodeSubnet)
	if err != nil {
		return err
	}
	keepAlive := wireguard.RecommendedPersistentKeepAliveInterval
	event := wireguard.PeerEvent{PubKey: key, Address: address.Addr(), PersistentKeepAliveInterval: &keepAlive}
	if spec.VirtualAddrport != "" {
		virtual, err := netip.ParseAddrPort(spec.VirtualAddrport)
		if err != nil {
			return err
		}
		event.VirtualAddr = virtual.Addr()
		// Before the answer: a machine whose tunnel is not allowed gives it up.
		l.allowed.AddToken(key, virtual.Addr().String())
	}
	return l.tell(ctx, event)
}

func (l *sideroLink) drop(ctx context.Context, publicKey string) error {
	key, err := wgtypes.ParseKey(publicKey)
	if err != nil {
		return err
	}
	return l.tell(ctx, wireguard.PeerEvent{PubKey: key, Remove: true})
}

func (l *sideroLink) tell(ctx context.Context, event wireguard.PeerEvent) error {
	select {
	case l.peers <- event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lookAtPeers writes into the links which machines are connected. A machine is down when its last handshake is longer
// ago than WireGuard takes to give a peer up (siderolink's PeerDownInterval, 275 seconds).
func (o *Omni) lookAtPeers(ctx context.Context, link *sideroLink) error {
	peers, err := link.device.Peers()
	if err != nil {
		return err
	}
	links, err := safe.StateListAll[*siderolink.Link](ctx, o.state)
	if err != nil {
		return err
	}
	pending, err := safe.StateListAll[*siderolink.PendingMachine](ctx, o.state)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for one := range pending.All() {
		wanted[one.TypedSpec().Value.NodePublicKey] = true
	}
	up := map[string]wgtypes.Peer{}
	for _, peer := range peers {
		up[peer.PublicKey.String()] = peer
	}
	for one := range links.All() {
		key := one.TypedSpec().Value.NodePublicKey
		wanted[key] = true
		peer, known := up[key]
		if err := o.setConnected(ctx, one, known && time.Since(peer.LastHandshakeTime) < o.peerDown, peer.Endpoint); err != nil {
			return err
		}
	}
	for key := range up {
		if !wanted[key] {
			if err := link.drop(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *Omni) setConnected(ctx context.Context, link *siderolink.Link, connected bool, endpoint *net.UDPAddr) error {
	if link.TypedSpec().Value.Connected == connected {
		return nil
	}
	_, err := safe.StateUpdateWithConflicts(ctx, o.state, link.Metadata(), func(res *siderolink.Link) error {
		res.TypedSpec().Value.Connected = connected
		if endpoint != nil {
			res.TypedSpec().Value.LastEndpoint = endpoint.String()
		}
		return nil
	}, state.WithExpectedPhaseAny())
	if state.IsNotFoundError(err) {
		return nil
	}
	return err
}
