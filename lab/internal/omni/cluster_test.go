package omni

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/client/management"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/omni/client/pkg/template/operations"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/clientcmd"
)

const thirdMachine = "5c241f42-a87f-fa60-6af6-000000000003"

// small is the template without extensions, on a disk that the machines have.
var small = strings.NewReplacer("systemExtensions: [siderolabs/vmtoolsd-guest-agent]\n", "", "/dev/sda", "/dev/sdx").Replace(template)

// running syncs a template and waits as `omnictl cluster template status` does.
func (s *site) running(t *testing.T, of state.State, text string) {
	t.Helper()
	_, err := syncTemplate(t, of, text)
	require.NoError(t, err)
	s.healthy(t, of, text)
}

func (s *site) healthy(t *testing.T, of state.State, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	var out bytes.Buffer
	err = operations.StatusTemplate(ctx, strings.NewReader(text), &out, of, operations.StatusOptions{Wait: true}, root)
	require.NoError(t, err, out.String())
}

func TestATemplateBecomesAClusterThatRuns(t *testing.T) {
	s := newSite(t)
	first, second := s.join(t, firstMachine), s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	s.running(t, operator, small)
	require.Equal(t, []string{"node01"}, s.etcd.names())

	first.mu.Lock()
	defer first.mu.Unlock()
	require.True(t, first.provider.Machine().Type().IsControlPlane())
	require.Equal(t, "/dev/sdx", first.provider.Machine().Install().Disk())
	require.Equal(t, []string{"10.244.0.0/16"}, first.provider.Cluster().Network().PodCIDRs())
	require.Equal(t, "https://[fdae:41e4:649b:9303::1]:10000", first.provider.Cluster().Endpoint().String())
	require.NotNil(t, first.provider.SideroLink())
	require.Equal(t, 1, first.applied)
	second.mu.Lock()
	defer second.mu.Unlock()
	require.False(t, second.provider.Machine().Type().IsControlPlane())
}

func TestAControlPlaneThatIsTakenOutLeavesEtcdAndWaitsInMaintenance(t *testing.T) {
	s := newSite(t)
	s.join(t, firstMachine)
	s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	s.running(t, operator, small)

	third := s.join(t, thirdMachine)
	grown := strings.Replace(small, "["+firstMachine+"]", "["+firstMachine+", "+thirdMachine+"]", 1)
	s.running(t, operator, grown)
	eventually(t, func() bool { return len(s.etcd.names()) == 2 }, "the new control plane is not in etcd")

	out, err := syncTemplate(t, operator, small)
	require.NoError(t, err)
	require.Contains(t, out, "* destroyed MachineSetNodes.omni.sidero.dev("+thirdMachine+")")
	require.Equal(t, []string{"node01"}, s.etcd.names())
	s.etcd.mu.Lock()
	require.Equal(t, []string{"node03"}, s.etcd.left)
	s.etcd.mu.Unlock()
	third.mu.Lock()
	require.Equal(t, 1, third.resets)
	third.mu.Unlock()
	eventually(t, func() bool {
		machine, err := s.machine(t, thirdMachine)
		return err == nil && machine.TypedSpec().Value.Maintenance && machine.TypedSpec().Value.Cluster == ""
	}, "the machine is not free again")
}

func TestAClusterThatIsDeletedResetsItsMachinesAndLosesItsKeys(t *testing.T) {
	s := newSite(t)
	first := s.join(t, firstMachine)
	s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	s.running(t, operator, small)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, operations.DeleteCluster(ctx, "prod", io.Discard, operator, operations.SyncOptions{}))
	first.mu.Lock()
	require.Equal(t, 1, first.resets)
	first.mu.Unlock()
	for _, gone := range []resource.Pointer{
		omni.NewClusterSecrets("prod").Metadata(), omni.NewClusterUUID("prod").Metadata(), omni.NewMachineSet("prod-workers").Metadata(),
		omni.NewConfigPatch("200-cluster-prod-network").Metadata(), omni.NewClusterStatus("prod").Metadata(),
	} {
		// A controller removes what it made once it hears that the cluster is gone.
		eventually(t, func() bool {
			_, err := s.state.Get(t.Context(), gone)

			return state.IsNotFoundError(err)
		}, fmt.Sprintf("%s is still there", gone))
	}
}

