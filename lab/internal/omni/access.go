package omni

import (
	"context"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/go-api-signature/pkg/message"
	"github.com/siderolabs/omni/client/pkg/access"
	"github.com/siderolabs/omni/client/pkg/omni/resources/auth"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Role is what an account may do; each may do all that the one before it may.
type Role string

// The roles of Omni's accounts (docs "Account roles").
const (
	RoleNone     Role = "None"
	RoleReader   Role = "Reader"
	RoleOperator Role = "Operator"
	RoleAdmin    Role = "Admin"
	// nobody is more than any account's role: what only Omni itself does.
	nobody Role = "nobody"
)

var rank = map[Role]int{RoleNone: 0, RoleReader: 1, RoleOperator: 2, RoleAdmin: 3, nobody: 4}

// may tells whether this role is enough for what needs the other.
func (r Role) may(needed Role) bool { return rank[r] >= rank[needed] }

// account is who makes a call.
type account struct {
	identity string
	role     Role
}

type accountKey struct{}

func accountOf(ctx context.Context) account {
	found, _ := ctx.Value(accountKey{}).(account)
	return found
}

var (
	// errSignature is the answer to a call whose signature, clock or key is wrong (omni issue 1997).
	errSignature = status.Error(codes.Unauthenticated, "invalid signature")
	// errNotAllowed is the answer to a call that needs more than the account's role (omni issue 1936).
	errNotAllowed = status.Error(codes.PermissionDenied, "not allowed")
)

func (o *Omni) authenticateUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := o.authenticate(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (o *Omni) authenticateStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := o.authenticate(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(server, authenticated{ServerStream: stream, ctx: ctx})
}

// authenticated is a stream whose context knows the account.
type authenticated struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // a gRPC stream carries its context
}

func (a authenticated) Context() context.Context { return a.ctx }

// authenticate checks the PGP signature of a call: of the key's account, over the method and the signed headers, not
// older or newer than five minutes.
func (o *Omni) authenticate(ctx context.Context, method string) (context.Context, error) {
	refuse := func(why string, err error) (context.Context, error) {
		o.log.Info("call refused", "method", method, "reason", why, "error", err)
		return nil, errSignature
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	call := message.NewGRPC(headers, method)
	signature, err := call.Signature()
	if err != nil {
		return refuse("no signature", err)
	}
	key, err := safe.StateGetByID[*auth.PublicKey](ctx, o.state, signature.KeyFingerprint)
	if err != nil {
		return refuse("unknown key", err)
	}
	spec := key.TypedSpec().Value
	identity := access.ParseServiceAccountFromName(signature.Identity).FullID()
	switch {
	case identity != spec.Identity.GetEmail() && signature.Identity != spec.Identity.GetEmail():
		return refuse("the key is another account's", nil)
	case !spec.Confirmed:
		return refuse("the key is not confirmed", nil)
	case spec.Expiration.AsTime().Before(time.Now()):
		return refuse("the key has expired", nil)
	}
	verifier, err := auth.GetSignatureVerifier(key)
	if err != nil {
		return refuse("the key cannot be read", err)
	}
	if err := call.VerifySignature(verifier); err != nil {
		return refuse("wrong signature", err)
	}
	return context.WithValue(ctx, accountKey{}, account{identity: spec.Identity.GetEmail(), role: Role(spec.Role)}), nil
}

// need refuses an account whose role is not enough.
func need(ctx context.Context, role Role) error {
	if !accountOf(ctx).role.may(role) {
		return errNotAllowed
	}
	return nil
}

// grant says which role may read and which may write resources of a kind.
type grant struct {
	read, write Role
	// takeAwayOnly: clients take such resources away, and neither make nor change them.
	takeAwayOnly bool
}

// kinds without a row can be read by Readers and written by nobody.
var otherKinds = grant{read: RoleReader, write: nobody}

var grants = map[resource.Type]grant{
	// What cluster templates are made of, and what omnictl makes beside them.
	omni.ClusterType:                 {read: RoleReader, write: RoleOperator},
	omni.MachineSetType:              {read: RoleReader, write: RoleOperator},
	omni.MachineSetNodeType:          {read: RoleReader, write: RoleOperator},
	omni.ConfigPatchType:             {read: RoleReader, write: RoleOperator},
	omni.ExtensionsConfigurationType: {read: RoleReader, write: RoleOperator},
	omni.KernelArgsType:              {read: RoleReader, write: RoleOperator},
	omni.KubernetesManifestGroupType: {read: RoleReader, write: RoleOperator},
	omni.KubernetesHealthCheckType:   {read: RoleReader, write: RoleOperator},
	omni.MachineLabelsType:           {read: RoleReader, write: RoleOperator},
	omni.NodeForceDestroyRequestType: {read: RoleReader, write: RoleOperator},
	omni.EtcdManualBackupType:        {read: RoleReader, write: RoleOperator},
	siderolink.LinkType:              {read: RoleReader, write: RoleOperator, takeAwayOnly: true},
	// Who may join, who may call, where backups go.
	siderolink.JoinTokenType:        {read: RoleReader, write: RoleAdmin},
	siderolink.DefaultJoinTokenType: {read: RoleReader, write: RoleAdmin},
	omni.EtcdBackupS3ConfType:       {read: RoleAdmin, write: RoleAdmin},
	auth.UserType:                   {read: RoleAdmin, write: RoleAdmin},
	auth.IdentityType:               {read: RoleAdmin, write: RoleAdmin},
	auth.ServiceAccountStatusType:   {read: RoleAdmin, write: nobody},
	// Keys and secrets.
	auth.PublicKeyType:                {read: nobody, write: nobody},
	omni.ClusterSecretsType:           {read: nobody, write: nobody},
	omni.ClusterMachineConfigType:     {read: nobody, write: nobody},
	omni.TalosConfigType:              {read: nobody, write: nobody},
	omni.KubeconfigType:               {read: nobody, write: nobody},
	omni.BackupDataType:               {read: nobody, write: nobody},
	omni.EtcdBackupEncryptionType:     {read: nobody, write: nobody},
	siderolink.ConfigType:             {read: nobody, write: nobody},
	siderolink.NodeUniqueTokenType:    {read: nobody, write: nobody},
	siderolink.PendingMachineType:     {read: RoleReader, write: nobody},
	siderolink.ConnectionParamsType:   {read: RoleReader, write: nobody},
	siderolink.JoinTokenUsageType:     {read: nobody, write: nobody},
	siderolink.MachineJoinConfigType:  {read: nobody, write: nobody},
	siderolink.ProviderJoinConfigType: {read: nobody, write: nobody},
}

func grantOf(kind resource.Type) grant {
	if found, listed := grants[kind]; listed {
		return found
	}
	return otherKinds
}

// allow is the rule of the state that clients see.
func allow(ctx context.Context, asked state.Access) error {
	grant := grantOf(asked.ResourceType)
	if asked.Verb.Readonly() {
		return need(ctx, grant.read)
	}
	if asked.Verb == state.Create && grant.takeAwayOnly {
		return errNotAllowed
	}
	return need(ctx, grant.write)
}
