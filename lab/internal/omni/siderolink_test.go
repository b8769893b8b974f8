package omni

import (
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/talos/pkg/machinery/meta"
	"github.com/stretchr/testify/require"
)

func (s *site) machine(t *testing.T, id string) (*omni.MachineStatus, error) {
	t.Helper()
	return safe.StateGetByID[*omni.MachineStatus](t.Context(), s.state, id)
}

func TestAMachineJoinsThroughTheTunnelAndGetsAUniqueToken(t *testing.T) {
	s := newSite(t)
	m := s.join(t, firstMachine)
	machine, err := s.machine(t, firstMachine)
	require.NoError(t, err)
	spec := machine.TypedSpec().Value
	require.Equal(t, "v1.13.9", spec.TalosVersion)
	require.Equal(t, "node01", spec.Network.Hostname)
	require.Equal(t, []string{"192.0.2.1/24"}, spec.Network.Addresses)
	require.Equal(t, "/dev/sda", omni.GetMachineStatusSystemDisk(machine))
	_, connected := machine.Metadata().Labels().Get(omni.MachineStatusLabelConnected)
	require.True(t, connected)

	m.mu.Lock()
	token, err := jointoken.ParseNodeUniqueToken(m.meta[meta.UniqueMachineToken])
	m.mu.Unlock()
	require.NoError(t, err)
	require.True(t, token.HasToken())
	require.Len(t, token.Fingerprint, 64)
	pending, err := safe.StateListAll[*siderolink.PendingMachine](t.Context(), s.state)
	require.NoError(t, err)
	require.Zero(t, pending.Len())
	eventually(t, func() bool {
		usage, err := safe.StateGetByID[*siderolink.JoinTokenStatus](t.Context(), s.state, s.token)
		return err == nil && usage.TypedSpec().Value.UseCount == 1
	}, "the token's use is not counted")
}

func TestAMachineWithAWrongJoinTokenStaysOutside(t *testing.T) {
	s := newSite(t)
	s.start(t, firstMachine, "wrong")
	s.join(t, secondMachine)
	_, err := s.machine(t, firstMachine)
	require.True(t, state.IsNotFoundError(err), "%v", err)
}

func TestASecondMachineWithTheSameUUIDGetsAnotherOne(t *testing.T) {
	s := newSite(t)
	s.join(t, firstMachine)
	twin := s.start(t, firstMachine, s.token)
	eventually(t, func() bool {
		twin.mu.Lock()
		id := twin.id
		twin.mu.Unlock()
		_, err := s.machine(t, id)
		return id != firstMachine && err == nil
	}, "the twin does not join under a UUID of its own")
	first, err := s.machine(t, firstMachine)
	require.NoError(t, err)
	require.Equal(t, "node01", first.TypedSpec().Value.Network.Hostname)
}

func TestALinkThatAnOperatorTakesAwayTakesTheMachineWithIt(t *testing.T) {
	s := newSite(t)
	m := s.join(t, firstMachine)
	m.cancel()
	operator := s.client(t, RoleOperator).Omni().State()
	require.NoError(t, operator.TeardownAndDestroy(t.Context(), siderolink.NewLink(firstMachine, nil).Metadata()))
	_, err := s.machine(t, firstMachine)
	require.True(t, state.IsNotFoundError(err), "%v", err)
}

func TestAMachineThatIsSilentIsDisconnected(t *testing.T) {
	s := newSite(t, func(o *Omni) { o.peerDown = 10 * time.Second })
	m := s.join(t, firstMachine)
	m.cancel()
	eventually(t, func() bool {
		machine, err := s.machine(t, firstMachine)
		if err != nil {
			return false
		}
		_, disconnected := machine.Metadata().Labels().Get(omni.MachineStatusLabelDisconnected)
		return disconnected && !machine.TypedSpec().Value.Connected
	}, "the machine stays connected")
}
