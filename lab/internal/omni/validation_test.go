package omni

import (
	"strings"
	"testing"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/omni/resources"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/stretchr/testify/require"
)

const (
	firstMachine  = "5c241f42-a87f-fa60-6af6-000000000001"
	secondMachine = "5c241f42-a87f-fa60-6af6-000000000002"
)

const template = `kind: Cluster
name: prod
kubernetes: {version: v1.34.1}
talos: {version: v1.13.9}
features: {backupConfiguration: {interval: 1h}}
systemExtensions: [siderolabs/vmtoolsd-guest-agent]
patches:
  - {name: network, inline: {cluster: {network: {podSubnets: [10.244.0.0/16]}}}}
---
kind: ControlPlane
machines: [` + firstMachine + `]
---
kind: Workers
machines: [` + secondMachine + `]
---
kind: Machine
name: ` + firstMachine + `
install: {disk: /dev/sda}
`

// know makes machines that wait in maintenance, as if they had joined.
func (s *served) know(t *testing.T, talos string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		require.NoError(t, put(t.Context(), s.state, omni.NewMachineStatus(id), func(machine *omni.MachineStatus) error {
			machine.TypedSpec().Value = &specs.MachineStatusSpec{TalosVersion: talos, Connected: true, Maintenance: true}
			return nil
		}))
	}
}

