// The inventory that exists before the platform is built: what the settings' site section names.

package vcenter

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// standardNetwork is the port group that a fresh ESXi host has.
const standardNetwork = "VM Network"

// distributedSwitch carries the site's port group unless that is the standard one.
const distributedSwitch = "DSwitch"

// Inventory names what the site has. All fields from Pool on may be empty: the site has none, or no further ones.
type Inventory struct {
	Datacenter string
	Cluster    string
	Datastore  string
	Network    string
	Hosts      []string // of the cluster; all of them have every datastore and every network
	// Pool is a resource pool of the cluster.
	Pool string
	// Datastores and Networks are further ones.
	Datastores []string
	Networks   []string
	// Policy is a storage policy that fits every datastore.
	Policy string
	// Folder (its path), Library and Category (of the tags Tags) exist before any client comes.
	Folder   string
	Library  string
	Category string
	Tags     []string
}

func (i Inventory) datastores() []string { return append([]string{i.Datastore}, i.Datastores...) }

func (i Inventory) validate() error {
	var problems []error
	for _, field := range []struct{ key, value string }{
		{"Datacenter", i.Datacenter}, {"Cluster", i.Cluster}, {"Datastore", i.Datastore}, {"Network", i.Network},
	} {
		if field.value == "" {
			problems = append(problems, fmt.Errorf("vcenter: Inventory.%s is empty: give the name", field.key))
		}
	}
	if len(i.Hosts) == 0 {
		problems = append(problems, errors.New("vcenter: Inventory.Hosts is empty: give at least one host's name"))
	}
	seen := map[string]bool{}
	for _, host := range i.Hosts {
		if seen[host] {
			problems = append(problems, fmt.Errorf("vcenter: Inventory.Hosts has %q twice: name a host once", host))
		}
		seen[host] = true
	}
	return errors.Join(problems...)
}

// build creates the inventory through the API, as an administrator would. dir holds the datastore.
func (i Inventory) build(ctx context.Context, service *simulator.Service, dir string) error {
	client, err := vim25.NewClient(ctx, service)
	if err != nil {
		return err
	}
	datacenter, err := object.NewRootFolder(client).CreateDatacenter(ctx, i.Datacenter)
	if err != nil {
		return err
	}
	folders, err := datacenter.Folders(ctx)
	if err != nil {
		return err
	}
	cluster, err := folders.HostFolder.CreateCluster(ctx, i.Cluster, types.ClusterConfigSpecEx{
		DrsConfig: &types.ClusterDrsConfigInfo{Enabled: types.NewBool(true)},
		DasConfig: &types.ClusterDasConfigInfo{Enabled: types.NewBool(true)},
	})
	if err != nil {
		return err
	}
	hosts, err := i.addHosts(ctx, client, cluster)
	if err != nil {
		return err
	}
	if i.Pool != "" {
		root, err := cluster.ResourcePool(ctx)
		if err != nil {
			return err
		}
		if _, err := root.Create(ctx, i.Pool, types.DefaultResourceConfigSpec()); err != nil {
			return err
		}
	}
	var groups []string
	for _, name := range append([]string{i.Network}, i.Networks...) {
		if name != standardNetwork {
			groups = append(groups, name)
		}
	}
	if len(groups) > 0 {
		if err := addPortGroups(ctx, client, folders.NetworkFolder, hosts, groups); err != nil {
			return err
		}
	}
	if err := makeFolders(ctx, folders.VmFolder, i.Folder); err != nil {
		return err
	}
	for number, name := range i.datastores() {
		if err := mountDatastore(ctx, hosts, name, filepath.Join(dir, strconv.Itoa(number))); err != nil {
			return err
		}
	}
	return nil
}

// makeFolders makes the folders of a path, one in the other.
func makeFolders(ctx context.Context, parent *object.Folder, path string) error {
	for _, name := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		made, err := parent.CreateFolder(ctx, name)
		if err != nil {
			return err
		}
		parent = made
	}
	return nil
}

