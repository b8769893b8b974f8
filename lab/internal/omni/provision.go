package omni

import (
	"context"
	"net"
	"net/netip"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	pb "github.com/siderolabs/siderolink/api/siderolink"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// errJoinToken is the answer to a machine with a wrong token (siderolink, internal/server).
var errJoinToken = status.Error(codes.PermissionDenied, "invalid join token")

// errUniqueToken is the answer to a machine that has another machine's, or an old, unique token; Omni's log has the
// reason (omni issue 3350).
var errUniqueToken = status.Error(codes.PermissionDenied, "unauthorized")

// provisionServer is the machine API: it gives a machine its address in SideroLink.
type provisionServer struct {
	pb.UnimplementedProvisionServiceServer

	omni *Omni
	link *sideroLink
}

// Provision lets a machine in (omni pull requests 937 and 974). One that has no unique token yet is pending: Omni gives
// it one over a connection that is good for this alone, and the machine asks again.
func (p *provisionServer) Provision(ctx context.Context, request *pb.ProvisionRequest) (*pb.ProvisionResponse, error) {
	if _, err := wgtypes.ParseKey(request.GetNodePublicKey()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "error parsing Wireguard key: %s", err)
	}
	if request.GetNodeUuid() == "" {
		return nil, status.Error(codes.InvalidArgument, "node UUID is empty")
	}
	tokenID, tokenErr := p.omni.joinTokenOf(ctx, request.GetJoinToken())
	token, err := jointoken.ParseNodeUniqueToken(request.GetNodeUniqueToken())
	if err != nil {
		return nil, err
	}
	if !token.HasToken() {
		if tokenErr != nil {
			return nil, tokenErr
		}
		return p.pend(ctx, request, false)
	}
	known, err := p.omni.uniqueToken(ctx, request.GetNodeUuid())
	if err != nil {
		return nil, err
	}
	switch {
	case token.Equal(known):
		return p.accept(ctx, request, tokenID)
	case tokenErr != nil:
		return nil, tokenErr
	case known == nil:
		return p.accept(ctx, request, tokenID)
	case !token.IsSameFingerprint(known):
		return p.pend(ctx, request, true)
	}
	installed, err := p.omni.isInstalled(ctx, request.GetNodeUuid())
	if err != nil {
		return nil, err
	}
	if installed {
		p.omni.log.Warn("machine connection rejected: the machine has the correct fingerprint, but the random token part doesn't match",
			"machine", request.GetNodeUuid())
		return nil, errUniqueToken
	}
	return p.accept(ctx, request, tokenID)
}

// joinTokenOf checks a join token and returns its id.
func (o *Omni) joinTokenOf(ctx context.Context, given string) (string, error) {
	parsed, err := jointoken.Parse(given)
	if err != nil || parsed.Version != jointoken.VersionPlain { // the others are of infrastructure providers
		return "", errJoinToken
	}
	token, err := safe.StateGetByID[*siderolink.JoinToken](ctx, o.state, given)
	if state.IsNotFoundError(err) {
		return "", errJoinToken
	} else if err != nil {
		return "", err
	}
	if token.Metadata().Phase() != resource.PhaseRunning || tokenState(token.TypedSpec().Value) != specs.JoinTokenStatusSpec_ACTIVE {
		return "", errJoinToken
	}
	return given, nil
}

// uniqueToken is the one that the machine of an id has from Omni; nil is none.
func (o *Omni) uniqueToken(ctx context.Context, id string) (*jointoken.NodeUniqueToken, error) {
	if _, err := o.state.Get(ctx, siderolink.NewLink(id, nil).Metadata()); state.IsNotFoundError(err) {
		return nil, nil // a machine that is new
	} else if err != nil {
		return nil, err
	}
	kept, err := safe.StateGetByID[*siderolink.NodeUniqueToken](ctx, o.state, id)
	if state.IsNotFoundError(err) {
		return nil, nil // as above
	} else if err != nil {
		return nil, err
	}
	return jointoken.ParseNodeUniqueToken(kept.TypedSpec().Value.Token)
}

