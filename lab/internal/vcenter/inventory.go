// The inventory that exists before the platform is built: what the settings' site section names.

package vcenter

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// standardNetwork is the port group that a fresh ESXi host has.
const standardNetwork = "VM Network"

// distributedSwitch carries the site's port group unless that is the standard one.
const distributedSwitch = "DSwitch"

// Inventory names what the site has: one of each, and at least as many hosts as machines.
type Inventory struct {
	Datacenter string
	Cluster    string
	Datastore  string
	Network    string
	// Pool is a resource pool of the cluster; empty: none beside its root.
	Pool  string
	Hosts []string
}

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
	if i.Network != standardNetwork {
		if err := i.addPortGroup(ctx, client, folders.NetworkFolder, hosts); err != nil {
			return err
		}
	}
	return i.mountDatastore(ctx, hosts, dir)
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

// addPortGroup makes a distributed port group on a switch that all hosts are members of.
func (i Inventory) addPortGroup(
	ctx context.Context, client *vim25.Client, folder *object.Folder, hosts []*object.HostSystem,
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
	task, err = dvs.AddPortgroup(ctx, []types.DVPortgroupConfigSpec{{
		Name: i.Network, NumPorts: 128,
		Type: string(types.DistributedVirtualPortgroupPortgroupTypeEarlyBinding),
	}})
	if err != nil {
		return err
	}
	return task.Wait(ctx)
}

// mountDatastore mounts one datastore on every host, so that it is shared.
func (i Inventory) mountDatastore(ctx context.Context, hosts []*object.HostSystem, dir string) error {
	for _, host := range hosts {
		system, err := host.ConfigManager().DatastoreSystem(ctx)
		if err != nil {
			return err
		}
		if _, err := system.CreateLocalDatastore(ctx, i.Datastore, dir); err != nil {
			return err
		}
	}
	return nil
}