// furnish makes what exists beside the inventory, through the API: the storage policy, library, category and tags.
func (v *VCenter) furnish(ctx context.Context) error {
	i := v.options.Inventory
	if err := v.addPolicy(i.Policy); err != nil {
		return err
	}
	if i.Library == "" && i.Category == "" {
		return nil
	}
	client, err := vim25.NewClient(ctx, soap.NewClient(v.inner.URL, true))
	if err != nil {
		return err
	}
	session := rest.NewClient(client)
	if err := session.Login(ctx, url.UserPassword(v.options.User, v.options.Password)); err != nil {
		return err
	}
	defer func() { _ = session.Logout(ctx) }()
	if i.Library != "" {
		datastore := v.registry().Any("Datastore").Reference().Value
		_, err := library.NewManager(session).CreateLibrary(ctx, library.Library{
			Name: i.Library, Type: "LOCAL", Storage: []library.StorageBacking{{DatastoreID: datastore, Type: "DATASTORE"}},
		})
		if err != nil {
			return err
		}
	}
	if i.Category == "" {
		return nil
	}
	manager := tags.NewManager(session)
	category, err := manager.CreateCategory(ctx, &tags.Category{
		Name: i.Category, Cardinality: "SINGLE", AssociableTypes: []string{"VirtualMachine"},
	})
	for _, name := range i.Tags {
		if err == nil {
			_, err = manager.CreateTag(ctx, &tags.Tag{Name: name, CategoryID: category})
		}
	}
	return err
}

func (i Inventory) addHosts(
	ctx context.Context, client *vim25.Client, cluster *object.ClusterComputeResource,
) ([]*object.HostSystem, error) {
	hosts := make([]*object.HostSystem, 0, len(i.Hosts))
	for _, name := range i.Hosts {
		task, err := cluster.AddHost(ctx, types.HostConnectSpec{HostName: name}, true, nil, nil)
		if err != nil {
			return nil, err
		}
		info, err := task.WaitForResult(ctx)
		if err != nil {
			return nil, err
		}
		reference, ok := info.Result.(types.ManagedObjectReference)
		if !ok {
			return nil, fmt.Errorf("host %s: the task's result is %T", name, info.Result)
		}
		hosts = append(hosts, object.NewHostSystem(client, reference))
	}
	return hosts, nil
}

// addPortGroups makes distributed port groups on a switch that all hosts are members of.
func addPortGroups(
	ctx context.Context, client *vim25.Client, folder *object.Folder, hosts []*object.HostSystem, names []string,
) error {
	spec := &types.VMwareDVSConfigSpec{DVSConfigSpec: types.DVSConfigSpec{Name: distributedSwitch}}
	task, err := folder.CreateDVS(ctx, types.DVSCreateSpec{ConfigSpec: spec})
	if err != nil {
		return err
	}
	info, err := task.WaitForResult(ctx)
	if err != nil {
		return err
	}
	reference, ok := info.Result.(types.ManagedObjectReference)
	if !ok {
		return fmt.Errorf("switch %s: the task's result is %T", distributedSwitch, info.Result)
	}
	dvs := object.NewDistributedVirtualSwitch(client, reference)
	for _, host := range hosts {
		member := types.DistributedVirtualSwitchHostMemberConfigSpec{
			Operation: string(types.ConfigSpecOperationAdd), Host: host.Reference(),
		}
		task, err := dvs.Reconfigure(ctx, &types.DVSConfigSpec{
			Host: []types.DistributedVirtualSwitchHostMemberConfigSpec{member},
		})
		if err != nil {
			return err
		}
		if err := task.Wait(ctx); err != nil {
			return err
		}
	}
	specs := make([]types.DVPortgroupConfigSpec, 0, len(names))
	for _, name := range names {
		specs = append(specs, types.DVPortgroupConfigSpec{
			Name: name, NumPorts: 128, Type: string(types.DistributedVirtualPortgroupPortgroupTypeEarlyBinding),
		})
	}
	task, err = dvs.AddPortgroup(ctx, specs)
	if err != nil {
		return err
	}
	return task.Wait(ctx)
}

// mountDatastore mounts one datastore on every host, so that it is shared.
func mountDatastore(ctx context.Context, hosts []*object.HostSystem, name, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, host := range hosts {
		system, err := host.ConfigManager().DatastoreSystem(ctx)
		if err != nil {
			return err
		}
		if _, err := system.CreateLocalDatastore(ctx, name, dir); err != nil {
			return err
		}
	}
	return nil
}