func TestTalosIsReplacedOneMachineAfterTheOther(t *testing.T) {
	s := newSite(t)
	first, second := s.join(t, firstMachine), s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	older := strings.Replace(small, "v1.13.9", "v1.13.8", 1)
	s.running(t, operator, older) // machines in maintenance get the cluster's version first
	_, err := syncTemplate(t, operator, small)
	require.NoError(t, err)
	sent := func(m *fakeMachine) string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return strings.Join(m.upgrades, " ")
	}
	const both = "factory.talos.dev/metal-installer/:v1.13.8 factory.talos.dev/metal-installer/:v1.13.9"
	eventually(t, func() bool {
		if sent(second) == both {
			require.Equal(t, both, sent(first), "the worker moved before the control plane")
		}
		return sent(second) == both
	}, "Talos is not replaced")
	s.healthy(t, operator, small)
	status, err := safe.StateGetByID[*omni.TalosUpgradeStatus](t.Context(), operator, "prod")
	require.NoError(t, err)
	require.Equal(t, "1.13.9", status.TypedSpec().Value.LastUpgradeVersion)
}

func TestKubernetesMovesOnTheControlPlanesFirst(t *testing.T) {
	s := newSite(t)
	first, second := s.join(t, firstMachine), s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	s.running(t, operator, small)
	moved := strings.Replace(small, "v1.34.1", "v1.34.2", 1)
	_, err := syncTemplate(t, operator, moved)
	require.NoError(t, err)
	image := func(m *fakeMachine) string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.provider.Machine().Kubelet().Image()
	}
	seen := false
	eventually(t, func() bool {
		if strings.HasSuffix(image(first), ":v1.34.2") && strings.HasSuffix(image(second), ":v1.34.1") {
			seen = true
		}
		return strings.HasSuffix(image(second), ":v1.34.2")
	}, "Kubernetes does not move")
	require.True(t, seen, "the worker moved before the control plane")
	s.healthy(t, operator, moved)
}

func TestAPatchThatChangesIsAppliedAndALockedMachineIsLeftAlone(t *testing.T) {
	s := newSite(t)
	first, second := s.join(t, firstMachine), s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	locked := small + "---\nkind: Machine\nname: " + secondMachine + "\nlocked: true\n"
	s.running(t, operator, locked)
	_, err := syncTemplate(t, operator, strings.Replace(locked, "10.244.0.0/16", "10.245.0.0/16", 1))
	require.NoError(t, err)
	eventually(t, func() bool {
		first.mu.Lock()
		defer first.mu.Unlock()
		return first.provider.Cluster().Network().PodCIDRs()[0] == "10.245.0.0/16"
	}, "the patch is not applied")
	eventually(t, func() bool {
		shown, err := safe.StateGetByID[*omni.ClusterMachineStatus](t.Context(), operator, secondMachine)
		if err != nil {
			return false
		}
		_, waits := shown.Metadata().Labels().Get(omni.UpdateLocked)
		return waits
	}, "the locked machine does not show that a change waits")
	second.mu.Lock()
	defer second.mu.Unlock()
	require.Equal(t, 1, second.applied)
}

