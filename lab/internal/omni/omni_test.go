package omni

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/client"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/omni/client/pkg/omni/resources/system"
	"github.com/siderolabs/omni/client/pkg/template/operations"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// patience is how long a test waits for what happens at once in a sound program.
const patience = 2 * time.Minute

// testOptions are those of a simulated Omni that nobody reaches from outside.
func testOptions(dir string) Options {
	return Options{
		Dir: dir, Endpoint: "https://omni.test", MachineAPI: "grpc://omni.test:8090", KubernetesProxy: "https://omni.test:8095",
		TalosVersions: []string{"1.12.4", "1.13.8", "1.13.9", "1.14.0"}, KubernetesVersions: []string{"1.33.5", "1.34.1", "1.34.2", "1.35.0", "1.36.0"},
		Log: slog.New(slog.DiscardHandler),
	}
}

// served is a simulated Omni that answers on loopback until the test ends.
type served struct {
	*Omni

	endpoint string
	stop     func()
}

func serve(t *testing.T, options Options, prepare ...func(*Omni)) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	made, err := New(ctx, options)
	require.NoError(t, err)
	for _, one := range prepare {
		one(made)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 2)
	go func() { ended <- made.ServeAPI(ctx, listener, nil) }()
	go func() { ended <- made.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, <-ended)
		require.NoError(t, made.Close())
	}
	t.Cleanup(stop)
	return &served{Omni: made, endpoint: "http://" + listener.Addr().String(), stop: stop}
}

// client is the vendor's client of a new service account.
func (s *served) client(t *testing.T, role Role) *client.Client {
	t.Helper()
	key, err := s.NewServiceAccount(t.Context(), "test-"+string(role), role, time.Hour)
	require.NoError(t, err)
	return s.clientOf(t, key)
}

func (s *served) clientOf(t *testing.T, key string) *client.Client {
	t.Helper()
	made, err := client.New(s.endpoint, client.WithServiceAccount(key))
	require.NoError(t, err)
	t.Cleanup(func() { made.Close() })
	return made
}

func eventually(t *testing.T, check func() bool, what string) {
	t.Helper()
	require.Eventually(t, check, patience, 20*time.Millisecond, what)
}

func TestAClientWithAKeyReadsTheVersionThatOmnictlAsksFor(t *testing.T) {
	s := serve(t, testOptions(""))
	version, err := safe.StateGetByID[*system.SysVersion](t.Context(), s.client(t, RoleReader).Omni().State(), system.SysVersionID)
	require.NoError(t, err)
	require.Equal(t, "v1.9.3", version.TypedSpec().Value.BackendVersion)
	require.EqualValues(t, 2, version.TypedSpec().Value.BackendApiVersion)
}

func TestAKeyThatOmniDoesNotKnowIsRefused(t *testing.T) {
	s, other := serve(t, testOptions("")), serve(t, testOptions(""))
	key, err := other.NewServiceAccount(t.Context(), "stranger", RoleAdmin, time.Hour)
	require.NoError(t, err)
	_, err = s.clientOf(t, key).Management().ListServiceAccounts(t.Context())
	require.Equal(t, codes.Unauthenticated, status.Code(err), "%v", err)
	require.ErrorContains(t, err, "invalid signature")
}

func TestAKeyThatHasExpiredIsRefused(t *testing.T) {
	s := serve(t, testOptions(""))
	key, err := s.NewServiceAccount(t.Context(), "short", RoleReader, 3*time.Second)
	require.NoError(t, err)
	management := s.clientOf(t, key).Management()
	eventually(t, func() bool {
		_, err := management.GetMachineJoinConfig(t.Context(), "", false)
		return status.Code(err) == codes.Unauthenticated
	}, "the key goes on being good")
}

func TestAServiceAccountWithTwoKeysCallsWithEither(t *testing.T) {
	s := serve(t, testOptions(""))
	first, second := s.client(t, RoleReader), s.client(t, RoleReader)
	for _, one := range []*client.Client{first, second} {
		_, err := one.Management().GetMachineJoinConfig(t.Context(), "", false)
		require.NoError(t, err)
	}
	accounts, err := s.client(t, RoleAdmin).Management().ListServiceAccounts(t.Context())
	require.NoError(t, err)
	require.Len(t, accounts, 2)
	require.Equal(t, "test-Reader", accounts[1].GetName())
	require.Len(t, accounts[1].GetPgpPublicKeys(), 2)
}

func TestAKeyLivesNoLongerThanAYear(t *testing.T) {
	s := serve(t, testOptions(""))
	_, err := s.NewServiceAccount(t.Context(), "long", RoleReader, 400*24*time.Hour)
	require.ErrorContains(t, err, "key lifetime is too long")
}

