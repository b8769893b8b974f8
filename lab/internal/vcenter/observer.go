// The observer: it sees every change of an object, corrects those that vcsim leaves unlike vCenter's,
// and turns changes of VMs into calls of Machines.

package vcenter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// hardwareVersion is that of Talos' OVA. The provider compares it with what the environment browser
// says and upgrades the VM if they differ, which vcsim refuses.
const hardwareVersion = 15

// correct changes the fresh model where it is unlike vCenter, and starts observing it.
func (v *VCenter) correct() {
	registry := v.registry()
	for _, entity := range registry.All("ClusterComputeResource") {
		cluster, ok := entity.(*simulator.ClusterComputeResource)
		if !ok {
			continue
		}
		// Clients ask for a cluster by its base type, too.
		alias := cluster.ComputeResource
		alias.Self.Type = "ComputeResource"
		registry.Put(&alias)
	}
	for _, reference := range registry.AllReference("EnvironmentBrowser") {
		browser, ok := reference.(*simulator.EnvironmentBrowser)
		if !ok {
			continue
		}
		browser.QueryConfigOptionResponse.Returnval = &types.VirtualMachineConfigOption{
			Version:         fmt.Sprintf("vmx-%d", hardwareVersion),
			DefaultDevice:   esx.VirtualDevice,
			HardwareOptions: types.VirtualHardwareOption{HwVersion: hardwareVersion},
		}
	}
	for _, entity := range registry.All("HostSystem") {
		if host, ok := entity.(*simulator.HostSystem); ok {
			product := host.Config.Product
			product.Version, product.ApiVersion, product.Build = version, version+".0", build
			product.FullName = fmt.Sprintf("VMware ESXi %s build-%s (simulated)", version, build)
			host.Config.Product, host.Summary.Config.Product = product, &product
		}
	}
	for _, reference := range registry.AllReference("OvfManager") {
		if manager, ok := reference.(*simulator.OvfManager); ok {
			registry.Put(&importer{manager})
		}
	}
	registry.AddHandler(&observer{v})
	registry.Handler = v.check
}

// observer implements simulator.RegisterObject. Its methods run under the lock of the object.
type observer struct{ v *VCenter }

// Reference implements mo.Reference.
func (*observer) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "LabObserver", Value: "observer"}
}

// taskNames are the names of the methods that start tasks, by vcsim's names of the tasks. pyVmomi
// cannot read a running task whose name is no method.
var taskNames = map[string]string{
	"CloneVm":            "CloneVM_Task",
	"CreateVm":           "CreateVM_Task",
	"Destroy":            "Destroy_Task",
	"MoveIntoFolder":     "MoveIntoFolder_Task",
	"PowerOff":           "PowerOffVM_Task",
	"PowerOn":            "PowerOnVM_Task",
	"ReconfigVm":         "ReconfigVM_Task",
	"ReconfigureCluster": "ReconfigureComputeResource_Task",
	"RelocateVm":         "RelocateVM_Task",
	"Reset":              "ResetVM_Task",
	"Suspend":            "SuspendVM_Task",
	"UpgradeVm":          "UpgradeVM_Task",
}

// PutObject implements simulator.RegisterObject. A new VM has no configuration yet; a new task has
// not started.
func (*observer) PutObject(_ *simulator.Context, added mo.Reference) {
	task, ok := added.(*simulator.Task)
	if !ok {
		return
	}
	if name, known := taskNames[task.Info.Name]; known {
		task.Info.Name = name
	}
}

// UpdateObject implements simulator.RegisterObject.
func (o *observer) UpdateObject(_ *simulator.Context, changed mo.Reference, changes []types.PropertyChange) {
	switch changed := changed.(type) {
	case *mo.VirtualMachine:
		if slices.ContainsFunc(changes, completes) {
			setDefaults(changed)
			o.v.observe(changed)
		}
	case *mo.Task:
		o.v.follow(changed)
	}
}

// followed is the longest that a task is kept from its end, should a machine not follow.
const followed = 30 * time.Second

// follow keeps the task of a VM from its end until the machine has done what the task was about: when
// vCenter says that a VM is off or destroyed, nothing of it runs any more. The task is locked, and a
// client that asks for it waits; its VM is not.
func (v *VCenter) follow(task *mo.Task) {
	ended := task.Info.State == types.TaskInfoStateSuccess || task.Info.State == types.TaskInfoStateError
	if task.Info.State == types.TaskInfoStateSuccess && task.Info.Name == "ReconfigureComputeResource_Task" {
		go v.balance()
	}
	if !ended || task.Info.Entity == nil || task.Info.Entity.Type != "VirtualMachine" {
		return
	}
	if !v.events.settle(followed) {
		v.options.Log.Warn("a machine has not followed its VM", "task", task.Info.Name, "seconds", followed.Seconds())
	}
}

// setDefaults fills in what vCenter always says of a VM: without the first the provider sees a
// difference, without the others pyVmomi cannot read the VM.
func setDefaults(vm *mo.VirtualMachine) {
	if vm.Config.SwapPlacement == "" {
		vm.Config.SwapPlacement = string(types.VirtualMachineConfigInfoSwapPlacementTypeInherit)
	}
	for _, runtime := range []*types.VirtualMachineRuntimeInfo{&vm.Runtime, &vm.Summary.Runtime} {
		runtime.FaultToleranceState = types.VirtualMachineFaultToleranceStateNotConfigured
		runtime.RecordReplayState = types.VirtualMachineRecordReplayStateInactive
	}
	if vm.GuestHeartbeatStatus == "" {
		vm.GuestHeartbeatStatus = types.ManagedEntityStatusGray
	}
}

