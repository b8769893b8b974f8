package omni

import (
	"context"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/management"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	joinconfig "github.com/siderolabs/omni/client/pkg/siderolink"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// firstToken makes the token that every Omni begins with, which is the default one. It has no name: omnictl finds it
// as "initial".
func (o *Omni) firstToken(ctx context.Context) error {
	if _, err := o.state.Get(ctx, siderolink.NewDefaultJoinToken().Metadata()); !state.IsNotFoundError(err) {
		return err
	}
	id, err := jointoken.Generate()
	if err != nil {
		return err
	}
	if err := o.state.Create(ctx, siderolink.NewJoinToken(id)); err != nil {
		return err
	}
	first := siderolink.NewDefaultJoinToken()
	first.TypedSpec().Value.TokenId = id
	return o.state.Create(ctx, first)
}

// NewJoinToken makes a join token; a lifetime of 0 is without end.
func (o *Omni) NewJoinToken(ctx context.Context, name string, lifetime time.Duration) (string, error) {
	var spec specs.JoinTokenSpec
	if lifetime > 0 {
		spec.ExpirationTime = expires(lifetime)
	}
	spec.Name = name
	return o.addToken(ctx, &spec)
}

func (o *Omni) addToken(ctx context.Context, spec *specs.JoinTokenSpec) (string, error) {
	if spec.Name == "" {
		return "", status.Error(codes.InvalidArgument, "name is required")
	}
	id, err := jointoken.Generate()
	if err != nil {
		return "", err
	}
	return id, o.keepToken(ctx, id, spec)
}

func (o *Omni) keepToken(ctx context.Context, id string, spec *specs.JoinTokenSpec) error {
	token := siderolink.NewJoinToken(id)
	token.TypedSpec().Value = spec
	return o.state.Create(ctx, token)
}

func (m *managementServer) CreateJoinToken(
	ctx context.Context, request *management.CreateJoinTokenRequest,
) (*management.CreateJoinTokenResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	id, err := m.omni.addToken(ctx, &specs.JoinTokenSpec{Name: request.GetName(), ExpirationTime: request.GetExpirationTime()})
	if err != nil {
		return nil, err
	}
	return &management.CreateJoinTokenResponse{Id: id}, nil
}

func (m *managementServer) GetMachineJoinConfig(
	ctx context.Context, request *management.GetMachineJoinConfigRequest,
) (*management.GetMachineJoinConfigResponse, error) {
	if err := need(ctx, RoleReader); err != nil {
		return nil, err
	}
	id := request.GetJoinToken()
	if id == "" {
		token, err := safe.StateGetByID[*siderolink.DefaultJoinToken](ctx, m.omni.state, siderolink.DefaultJoinTokenID)
		if err != nil {
			return nil, err
		}
		id = token.TypedSpec().Value.TokenId
	}
	if _, err := m.omni.state.Get(ctx, siderolink.NewJoinToken(id).Metadata()); state.IsNotFoundError(err) {
		return nil, status.Error(codes.NotFound, "join token not found")
	} else if err != nil {
		return nil, err
	}
	join, err := joinconfig.NewJoinOptions(
		joinconfig.WithMachineAPIURL(m.omni.options.MachineAPI), joinconfig.WithJoinToken(id),
		joinconfig.WithGRPCTunnel(request.GetUseGrpcTunnel() || m.omni.options.Tunnel),
		joinconfig.WithEventSinkPort(m.omni.options.EventPort), joinconfig.WithLogServerPort(m.omni.options.LogPort),
	)
	if err != nil {
		return nil, err
	}
	documents, err := join.RenderJoinConfig()
	if err != nil {
		return nil, err
	}
	return &management.GetMachineJoinConfigResponse{KernelArgs: join.GetKernelArgs(), Config: string(documents)}, nil
}

// tokenState tells whether machines may join with a token now.
func tokenState(spec *specs.JoinTokenSpec) specs.JoinTokenStatusSpec_State {
	switch {
	case spec.Revoked:
		return specs.JoinTokenStatusSpec_REVOKED
	case spec.ExpirationTime != nil && !spec.ExpirationTime.AsTime().After(time.Now()):
		return specs.JoinTokenStatusSpec_EXPIRED
	default:
		return specs.JoinTokenStatusSpec_ACTIVE
	}
}

// showTokens keeps the statuses of the join tokens, which `omnictl jointoken list` shows.
func (o *Omni) showTokens(ctx context.Context) error {
	tokens, err := safe.StateListAll[*siderolink.JoinToken](ctx, o.state)
	if err != nil {
		return err
	}
	first, err := safe.StateGetByID[*siderolink.DefaultJoinToken](ctx, o.state, siderolink.DefaultJoinTokenID)
	if err != nil {
		return err
	}
	usages, err := safe.StateListAll[*siderolink.JoinTokenUsage](ctx, o.state)
	if err != nil {
		return err
	}
	used := map[string]uint64{}
	for usage := range usages.All() {
		used[usage.TypedSpec().Value.TokenId]++
	}
	known := map[string]bool{}
	for token := range tokens.All() {
		id, spec := token.Metadata().ID(), token.TypedSpec().Value
		known[id] = true
		err := put(ctx, o.state, siderolink.NewJoinTokenStatus(id), func(res *siderolink.JoinTokenStatus) error {
			res.TypedSpec().Value = &specs.JoinTokenStatusSpec{
				State: tokenState(spec), IsDefault: id == first.TypedSpec().Value.TokenId, UseCount: used[id],
				ExpirationTime: spec.ExpirationTime, Name: spec.Name,
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	shown, err := safe.StateListAll[*siderolink.JoinTokenStatus](ctx, o.state)
	if err != nil {
		return err
	}
	for status := range shown.All() {
		if known[status.Metadata().ID()] {
			continue
		}
		if err := remove(ctx, o.state, status.Metadata()); err != nil {
			return err
		}
	}
	return nil
}