func TestAnOperatorMakesClustersAndNoTokens(t *testing.T) {
	s := serve(t, testOptions(""))
	operator := s.client(t, RoleOperator)
	_, err := operator.Management().CreateJoinToken(t.Context(), "mine", 0)
	require.Equal(t, codes.PermissionDenied, status.Code(err), "%v", err)
	require.NoError(t, operator.Omni().State().Create(t.Context(), testCluster("prod")))

	reader := s.client(t, RoleReader)
	err = reader.Omni().State().Create(t.Context(), testCluster("other"))
	require.ErrorContains(t, err, "not allowed")
	_, err = safe.StateGetByID[*omni.Cluster](t.Context(), reader.Omni().State(), "prod")
	require.NoError(t, err)
}

func TestNobodyWritesWhatOmniItselfWrites(t *testing.T) {
	s := serve(t, testOptions(""))
	admin := s.client(t, RoleAdmin).Omni().State()
	require.ErrorContains(t, admin.Create(t.Context(), omni.NewMachineStatus("one")), "not allowed")
	require.ErrorContains(t, admin.Create(t.Context(), siderolink.NewLink("one", nil)), "not allowed")
	_, err := safe.StateListAll[*omni.ClusterSecrets](t.Context(), admin)
	require.ErrorContains(t, err, "not allowed")
}

func TestAJoinTokenIsActiveUntilItIsRevokedOrExpires(t *testing.T) {
	s := serve(t, testOptions(""))
	admin := s.client(t, RoleAdmin)
	revoked, err := admin.Management().CreateJoinToken(t.Context(), "revoked", 0)
	require.NoError(t, err)
	short, err := admin.Management().CreateJoinToken(t.Context(), "short", 2*time.Second)
	require.NoError(t, err)
	shown := func(id, want string) func() bool {
		return func() bool {
			token, err := safe.StateGetByID[*siderolink.JoinTokenStatus](t.Context(), admin.Omni().State(), id)
			return err == nil && token.TypedSpec().Value.State.String() == want
		}
	}
	eventually(t, shown(revoked, "ACTIVE"), "the token is not shown")
	eventually(t, shown(short, "EXPIRED"), "the token does not expire")
	_, err = safe.StateUpdateWithConflicts(t.Context(), admin.Omni().State(), siderolink.NewJoinToken(revoked).Metadata(),
		func(token *siderolink.JoinToken) error {
			token.TypedSpec().Value.Revoked = true
			return nil
		})
	require.NoError(t, err)
	eventually(t, shown(revoked, "REVOKED"), "the token goes on being good")
}

func TestTheJoinDocumentsNameTheTokenAndTheTunnel(t *testing.T) {
	s := serve(t, testOptions(""))
	token, err := s.NewJoinToken(t.Context(), "prod", time.Hour)
	require.NoError(t, err)
	management := s.client(t, RoleReader).Management()
	join, err := management.GetMachineJoinConfig(t.Context(), token, true)
	require.NoError(t, err)
	require.Contains(t, join.GetConfig(), "apiUrl: grpc://omni.test:8090?grpc_tunnel=true&jointoken="+token)
	require.Contains(t, join.GetConfig(), "endpoint: '[fdae:41e4:649b:9303::1]:8091'")
	require.Contains(t, join.GetConfig(), "url: tcp://[fdae:41e4:649b:9303::1]:8092")
	_, err = management.GetMachineJoinConfig(t.Context(), "unknown", true)
	require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
}

func TestWhatOmniKnowsOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, testOptions(dir))
	key, err := s.NewServiceAccount(t.Context(), "ops", RoleOperator, time.Hour)
	require.NoError(t, err)
	require.NoError(t, s.clientOf(t, key).Omni().State().Create(t.Context(), testCluster("prod")))
	s.stop()

	s = serve(t, testOptions(dir))
	cluster, err := safe.StateGetByID[*omni.Cluster](t.Context(), s.clientOf(t, key).Omni().State(), "prod")
	require.NoError(t, err)
	require.Equal(t, "1.13.9", cluster.TypedSpec().Value.TalosVersion)
}

func testCluster(name string) *omni.Cluster {
	made := omni.NewCluster(name)
	made.TypedSpec().Value.TalosVersion, made.TypedSpec().Value.KubernetesVersion = "1.13.9", "1.34.1"
	return made
}

// syncTemplate does what `omnictl cluster template sync` does, by the same code.
func syncTemplate(t *testing.T, of state.State, template string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "template.yaml"), []byte(template), 0o600))
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = operations.SyncTemplate(ctx, bytes.NewReader([]byte(template)), &out, of, operations.SyncOptions{}, root)
	return out.String(), err
}
