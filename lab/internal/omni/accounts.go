package omni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	"github.com/siderolabs/go-api-signature/pkg/pgp"
	"github.com/siderolabs/omni/client/api/omni/management"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/access"
	"github.com/siderolabs/omni/client/pkg/omni/resources/auth"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// longestKey is how long a service account's key may live.
const longestKey = 365 * 24 * time.Hour

// NewServiceAccount makes a service account and its key, as `omnictl serviceaccount create` does, and returns the key
// in the form of OMNI_SERVICE_ACCOUNT_KEY. One of the name that exists gets one more key; its role stays.
func (o *Omni) NewServiceAccount(ctx context.Context, name string, role Role, lifetime time.Duration) (string, error) {
	key, err := NewKey(name, lifetime)
	if err != nil {
		return "", err
	}
	return key, o.AdoptServiceAccount(ctx, key, role)
}

// addAccount registers a service account with its first key and returns the key's id.
func (o *Omni) addAccount(ctx context.Context, name, role, public string) (string, error) {
	if _, known := rank[Role(role)]; !known || Role(role) == nobody {
		return "", status.Errorf(codes.InvalidArgument, "unknown role: %q", role)
	}
	email := access.ParseServiceAccountFromName(name).FullID()
	if _, err := o.state.Get(ctx, auth.NewIdentity(email).Metadata()); err == nil {
		return "", status.Errorf(codes.AlreadyExists, "service account %q already exists", email)
	} else if !state.IsNotFoundError(err) {
		return "", err
	}
	key, err := readKey(public, email)
	if err != nil {
		return "", err
	}
	user := auth.NewUser(uuid.NewString())
	user.TypedSpec().Value.Role = role
	identity := auth.NewIdentity(email)
	identity.TypedSpec().Value.UserId = user.Metadata().ID()
	identity.Metadata().Labels().Set(auth.LabelIdentityUserID, user.Metadata().ID())
	identity.Metadata().Labels().Set(auth.LabelIdentityTypeServiceAccount, "")
	for _, made := range []resource.Resource{user, identity} {
		if err := o.state.Create(ctx, made); err != nil {
			return "", err
		}
	}
	return key.ID, o.register(ctx, key, email, user.Metadata().ID(), role)
}

// addKey gives a service account one more key; its older ones go on being good until they expire.
func (o *Omni) addKey(ctx context.Context, name, public string) (string, error) {
	email := access.ParseServiceAccountFromName(name).FullID()
	identity, err := safe.StateGetByID[*auth.Identity](ctx, o.state, email)
	if state.IsNotFoundError(err) {
		return "", status.Errorf(codes.NotFound, "service account %q not found", email)
	} else if err != nil {
		return "", err
	}
	user, err := safe.StateGetByID[*auth.User](ctx, o.state, identity.TypedSpec().Value.UserId)
	if err != nil {
		return "", err
	}
	key, err := readKey(public, email)
	if err != nil {
		return "", err
	}
	return key.ID, o.register(ctx, key, email, user.Metadata().ID(), user.TypedSpec().Value.Role)
}

func readKey(public, email string) (access.PublicKey, error) {
	key, err := access.ValidatePGPPublicKey([]byte(public), pgp.WithMaxAllowedLifetime(longestKey))
	if err != nil {
		return access.PublicKey{}, status.Error(codes.InvalidArgument, err.Error())
	}
	if of, _ := access.ParseServiceAccountFromFullID(email); key.Username != of.BaseName {
		return access.PublicKey{}, status.Errorf(codes.InvalidArgument, "the key is of %q, the account is %q", key.Username, email)
	}
	return key, nil
}

