package vsphereplugin

// The connection to vCenter: one login for the objects (SOAP), one for tags and libraries (REST), and the look-ups
// that several resources share.

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type vcenter struct {
	*govmomi.Client
	rest *rest.Client
}

// connect logs in twice. The password is only in the login calls, never in an address that an error could show.
func connect(ctx context.Context, server, user, password, allowUnverified string) (*vcenter, error) {
	u, err := url.Parse("https://" + server + "/sdk")
	if err != nil {
		return nil, fmt.Errorf("error generating SOAP endpoint url: vsphereServer %q is not a host name or address", server)
	}
	login := url.UserPassword(user, password)
	client, err := govmomi.NewClient(ctx, u, allowUnverified == "true" || allowUnverified == "1")
	if err != nil {
		return nil, fmt.Errorf("error setting up new vSphere SOAP client: %w", err)
	}
	if err := client.Login(ctx, login); err != nil {
		return nil, fmt.Errorf("error setting up new vSphere SOAP client: %w", err)
	}
	restClient := rest.NewClient(client.Client)
	if err := restClient.Login(ctx, login); err != nil {
		return nil, err
	}
	return &vcenter{Client: client, rest: restClient}, nil
}

// isGone tells an object that does not exist from every other failure; the REST side only says it in words.
func isGone(err error) bool {
	return err != nil && (fault.Is(err, &types.ManagedObjectNotFound{}) || strings.Contains(err.Error(), "404 Not Found") ||
		strings.Contains(err.Error(), "com.vmware.vapi.std.errors.not_found"))
}

func ref(kind, id string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: id}
}

// finder looks in a datacenter given by its id, or in the whole inventory when the id is empty.
func (vc *vcenter) finder(ctx context.Context, datacenterID string) (*find.Finder, error) {
	f := find.NewFinder(vc.Client.Client)
	if datacenterID == "" {
		return f, nil
	}
	o, err := f.ObjectReference(ctx, ref("Datacenter", datacenterID))
	if err != nil {
		return nil, fmt.Errorf("cannot locate datacenter: could not find datacenter with id: %s: %w", datacenterID, err)
	}
	return f.SetDatacenter(o.(*object.Datacenter)), nil //nolint:forcetypeassert // asked for one
}

// inventory is where an object stands: its datacenter, and its path below the datacenter's folder for its kind.
type inventory struct {
	datacenter types.ManagedObjectReference
	root       string // the datacenter's path
	folder     string // the path of the object's folder, without the object itself
	name       string
}

func (vc *vcenter) inventory(ctx context.Context, object types.ManagedObjectReference) (inventory, error) {
	ancestors, err := mo.Ancestors(ctx, vc.Client.Client, vc.ServiceContent.PropertyCollector, object)
	if err != nil {
		return inventory{}, err
	}
	var names []string
	for i, a := range ancestors {
		names = append(names, a.Name)
		if a.Self.Type != "Datacenter" {
			continue
		}
		in := inventory{datacenter: a.Self, root: "/" + path.Join(names[1:]...), name: ancestors[len(ancestors)-1].Name}
		if i+2 < len(ancestors) { // the one below the datacenter is its vm, host, network or datastore folder
			for _, below := range ancestors[i+2 : len(ancestors)-1] {
				in.folder = path.Join(in.folder, below.Name)
			}
		}
		return in, nil
	}
	return inventory{}, fmt.Errorf("%s is not in a datacenter", object)
}

// vmFolder returns the folder with this path below the machines' folder of the datacenter that a pool belongs to.
func (vc *vcenter) vmFolder(ctx context.Context, poolID, relative string) (*object.Folder, error) {
	in, err := vc.inventory(ctx, ref("ResourcePool", poolID))
	if err != nil {
		return nil, fmt.Errorf("could not find resource pool ID %q: %w", poolID, err)
	}
	return find.NewFinder(vc.Client.Client).Folder(ctx, path.Join(in.root, "vm", normalPath(relative)))
}

// machine finds a virtual machine by the UUID that is its resource's id.
func (vc *vcenter) machine(ctx context.Context, uuid string) (*object.VirtualMachine, error) {
	found, err := object.NewSearchIndex(vc.Client.Client).FindByUuid(ctx, nil, uuid, true, nil)
	if err != nil {
		return nil, fmt.Errorf("error searching for virtual machine with UUID %q: %w", uuid, err)
	}
	if found == nil {
		return nil, errGone
	}
	return object.NewVirtualMachine(vc.Client.Client, found.Reference()), nil
}

// network finds a port group of any kind by its id.
func (vc *vcenter) network(ctx context.Context, id string) (object.NetworkReference, error) {
	var err error
	for _, kind := range []string{"DistributedVirtualPortgroup", "Network", "OpaqueNetwork"} {
		var found object.Reference
		if found, err = find.NewFinder(vc.Client.Client).ObjectReference(ctx, ref(kind, id)); err == nil {
			return found.(object.NetworkReference), nil //nolint:forcetypeassert // a kind of network
		}
	}
	return nil, fmt.Errorf("could not find network with ID %q: %w", id, err)
}

// setTags attaches and detaches until the object has the wanted tags.
func (vc *vcenter) setTags(ctx context.Context, object mo.Reference, old, wanted []string) error {
	manager := tags.NewManager(vc.rest)
	for _, id := range without(old, wanted) {
		if err := manager.DetachTag(ctx, id, object); err != nil {
			return fmt.Errorf("error detaching tags to object ID %q: %w", object.Reference().Value, err)
		}
	}
	for _, id := range without(wanted, old) {
		if err := manager.AttachTag(ctx, id, object); err != nil {
			return fmt.Errorf("error attaching tags to object ID %q: %w", object.Reference().Value, err)
		}
	}
	return nil
}

func (vc *vcenter) tags(ctx context.Context, object mo.Reference) ([]any, error) {
	ids, err := tags.NewManager(vc.rest).ListAttachedTags(ctx, object)
	return listOf(ids), err
}

func without(all, some []string) []string {
	drop := map[string]bool{}
	for _, s := range some {
		drop[s] = true
	}
	var rest []string
	for _, s := range all {
		if !drop[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// finish waits for a vCenter task; both arguments are what the call that started it returned. Each wait has a property
// collector of its own: the cheaper WaitEx shares one, and of two tasks at once one would never be seen to end.
func finish(ctx context.Context, task *object.Task, err error) error {
	if err != nil {
		return err
	}
	return task.Wait(ctx)
}