// completes tells the last update of an operation on a VM; those before show it half done.
func completes(change types.PropertyChange) bool {
	switch change.Name {
	case "name", "config.changeVersion", "runtime.powerState", "runtime.host", "guest.net":
		return true
	default:
		return false
	}
}

// RemoveObject implements simulator.RegisterObject.
func (o *observer) RemoveObject(ctx *simulator.Context, removed types.ManagedObjectReference) {
	if removed.Type != "VirtualMachine" {
		return
	}
	o.v.forget(removed)
	o.v.removeFromCluster(ctx, removed)
}

// observe compares a VM with what is known of it and tells Machines the difference.
func (v *VCenter) observe(vm *mo.VirtualMachine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known, exists := v.vms[vm.Self]
	if !exists {
		known = &VM{}
		v.vms[vm.Self] = known
	}
	on := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	hardware := hardwareOf(vm)
	hardware.Networks = v.networks(vm.Config.Hardware.Device)
	if vm.Runtime.Host != nil {
		if host, ok := v.registry().Get(*vm.Runtime.Host).(*simulator.HostSystem); ok {
			known.Host, known.HostID = host.Name, host.Self
		}
	}
	machines, log := v.options.Machines, v.options.Log.With("vm", hardware.Name)
	switch {
	case on && !known.PoweredOn:
		log.Info("VM powered on")
		v.events.add(func() { machines.PowerOn(hardware) })
	case !on && known.PoweredOn:
		log.Info("VM powered off")
		v.events.add(func() { machines.PowerOff(hardware.ID) })
	case on && !hardware.equal(known.Hardware):
		log.Info("VM reconfigured while powered on")
		v.events.add(func() { machines.Reconfigure(hardware) })
	}
	known.Hardware, known.PoweredOn = hardware, on
	silence(vm)
}

// silence removes what vcsim says of the guest: no guest runs VMware's tools, which would say it.
func silence(vm *mo.VirtualMachine) {
	if vm.Guest == nil {
		return
	}
	vm.Guest.Net, vm.Guest.IpStack, vm.Guest.IpAddress, vm.Guest.HostName = nil, nil, "", ""
	vm.Guest.ToolsStatus = types.VirtualMachineToolsStatusToolsNotInstalled
	vm.Guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
}

func (v *VCenter) forget(reference types.ManagedObjectReference) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known, exists := v.vms[reference]
	if !exists {
		return
	}
	delete(v.vms, reference)
	id, machines := known.ID, v.options.Machines
	v.options.Log.Info("VM removed", "vm", known.Name)
	v.events.add(func() { machines.Destroy(id) })
}

// removeFromCluster takes a destroyed VM out of rules, groups and overrides, as vCenter does. With
// vcsim's leftovers a client that reads its rule fails to find the VM.
func (v *VCenter) removeFromCluster(ctx *simulator.Context, vm types.ManagedObjectReference) {
	for _, entity := range v.registry().All("ClusterComputeResource") {
		cluster, ok := entity.(*simulator.ClusterComputeResource)
		if !ok {
			continue
		}
		ctx.WithLock(cluster, func() {
			if config, ok := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx); ok {
				removeVM(config, vm)
			}
		})
	}
}

func removeVM(config *types.ClusterConfigInfoEx, vm types.ManagedObjectReference) {
	is := func(other types.ManagedObjectReference) bool { return other == vm }
	for _, rule := range config.Rule {
		switch rule := rule.(type) {
		case *types.ClusterAntiAffinityRuleSpec:
			rule.Vm = slices.DeleteFunc(rule.Vm, is)
		case *types.ClusterAffinityRuleSpec:
			rule.Vm = slices.DeleteFunc(rule.Vm, is)
		}
	}
	for _, group := range config.Group {
		if group, ok := group.(*types.ClusterVmGroup); ok {
			group.Vm = slices.DeleteFunc(group.Vm, is)
		}
	}
	config.DasVmConfig = slices.DeleteFunc(config.DasVmConfig, func(c types.ClusterDasVmConfigInfo) bool { return c.Key == vm })
	config.DrsVmConfig = slices.DeleteFunc(config.DrsVmConfig, func(c types.ClusterDrsVmConfigInfo) bool { return c.Key == vm })
}

func (v *VCenter) find(id string) (*simulator.VirtualMachine, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for reference, known := range v.vms {
		if strings.EqualFold(known.ID, id) {
			if vm, ok := v.registry().Get(reference).(*simulator.VirtualMachine); ok {
				return vm, nil
			}
		}
	}
	return nil, fmt.Errorf("vcenter: no VM has the UUID %q", id)
}

// GuestPoweredOff is what the hypervisor sees when a guest switches itself off.
func (v *VCenter) GuestPoweredOff(ctx context.Context, id string) error {
	vm, err := v.find(id)
	if err != nil {
		return err
	}
	within := &simulator.Context{Context: ctx, Map: v.registry()}
	within.WithLock(vm, func() {
		within.Update(vm, []types.PropertyChange{
			{Name: "runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff},
			{Name: "summary.runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff},
		})
	})
	return nil
}