func (o *Omni) register(ctx context.Context, key access.PublicKey, email, user, role string) error {
	made := auth.NewPublicKey(key.ID)
	made.Metadata().Labels().Set(auth.LabelPublicKeyUserID, user)
	made.Metadata().Labels().Set(auth.LabelIdentityTypeServiceAccount, "")
	made.TypedSpec().Value = &specs.PublicKeySpec{
		PublicKey: key.Data, Expiration: timestamppb.New(key.Expiration), Confirmed: true,
		Identity: &specs.Identity{Email: email}, Role: role, Type: specs.PublicKeySpec_PGP,
	}
	if err := o.state.Create(ctx, made); state.IsConflictError(err) {
		return status.Error(codes.AlreadyExists, "this key is registered already")
	} else if err != nil {
		return err
	}
	return nil
}

func (m *managementServer) CreateServiceAccount(
	ctx context.Context, request *management.CreateServiceAccountRequest,
) (*management.CreateServiceAccountResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	role := request.GetRole()
	if request.GetUseUserRole() {
		role = string(accountOf(ctx).role)
	}
	id, err := m.omni.addAccount(ctx, request.GetName(), role, request.GetArmoredPgpPublicKey())
	if err != nil {
		return nil, err
	}
	return &management.CreateServiceAccountResponse{PublicKeyId: id}, nil
}

func (m *managementServer) RenewServiceAccount(
	ctx context.Context, request *management.RenewServiceAccountRequest,
) (*management.RenewServiceAccountResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	id, err := m.omni.addKey(ctx, request.GetName(), request.GetArmoredPgpPublicKey())
	if err != nil {
		return nil, err
	}
	return &management.RenewServiceAccountResponse{PublicKeyId: id}, nil
}

func (m *managementServer) ListServiceAccounts(ctx context.Context, _ *emptypb.Empty) (*management.ListServiceAccountsResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	keys, err := safe.StateListAll[*auth.PublicKey](ctx, m.omni.state)
	if err != nil {
		return nil, err
	}
	of := map[string]*management.ListServiceAccountsResponse_ServiceAccount{}
	for key := range keys.All() {
		spec := key.TypedSpec().Value
		email := spec.Identity.GetEmail()
		parsed, is := access.ParseServiceAccountFromFullID(email)
		if !is {
			continue
		}
		if of[email] == nil {
			of[email] = &management.ListServiceAccountsResponse_ServiceAccount{Name: parsed.NameWithPrefix(), Role: spec.Role}
		}
		of[email].PgpPublicKeys = append(of[email].PgpPublicKeys, &management.ListServiceAccountsResponse_ServiceAccount_PgpPublicKey{
			Id: key.Metadata().ID(), Armored: string(spec.PublicKey), Expiration: spec.Expiration, Created: timestamppb.New(key.Metadata().Created()),
		})
	}
	answer := &management.ListServiceAccountsResponse{}
	for _, one := range of {
		answer.ServiceAccounts = append(answer.ServiceAccounts, one)
	}
	slices.SortFunc(answer.ServiceAccounts, func(a, b *management.ListServiceAccountsResponse_ServiceAccount) int {
		return strings.Compare(a.GetName(), b.GetName())
	})
	return answer, nil
}

func (m *managementServer) DestroyServiceAccount(ctx context.Context, request *management.DestroyServiceAccountRequest) (*emptypb.Empty, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	email := access.ParseServiceAccountFromName(request.GetName()).FullID()
	identity, err := safe.StateGetByID[*auth.Identity](ctx, m.omni.state, email)
	if state.IsNotFoundError(err) {
		return nil, status.Errorf(codes.NotFound, "service account %q not found", email)
	} else if err != nil {
		return nil, err
	}
	user := identity.TypedSpec().Value.UserId
	keys, err := safe.StateListAll[*auth.PublicKey](ctx, m.omni.state,
		state.WithLabelQuery(resource.LabelEqual(auth.LabelPublicKeyUserID, user)))
	if err != nil {
		return nil, err
	}
	var faults []error
	for key := range keys.All() {
		faults = append(faults, m.omni.state.Destroy(ctx, key.Metadata()))
	}
	faults = append(faults, m.omni.state.Destroy(ctx, identity.Metadata()), m.omni.state.Destroy(ctx, auth.NewUser(user).Metadata()))
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("service account %q is only partly gone: %w", email, err)
	}
	return &emptypb.Empty{}, nil
}
