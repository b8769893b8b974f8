package vcenter

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/pbm"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25/types"
)

// threeOnTwoHosts gives three running VMs on two hosts.
func threeOnTwoHosts(t *testing.T) (*site, []*object.VirtualMachine) {
	s := start(t, func(o *Options) { o.Inventory.Hosts = o.Inventory.Hosts[:2] })
	vms := s.three()
	return s, vms
}

// three gives three VMs that run.
func (s *site) three() []*object.VirtualMachine {
	s.Helper()
	item := s.item()
	var vms []*object.VirtualMachine
	for _, name := range []string{"node01", "node02", "node03"} {
		vm := s.deploy(item, name)
		s.wait(vm.PowerOn(s.ctx))
		vms = append(vms, vm)
	}
	return vms
}

func (s *site) keepApart(vms []*object.VirtualMachine, mandatory bool) {
	s.Helper()
	rule := &types.ClusterAntiAffinityRuleSpec{ClusterRuleInfo: types.ClusterRuleInfo{
		Name: "apart", Enabled: types.NewBool(true), Mandatory: types.NewBool(mandatory),
	}}
	for _, vm := range vms {
		rule.Vm = append(rule.Vm, vm.Reference())
	}
	cluster, err := s.finder.ClusterComputeResource(s.ctx, inventory.Cluster)
	s.must(err)
	change := types.ClusterRuleSpec{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd}, Info: rule}
	s.wait(cluster.Reconfigure(s.ctx, &types.ClusterConfigSpecEx{RulesSpec: []types.ClusterRuleSpec{change}}, true))
}

// hostsOf gives where each VM runs.
func (s *site) hostsOf() map[string]string {
	where := map[string]string{}
	for _, vm := range s.VMs() {
		where[vm.Name] = vm.Host
	}
	return where
}

func (s *site) moveTo(vm *object.VirtualMachine, host *object.HostSystem) {
	s.Helper()
	reference := host.Reference()
	s.wait(vm.Relocate(s.ctx, types.VirtualMachineRelocateSpec{Host: &reference}, types.VirtualMachineMovePriorityDefaultPriority))
}

func TestARuleThatIsAMustRefusesAMachineThatFindsNoHost(t *testing.T) {
	s, vms := threeOnTwoHosts(t)
	s.keepApart(vms, true) // it is taken although two hosts cannot obey it, and nothing that runs is stopped
	s.wait(vms[2].PowerOff(s.ctx))
	task, err := vms[2].PowerOn(s.ctx)
	if err == nil {
		err = task.Wait(s.ctx)
	}
	if err == nil || !strings.Contains(err.Error(), "No host is compatible with the virtual machine.") {
		t.Errorf("the machine was switched on: %v", err)
	}
}

func TestARuleThatIsAWishGivesWay(t *testing.T) {
	s, vms := threeOnTwoHosts(t)
	s.keepApart(vms, false)
	s.wait(vms[2].PowerOff(s.ctx))
	s.wait(vms[2].PowerOn(s.ctx))
	if where := s.hostsOf(); where["node01"] != where["node03"] {
		t.Errorf("three machines on two hosts: %v", where)
	}
}