func TestADeadControlPlaneIsRemovedByForce(t *testing.T) {
	s := newSite(t)
	s.join(t, firstMachine)
	s.join(t, secondMachine)
	third := s.join(t, thirdMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	grown := strings.Replace(small, "["+firstMachine+"]", "["+firstMachine+", "+thirdMachine+"]", 1)
	s.running(t, operator, grown)
	eventually(t, func() bool {
		identity, err := safe.StateGetByID[*omni.ClusterMachineIdentity](t.Context(), s.state, thirdMachine)
		return err == nil && identity.TypedSpec().Value.EtcdMemberId != 0
	}, "Omni does not know which member of etcd the machine is")
	third.cancel()

	// What `omnictl cluster machine delete --force --force-etcd-leave` does.
	request := omni.NewNodeForceDestroyRequest(thirdMachine)
	request.Metadata().Labels().Set(omni.LabelCluster, "prod")
	require.NoError(t, operator.Create(t.Context(), request))
	_, err := operator.Teardown(t.Context(), siderolink.NewLink(thirdMachine, nil).Metadata())
	require.NoError(t, err)
	require.NoError(t, operator.TeardownAndDestroy(t.Context(), nodePointer(thirdMachine)))
	eventually(t, func() bool {
		_, err := s.state.Get(t.Context(), omni.NewClusterMachine(thirdMachine).Metadata())
		return state.IsNotFoundError(err) && len(s.etcd.names()) == 1
	}, "the dead machine stays in etcd")
	s.running(t, operator, small)
}

func TestBackupsAppearEachIntervalAndOneBecomesANewEtcd(t *testing.T) {
	s := newSite(t, func(o *Omni) { o.options.Hour = 3 * time.Second })
	s.join(t, firstMachine)
	s.join(t, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	s.running(t, operator, small)
	uuid, err := safe.StateGetByID[*omni.ClusterUUID](t.Context(), operator, "prod")
	require.NoError(t, err)
	var snapshot string
	eventually(t, func() bool {
		backups, err := safe.StateListAll[*omni.EtcdBackup](t.Context(), operator, state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, "prod")))
		if err != nil || backups.Len() < 2 {
			return false
		}
		snapshot = backups.Get(0).TypedSpec().Value.Snapshot
		return true
	}, "no second backup appears")
	shown, err := safe.StateGetByID[*omni.EtcdBackupStatus](t.Context(), operator, "prod")
	require.NoError(t, err)
	require.Equal(t, specs.EtcdBackupStatusSpec_Ok, shown.TypedSpec().Value.Status)

	// The documented way: the control planes' set goes, and comes again with the snapshot.
	require.NoError(t, operator.TeardownAndDestroy(t.Context(), omni.NewMachineSet("prod-control-planes").Metadata()))
	s.etcd.mu.Lock()
	s.etcd.members = nil
	s.etcd.mu.Unlock()
	restored := strings.Replace(small, "kind: ControlPlane\n", "kind: ControlPlane\nbootstrapSpec: {clusterUUID: "+uuid.TypedSpec().Value.Uuid+", snapshot: "+snapshot+"}\n", 1)
	s.running(t, operator, restored)
	s.etcd.mu.Lock()
	defer s.etcd.mu.Unlock()
	require.Equal(t, "snapshot of node01", s.etcd.recovered)
}

func TestAKubeconfigsTokenBecomesAnImpersonation(t *testing.T) {
	s := newSite(t)
	first := s.join(t, firstMachine)
	s.join(t, secondMachine)
	operator := s.client(t, RoleOperator)
	s.running(t, operator.Omni().State(), small)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.ServeKubernetes(ctx, listener, nil) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	text, err := operator.Management().WithCluster("prod").Kubeconfig(t.Context(), management.WithServiceAccount(time.Hour, "platform", "system:masters"))
	require.NoError(t, err)
	config, err := clientcmd.Load(text)
	require.NoError(t, err)
	require.Equal(t, "lab-prod-platform", config.CurrentContext)
	require.Equal(t, "https://omni.test:8095", config.Clusters["lab-prod"].Server)

	ask := func(token string) *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String()+"/version", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Impersonate-Group", "other")
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	answer := ask(config.AuthInfos[config.CurrentContext].Token)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, "ok /version", string(body))
	first.mu.Lock()
	require.Equal(t, []string{"platform"}, first.asked.Values("Impersonate-User"))
	require.Equal(t, []string{"system:masters"}, first.asked.Values("Impersonate-Group"))
	require.Empty(t, first.asked.Get("Authorization"))
	first.mu.Unlock()
	require.Equal(t, http.StatusUnauthorized, ask("wrong").StatusCode)
}

func TestAKubeconfigIsForOperatorsAndForTenYearsAtMost(t *testing.T) {
	s := serve(t, testOptions(""))
	operator := s.client(t, RoleOperator)
	_, err := operator.Management().WithCluster("prod").Kubeconfig(t.Context(), management.WithServiceAccount(time.Hour, "platform", "system:masters"))
	require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
	require.NoError(t, operator.Omni().State().Create(t.Context(), testCluster("prod")))
	_, err = operator.Management().WithCluster("prod").Kubeconfig(t.Context(), management.WithServiceAccount(11*365*24*time.Hour, "platform", "system:masters"))
	require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
	_, err = operator.Management().WithCluster("prod").Kubeconfig(t.Context(), management.WithBreakGlassKubeconfig(true))
	require.ErrorContains(t, err, "not allowed")
	_, err = s.client(t, RoleReader).Management().WithCluster("prod").Kubeconfig(t.Context(), management.WithServiceAccount(time.Hour, "platform", "system:masters"))
	require.ErrorContains(t, err, "not allowed")
	talos, err := operator.Management().WithCluster("prod").Talosconfig(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(talos), "identity: test-Operator@serviceaccount.omni.sidero.dev")
}
