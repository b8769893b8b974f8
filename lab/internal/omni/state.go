package omni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/impl/inmem"
	"github.com/cosi-project/runtime/pkg/state/impl/namespaced"
	"github.com/cosi-project/runtime/pkg/state/impl/store"
	"github.com/cosi-project/runtime/pkg/state/impl/store/bolt"
	"github.com/cosi-project/runtime/pkg/state/registry"
	"go.etcd.io/bbolt"

	"github.com/siderolabs/omni/client/pkg/omni/resources"
	omniregistry "github.com/siderolabs/omni/client/pkg/omni/resources/registry"
)

const (
	// owner is the owner of resources that no client may change.
	owner = "simulated-omni"
	// finalizer holds what a client takes away until the simulation has done what belongs to it.
	finalizer = "simulated-omni"

	stateFile = "omni.db"
	// lockWait is how long another process may keep the file while it ends.
	lockWait = 10 * time.Second
	// historySize is how many changes a slow watcher may be behind.
	historySize = 2000
	historyGap  = 100
)

// openState opens what Omni knows. The default namespace, and the external one with the
// list of backups, outlive the process where there is a folder; the others are
// made anew, as those of the real one are.
func openState(ctx context.Context, dir string) (state.State, func() error, error) {
	history := []inmem.StateOption{inmem.WithHistoryMaxCapacity(historySize), inmem.WithHistoryGap(historyGap)}
	keep := func(resource.Namespace) []inmem.StateOption { return history }
	closeStore := func() error { return nil }

	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, err
		}
		file, err := bolt.NewBackingStore(func() (*bbolt.DB, error) {
			return bbolt.Open(filepath.Join(dir, stateFile), 0o600, &bbolt.Options{Timeout: lockWait})
		}, store.ProtobufMarshaler{})
		if err != nil {
			return nil, nil, err
		}
		keep = func(namespace resource.Namespace) []inmem.StateOption {
			return append(slices.Clone(history), inmem.WithBackingStore(file.WithNamespace(namespace)))
		}
		closeStore = file.Close
	}

	made := state.WrapCore(namespaced.NewState(func(namespace resource.Namespace) state.CoreState {
		if namespace == resources.DefaultNamespace || namespace == resources.ExternalNamespace {
			return inmem.NewStateWithOptions(keep(namespace)...)(namespace)
		}
		return inmem.NewStateWithOptions(history...)(namespace)
	}))
	if err := describe(ctx, made); err != nil {
		return nil, nil, errors.Join(err, closeStore())
	}
	return made, closeStore, nil
}

// describe registers the kinds of resources, which `omnictl get` looks up by name.
func describe(ctx context.Context, made state.State) error {
	namespaces := registry.NewNamespaceRegistry(made)
	kinds := registry.NewResourceRegistry(made)
	if err := errors.Join(namespaces.RegisterDefault(ctx), kinds.RegisterDefault(ctx)); err != nil {
		return err
	}
	for name, description := range map[resource.Namespace]string{
		resources.DefaultNamespace:   "Default namespace for resources",
		resources.EphemeralNamespace: "Ephemeral namespace for resources",
		resources.MetricsNamespace:   "Metrics namespace for resources",
		resources.VirtualNamespace:   "Virtual namespace for resources",
		resources.ExternalNamespace:  "External namespace for resources",
	} {
		if err := namespaces.Register(ctx, name, description); err != nil {
			return err
		}
	}
	for _, kind := range omniregistry.Resources {
		if err := kinds.Register(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

// put makes a resource that the simulation owns, or changes it.
func put[T resource.Resource](ctx context.Context, in state.State, made T, change func(T) error) error {
	for {
		err := change(made)
		if err != nil {
			return err
		}
		err = in.Create(ctx, made, state.WithCreateOwner(owner))
		if !state.IsConflictError(err) {
			return err
		}
		_, err = in.UpdateWithConflicts(ctx, made.Metadata(), func(old resource.Resource) error {
			typed, is := old.(T)
			if !is {
				return errors.New("simulated Omni: " + old.Metadata().Type() + " is of another Go type")
			}
			return change(typed)
		}, state.WithUpdateOwner(owner), state.WithExpectedPhaseAny())
		if !state.IsNotFoundError(err) {
			return err
		}
		// Somebody took it away between the two: make it again.
	}
}

// change changes a resource that the simulation owns; one that is gone stays so.
func change[T resource.Resource](ctx context.Context, in state.State, of T, how func(T)) error {
	_, err := in.UpdateWithConflicts(ctx, of.Metadata(), func(old resource.Resource) error {
		typed, is := old.(T)
		if !is {
			return errors.New("simulated Omni: " + old.Metadata().Type() + " is of another Go type")
		}
		how(typed)
		return nil
	}, state.WithUpdateOwner(owner), state.WithExpectedPhaseAny())
	if state.IsNotFoundError(err) {
		return nil
	}
	return err
}

// remove destroys a resource that the simulation owns; one that is not there is no error.
func remove(ctx context.Context, in state.State, pointer resource.Pointer) error {
	if err := in.Destroy(ctx, pointer, state.WithDestroyOwner(owner)); err != nil && !state.IsNotFoundError(err) {
		return err
	}
	return nil
}

// release lets a resource go that a client has torn down.
func release(ctx context.Context, in state.State, pointer resource.Pointer) error {
	if err := in.RemoveFinalizer(ctx, pointer, finalizer); err != nil && !state.IsNotFoundError(err) {
		return err
	}
	return nil
}