func TestDRSMovesMachinesApartWhereItCan(t *testing.T) {
	s := start(t, nil)
	vms := s.three()
	host, err := s.finder.HostSystem(s.ctx, inventory.Hosts[0])
	s.must(err)
	for _, vm := range vms {
		s.moveTo(vm, host)
	}
	if where := s.hostsOf(); where["node01"] != where["node02"] {
		t.Fatalf("not moved together: %v", where)
	}
	s.keepApart(vms, true)
	deadline := time.Now().Add(time.Minute)
	for where := s.hostsOf(); where["node01"] == where["node02"] || where["node02"] == where["node03"] || where["node01"] == where["node03"]; where = s.hostsOf() {
		if time.Now().After(deadline) {
			t.Fatalf("still together: %v", where)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// A machine that was moved by hand comes up where no other is.
	s.wait(vms[0].PowerOff(s.ctx))
	other, err := s.finder.HostSystem(s.ctx, s.hostsOf()["node02"])
	s.must(err)
	s.moveTo(vms[0], other)
	s.wait(vms[0].PowerOn(s.ctx))
	if where := s.hostsOf(); where["node01"] == where["node02"] || where["node01"] == where["node03"] {
		t.Errorf("switched on beside another one: %v", where)
	}
}

func TestWhatExistsBeforeTheStackIsThere(t *testing.T) {
	s := start(t, func(o *Options) {
		i := &o.Inventory
		i.Folder, i.Library, i.Category, i.Tags = "it/platform", "images", "roles", []string{"controlplane"}
		i.Datastores, i.Networks, i.Policy = []string{"esx01-local"}, []string{"storage"}, "gold"
	})
	_, err := s.finder.Folder(s.ctx, "/"+inventory.Datacenter+"/vm/it/platform")
	s.must(err)
	found, err := library.NewManager(s.rest).GetLibraryByName(s.ctx, "images")
	s.must(err)
	if found.Type != "LOCAL" {
		t.Errorf("library: %+v", found)
	}
	category, err := tags.NewManager(s.rest).GetCategory(s.ctx, "roles")
	s.must(err)
	_, err = tags.NewManager(s.rest).GetTagForCategory(s.ctx, "controlplane", category.Name)
	s.must(err)
	_, err = s.finder.Datastore(s.ctx, "esx01-local")
	s.must(err)
	_, err = s.finder.Network(s.ctx, "storage")
	s.must(err)
}

func TestMachinesAndDisksCarryTheirStoragePolicy(t *testing.T) {
	s := start(t, func(o *Options) { o.Inventory.Policy = "gold" })
	policies, err := pbm.NewClient(s.ctx, s.client.Client)
	s.must(err)
	gold, err := policies.ProfileIDByName(s.ctx, "gold")
	s.must(err)
	vm := s.deploy(s.item(), "node01")
	carries := func(kind pbmtypes.PbmObjectType, key string) string {
		ids, err := policies.QueryAssociatedProfile(s.ctx, pbmtypes.PbmServerObjectRef{ObjectType: string(kind), Key: key})
		s.must(err)
		if len(ids) == 0 {
			return ""
		}
		return ids[0].UniqueId
	}
	devices, err := vm.Device(s.ctx)
	s.must(err)
	disk := devices.SelectByType((*types.VirtualDisk)(nil))[0]
	key := vm.Reference().Value + ":" + strconv.Itoa(int(disk.GetVirtualDevice().Key))
	if id := carries(pbmtypes.PbmObjectTypeVirtualMachine, vm.Reference().Value); id != "" {
		t.Errorf("a policy from nowhere: %s", id)
	}
	profile := []types.BaseVirtualMachineProfileSpec{&types.VirtualMachineDefinedProfileSpec{ProfileId: gold}}
	task, err := vm.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{VmProfile: profile, DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: disk, Profile: profile},
	}})
	s.must(err)
	s.must(task.Wait(s.ctx))
	if vmID, diskID := carries(pbmtypes.PbmObjectTypeVirtualMachine, vm.Reference().Value), carries(pbmtypes.PbmObjectTypeVirtualDiskId, key); vmID != gold || diskID != gold {
		t.Errorf("the machine carries %q, its disk %q, not %s", vmID, diskID, gold)
	}
}

func TestAMachineMovesToAnotherDatastoreWithItsFiles(t *testing.T) {
	s := start(t, func(o *Options) { o.Inventory.Datastores = []string{"esx01-local"} })
	vm := s.deploy(s.item(), "node01")
	to, err := s.finder.Datastore(s.ctx, "esx01-local")
	s.must(err)
	reference := to.Reference()
	s.wait(vm.Relocate(s.ctx, types.VirtualMachineRelocateSpec{Datastore: &reference}, types.VirtualMachineMovePriorityDefaultPriority))
	if path := s.properties(vm).Config.Files.VmPathName; !strings.HasPrefix(path, "[esx01-local] ") {
		t.Errorf("its file is %s", path)
	}
	s.wait(vm.Destroy(s.ctx))
}