func TestATemplateIsTakenAndItsSecondSyncHasNothingToDo(t *testing.T) {
	s := serve(t, testOptions(""))
	s.know(t, "v1.13.9", firstMachine, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	out, err := syncTemplate(t, operator, template)
	require.NoError(t, err)
	for _, made := range []string{
		"* creating Clusters.omni.sidero.dev(prod)", "* creating MachineSets.omni.sidero.dev(prod-control-planes)",
		"* creating MachineSetNodes.omni.sidero.dev(" + firstMachine + ")", "* creating ConfigPatches.omni.sidero.dev(200-cluster-prod-network)",
	} {
		require.Contains(t, out, made)
	}
	out, err = syncTemplate(t, operator, template)
	require.NoError(t, err)
	require.Empty(t, out)
}

func TestATemplateWithAMachineThatHasNotJoinedIsRefused(t *testing.T) {
	s := serve(t, testOptions(""))
	s.know(t, "v1.13.9", firstMachine)
	_, err := syncTemplate(t, s.client(t, RoleOperator).Omni().State(), template)
	require.ErrorContains(t, err, "failed to validate: 1 error occurred:")
	require.ErrorContains(t, err, `machine with ID "`+secondMachine+`" does not exist`)
}

func TestAMachineThatRunsAnotherMinorVersionFromMemoryIsRefusedBefore113(t *testing.T) {
	s := serve(t, testOptions(""))
	s.know(t, "v1.13.9", firstMachine, secondMachine)
	_, err := syncTemplate(t, s.client(t, RoleOperator).Omni().State(), strings.Replace(template, "v1.13.9", "v1.12.4", 1))
	require.ErrorContains(t, err, "machines which are running Talos without installation can be added only to Talos clusters with the same major and minor versions")
}

func TestTheServerRefusesWhatATemplateMaySay(t *testing.T) {
	s := serve(t, testOptions(""))
	s.know(t, "v1.13.9", firstMachine, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	for _, one := range []struct{ from, to, why string }{
		{"v1.13.9", "v1.13.7", `invalid talos version: "1.13.7" is not available`},
		{"v1.13.9", "v1.14.0", `talos version "1.14.0" is newer than the latest supported one, 1.13`},
		{"v1.34.1", "v1.34.9", `invalid kubernetes version: "1.34.9" is not available`},
		{"interval: 1h", "interval: 30m", "backup interval 30m0s must be between 1h0m0s and 24h0m0s"},
		{"interval: 1h", "interval: 25h", "backup interval 25h0m0s must be between 1h0m0s and 24h0m0s"},
		{"kind: ControlPlane\n", "kind: ControlPlane\nbootstrapSpec: {clusterUUID: one, snapshot: two}\n", `snapshot "two" of cluster with UUID "one" not found`},
	} {
		_, err := syncTemplate(t, operator, strings.Replace(template, one.from, one.to, 1))
		require.ErrorContains(t, err, one.why)
		s.takeAwayCluster(t)
	}
}

// takeAwayCluster removes what a refused sync has left.
func (s *served) takeAwayCluster(t *testing.T) {
	t.Helper()
	for _, pointer := range []*omni.Cluster{omni.NewCluster("prod")} {
		_ = release(t.Context(), s.state, pointer.Metadata())
		_ = s.state.Destroy(t.Context(), pointer.Metadata())
	}
	patches, err := safe.StateListAll[*omni.ConfigPatch](t.Context(), s.state)
	require.NoError(t, err)
	for patch := range patches.All() {
		require.NoError(t, s.state.Destroy(t.Context(), patch.Metadata()))
	}
	extensions, err := safe.StateListAll[*omni.ExtensionsConfiguration](t.Context(), s.state)
	require.NoError(t, err)
	for one := range extensions.All() {
		require.NoError(t, s.state.Destroy(t.Context(), one.Metadata()))
	}
}

func TestAForbiddenPatchIsRefusedByTheServerToo(t *testing.T) {
	s := serve(t, testOptions(""))
	patch := omni.NewConfigPatch("patch")
	require.NoError(t, patch.TypedSpec().Value.SetUncompressedData([]byte("cluster: {secret: c2VjcmV0}")))
	err := s.client(t, RoleOperator).Omni().State().Create(t.Context(), patch)
	require.ErrorContains(t, err, `overriding "cluster.secret" is not allowed in the config patch`)
}

func TestKubernetesMovesByOneMinorVersion(t *testing.T) {
	s := serve(t, testOptions(""))
	operator := s.client(t, RoleOperator).Omni().State()
	require.NoError(t, operator.Create(t.Context(), testCluster("prod")))
	move := func(version string) error {
		_, err := safe.StateUpdateWithConflicts(t.Context(), operator, omni.NewCluster("prod").Metadata(), func(cluster *omni.Cluster) error {
			cluster.TypedSpec().Value.KubernetesVersion = version
			return nil
		})
		return err
	}
	require.ErrorContains(t, move("1.36.0"), "one minor version at a time")
	require.NoError(t, move("1.35.0"))
	require.ErrorContains(t, move("1.34.1"), "one minor version at a time")
}

func TestTalosDoesNotGoBelowTheClustersFirstVersion(t *testing.T) {
	s := serve(t, testOptions(""))
	operator := s.client(t, RoleOperator).Omni().State()
	require.NoError(t, operator.Create(t.Context(), testCluster("prod")))
	require.NoError(t, put(t.Context(), s.state, omni.NewClusterConfigVersion("prod"), func(first *omni.ClusterConfigVersion) error {
		first.TypedSpec().Value.Version = "v1.13.9"
		return nil
	}))
	_, err := safe.StateUpdateWithConflicts(t.Context(), operator, omni.NewCluster("prod").Metadata(), func(cluster *omni.Cluster) error {
		cluster.TypedSpec().Value.TalosVersion = "1.13.8"
		return nil
	})
	require.ErrorContains(t, err, `downgrading from initial talos version "1.13.9" to "1.13.8" is not supported`)
}

func TestAControlPlaneCannotBeLocked(t *testing.T) {
	s := serve(t, testOptions(""))
	s.know(t, "v1.13.9", firstMachine, secondMachine)
	operator := s.client(t, RoleOperator).Omni().State()
	_, err := syncTemplate(t, operator, template)
	require.NoError(t, err)
	lock := func(id string) error {
		_, err := safe.StateUpdateWithConflicts(t.Context(), operator, resourceOf(id), func(node *omni.MachineSetNode) error {
			node.Metadata().Annotations().Set(omni.MachineLocked, "")
			return nil
		})
		return err
	}
	require.ErrorContains(t, lock(firstMachine), "locking controlplanes is not allowed")
	require.NoError(t, lock(secondMachine))
}

// resourceOf points to a machine's place in a machine set.
func resourceOf(id string) resource.Pointer {
	return resource.NewMetadata(resources.DefaultNamespace, omni.MachineSetNodeType, id, resource.VersionUndefined)
}