func (o *Omni) isInstalled(ctx context.Context, id string) (bool, error) {
	machine, err := safe.StateGetByID[*omni.MachineStatus](ctx, o.state, id)
	if state.IsNotFoundError(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return omni.GetMachineStatusSystemDisk(machine) != "", nil
}

// connection chooses a machine's addresses; one that it had stays.
func (p *provisionServer) connection(ctx context.Context, request *pb.ProvisionRequest, had string) (*specs.SiderolinkSpec, error) {
	spec := &specs.SiderolinkSpec{NodeSubnet: had, NodePublicKey: request.GetNodePublicKey()}
	if spec.NodeSubnet == "" {
		address, err := wireguard.GenerateRandomNodeAddr(wireguard.NetworkPrefix(""))
		if err != nil {
			return nil, status.Errorf(codes.Internal, "error generating node address: %s", err)
		}
		spec.NodeSubnet = address.String()
	}
	if request.GetWireguardOverGrpc() || p.omni.options.Tunnel {
		virtual, err := wireguard.GenerateRandomNodeAddr(wireguard.VirtualNetworkPrefix())
		if err != nil {
			return nil, status.Errorf(codes.Internal, "error generating tunnel endpoint: %s", err)
		}
		spec.VirtualAddrport = net.JoinHostPort(virtual.Addr().String(), tunnelPort)
	}
	if peer, known := grpcpeer.FromContext(ctx); known {
		if address, err := netip.ParseAddrPort(peer.Addr.String()); err == nil {
			spec.RemoteAddr = address.Addr().String()
		}
	}
	return spec, nil
}

// pend connects a machine so that Omni can write its unique token, or another UUID where two machines have one.
func (p *provisionServer) pend(ctx context.Context, request *pb.ProvisionRequest, conflict bool) (*pb.ProvisionResponse, error) {
	id := request.GetNodePublicKey()
	had := ""
	if before, err := safe.StateGetByID[*siderolink.PendingMachine](ctx, p.omni.state, id); err == nil {
		had = before.TypedSpec().Value.NodeSubnet
	} else if !state.IsNotFoundError(err) {
		return nil, err
	}
	spec, err := p.connection(ctx, request, had)
	if err != nil {
		return nil, err
	}
	err = put(ctx, p.omni.state, siderolink.NewPendingMachine(id, &specs.SiderolinkSpec{}), func(res *siderolink.PendingMachine) error {
		res.TypedSpec().Value = spec
		res.Metadata().Labels().Set(omni.MachineUUID, request.GetNodeUuid())
		if conflict {
			res.Metadata().Annotations().Set(siderolink.PendingMachineUUIDConflict, "")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p.answer(ctx, spec)
}

// accept links a machine: from here on it is one of Omni's machines.
func (p *provisionServer) accept(ctx context.Context, request *pb.ProvisionRequest, tokenID string) (*pb.ProvisionResponse, error) {
	id := request.GetNodeUuid()
	before, err := safe.StateGetByID[*siderolink.Link](ctx, p.omni.state, id)
	if err != nil && !state.IsNotFoundError(err) {
		return nil, err
	}
	had := ""
	if before != nil {
		if before.Metadata().Phase() != resource.PhaseRunning {
			return nil, status.Error(codes.Unavailable, "the link is being removed")
		}
		had = before.TypedSpec().Value.NodeSubnet
		if old := before.TypedSpec().Value.NodePublicKey; old != request.GetNodePublicKey() {
			if err := p.link.drop(ctx, old); err != nil {
				return nil, err
			}
		}
	}
	spec, err := p.connection(ctx, request, had)
	if err != nil {
		return nil, err
	}
	if err := p.omni.writeLink(ctx, id, spec, before == nil); err != nil {
		return nil, err
	}
	err = put(ctx, p.omni.state, siderolink.NewNodeUniqueToken(id), func(res *siderolink.NodeUniqueToken) error {
		res.TypedSpec().Value.Token = request.GetNodeUniqueToken()
		return nil
	})
	if err != nil {
		return nil, err
	}
	if tokenID != "" {
		err = put(ctx, p.omni.state, siderolink.NewJoinTokenUsage(id), func(res *siderolink.JoinTokenUsage) error {
			res.TypedSpec().Value.TokenId = tokenID
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := remove(ctx, p.omni.state, siderolink.NewPendingMachine(request.GetNodePublicKey(), nil).Metadata()); err != nil {
		return nil, err
	}
	p.omni.log.Info("machine linked", "machine", id, "address", spec.NodeSubnet, "tunnel", spec.VirtualAddrport != "")
	return p.answer(ctx, spec)
}

// writeLink keeps a link. It has no owner: clients take links away, and the finalizer holds it until the machine is gone
// from Omni.
func (o *Omni) writeLink(ctx context.Context, id string, spec *specs.SiderolinkSpec, isNew bool) error {
	if isNew {
		link := siderolink.NewLink(id, spec)
		link.TypedSpec().Value.Connected = true
		link.Metadata().Finalizers().Add(finalizer)
		link.Metadata().Annotations().Set(omni.CreatedWithUniqueToken, "")
		return o.state.Create(ctx, link)
	}
	_, err := safe.StateUpdateWithConflicts(ctx, o.state, siderolink.NewLink(id, nil).Metadata(), func(res *siderolink.Link) error {
		spec.LastEndpoint = res.TypedSpec().Value.LastEndpoint
		res.TypedSpec().Value = spec
		res.TypedSpec().Value.Connected = true
		return nil
	})
	return err
}

func (p *provisionServer) answer(ctx context.Context, spec *specs.SiderolinkSpec) (*pb.ProvisionResponse, error) {
	if err := p.link.add(ctx, spec); err != nil {
		return nil, err
	}
	endpoint := spec.VirtualAddrport
	if endpoint == "" {
		endpoint = p.link.endpoint.String()
	}
	return &pb.ProvisionResponse{
		ServerEndpoint: pb.MakeEndpoints(endpoint), ServerPublicKey: p.link.private.PublicKey().String(),
		NodeAddressPrefix: spec.NodeSubnet, ServerAddress: p.link.server.Addr().String(), GrpcPeerAddrPort: spec.VirtualAddrport,
	}, nil
}
