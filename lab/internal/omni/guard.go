package omni

import (
	"context"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/hashicorp/go-multierror"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// guarded is what clients see of the state: by their role, and with the server's checks of what they write.
func (o *Omni) guarded() state.CoreState {
	return state.Filter(checked{CoreState: o.state, omni: o}, allow)
}

// checked checks what clients write. They own nothing: what the simulation owns they cannot change.
type checked struct {
	state.CoreState

	omni *Omni
}

// held are the kinds that stay until the simulation has done what belongs to their end.
var held = map[resource.Type]bool{omni.ClusterType: true, omni.MachineSetType: true, omni.MachineSetNodeType: true}

// Create makes a resource that passes the checks. Those that are held have their finalizer from the start.
func (c checked) Create(ctx context.Context, made resource.Resource, _ ...state.CreateOption) error {
	if err := c.omni.validate(ctx, nil, made); err != nil {
		return err
	}
	if held[made.Metadata().Type()] {
		made.Metadata().Finalizers().Add(finalizer)
	}
	return c.CoreState.Create(ctx, made)
}

// Update changes a resource. Taking one down is a change, too, and of some kinds the only one that clients make.
func (c checked) Update(ctx context.Context, changed resource.Resource, given ...state.UpdateOption) error {
	options := state.DefaultUpdateOptions()
	for _, option := range given {
		option(&options)
	}
	if changed.Metadata().Phase() == resource.PhaseRunning {
		if grantOf(changed.Metadata().Type()).takeAwayOnly {
			return errNotAllowed
		}
		old, err := c.Get(ctx, changed.Metadata())
		if err != nil {
			return err
		}
		if err := c.omni.validate(ctx, old, changed); err != nil {
			return err
		}
	}
	options.Owner = ""
	return c.CoreState.Update(ctx, changed, state.WithUpdateOptions(options))
}

// Destroy takes a resource away that nothing holds any more.
func (c checked) Destroy(ctx context.Context, pointer resource.Pointer, _ ...state.DestroyOption) error {
	return c.CoreState.Destroy(ctx, pointer)
}

// validate is what Omni checks before it takes a resource; old is nil when it is made. The words around the reasons
// are Omni's (omni issue 268).
func (o *Omni) validate(ctx context.Context, old, made resource.Resource) error {
	check, checks := validations[made.Metadata().Type()]
	if !checks {
		return nil
	}
	reasons, err := check(ctx, o, old, made)
	if err != nil {
		return err
	}
	if len(reasons) == 0 {
		return nil
	}
	return status.Errorf(codes.InvalidArgument, "failed to validate: %v", multierror.Append(nil, reasons...))
}
