package omni

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/talos/pkg/machinery/meta"
)

// pendingLives is how long a machine may be pending before it is forgotten; it asks again when it is there.
const pendingLives = 10 * time.Minute

// adopt gives the pending machines what they join with: a unique token, and another UUID where two have one.
func (o *Omni) adopt(ctx context.Context) error {
	pending, err := safe.StateListAll[*siderolink.PendingMachine](ctx, o.state)
	if err != nil {
		return err
	}
	var faults []error
	for machine := range pending.All() {
		if time.Since(machine.Metadata().Updated()) > pendingLives {
			faults = append(faults, o.forgetPending(ctx, machine))
			continue
		}
		faults = append(faults, o.adoptOne(ctx, machine))
	}
	return errors.Join(faults...)
}

func (o *Omni) forgetPending(ctx context.Context, machine *siderolink.PendingMachine) error {
	return errors.Join(
		remove(ctx, o.state, siderolink.NewPendingMachineStatus(machine.Metadata().ID()).Metadata()),
		remove(ctx, o.state, machine.Metadata()),
	)
}

func (o *Omni) adoptOne(ctx context.Context, machine *siderolink.PendingMachine) error {
	address, err := netip.ParsePrefix(machine.TypedSpec().Value.NodeSubnet)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	talos, err := o.talos.of(ctx, apiAddress(address.Addr().String()), "", nil)
	if err != nil {
		return err
	}
	if _, conflict := machine.Metadata().Annotations().Get(siderolink.PendingMachineUUIDConflict); conflict {
		return talos.MetaWrite(ctx, meta.UUIDOverride, []byte(uuid.NewString()))
	}
	token, err := o.pendingToken(ctx, machine, func() (string, error) {
		return jointoken.GetMachineFingerprint(ctx, talos)
	})
	if err != nil {
		return err
	}
	return talos.MetaWrite(ctx, meta.UniqueMachineToken, []byte(token))
}

// pendingToken is the token of a pending machine: one that was made stays, whether or not the machine has it.
func (o *Omni) pendingToken(ctx context.Context, machine *siderolink.PendingMachine, fingerprint func() (string, error)) (string, error) {
	id := machine.Metadata().ID()
	kept, err := safe.StateGetByID[*siderolink.PendingMachineStatus](ctx, o.state, id)
	if err == nil && kept.TypedSpec().Value.Token != "" {
		return kept.TypedSpec().Value.Token, nil
	}
	if err != nil && !state.IsNotFoundError(err) {
		return "", err
	}
	of, err := fingerprint()
	if err != nil {
		return "", err
	}
	random, err := jointoken.Generate()
	if err != nil {
		return "", err
	}
	token, err := jointoken.NewNodeUniqueToken(of, random).Encode()
	if err != nil {
		return "", err
	}
	return token, put(ctx, o.state, siderolink.NewPendingMachineStatus(id), func(res *siderolink.PendingMachineStatus) error {
		res.TypedSpec().Value.Token = token
		return nil
	})
}
