// Checks of SOAP requests before vcsim sees them. vcsim trusts its clients: a reference to something
// that does not exist ends the process, a second VM takes the name of the first, a machine without
// hot plug changes its memory. vCenter refuses these with a fault.

package vcenter

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// check runs before every SOAP call (simulator.Registry.Handler). It returns a fault to refuse the
// call, and completes requests with what vCenter decides itself.
func (v *VCenter) check(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if fault := checkSession(ctx, method); fault != nil {
		return nil, fault
	}
	if fault := v.checkReferences(method); fault != nil {
		return nil, fault
	}
	switch request := method.Body.(type) {
	case *types.LoginByToken:
		return nil, &types.InvalidLogin{} // there is no token service whose signature could be checked
	case *types.CreateVM_Task:
		return nil, v.checkCreate(ctx, request.This, &request.Config, &request.Host)
	case *types.ImportVApp:
		return nil, v.checkImport(ctx, request)
	case *types.CloneVM_Task:
		v.completeClone(ctx, request)
	case *types.ReconfigVM_Task:
		return nil, v.checkReconfigure(ctx, request)
	case *types.PowerOnVM_Task:
		return nil, v.placePowerOn(ctx, request.This)
	case *types.RelocateVM_Task:
		return nil, v.moveFiles(ctx, request)
	}
	return nil, nil
}

// moveFiles does what vcsim leaves out when a VM moves to another datastore: its files, and their names, move along.
func (v *VCenter) moveFiles(ctx *simulator.Context, request *types.RelocateVM_Task) types.BaseMethodFault {
	vm, ok := v.registry().Get(request.This).(*simulator.VirtualMachine)
	if !ok || request.Spec.Datastore == nil || len(vm.Datastore) == 0 || vm.Datastore[0] == *request.Spec.Datastore {
		return nil
	}
	from, isOne := v.registry().Get(vm.Datastore[0]).(*simulator.Datastore)
	to, isAnother := v.registry().Get(*request.Spec.Datastore).(*simulator.Datastore)
	if !isOne || !isAnother {
		return nil
	}
	renamed := func(path string) string { return strings.Replace(path, "["+from.Name+"]", "["+to.Name+"]", 1) }
	ctx.WithLock(vm, func() {
		files := &vm.Config.Files
		var folder object.DatastorePath
		if folder.FromString(files.LogDirectory) {
			_ = os.Rename(filepath.Join(from.Info.GetDatastoreInfo().Url, folder.Path), filepath.Join(to.Info.GetDatastoreInfo().Url, folder.Path))
		}
		for _, path := range []*string{
			&files.VmPathName, &files.LogDirectory, &files.SnapshotDirectory, &files.SuspendDirectory, &vm.Summary.Config.VmPathName,
		} {
			*path = renamed(*path)
		}
		for _, device := range vm.Config.Hardware.Device {
			if backing, ok := device.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
				info := backing.GetVirtualDeviceFileBackingInfo()
				info.FileName, info.Datastore = renamed(info.FileName), &to.Self
			}
		}
	})
	return nil
}

// checkSession lets nobody read properties without a login, but for the two objects that clients
// look at before it. vcsim lets everybody.
func checkSession(ctx *simulator.Context, method *simulator.Method) types.BaseMethodFault {
	if ctx.Session != nil {
		return nil
	}
	switch method.Name {
	case "Fetch", "RetrieveProperties", "RetrievePropertiesEx":
	default:
		return nil
	}
	for _, reference := range references(method.Body) {
		switch reference.Type {
		case "PropertyCollector", "ServiceInstance", "SessionManager":
		default:
			return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &reference, PrivilegeId: "System.View"}}
		}
	}
	return nil
}

// inventoryTypes are the types of objects that a request may name and that may be missing.
var inventoryTypes = []string{
	"ClusterComputeResource", "ComputeResource", "Datacenter", "Datastore", "DistributedVirtualPortgroup", "Folder",
	"HostSystem", "Network", "ResourcePool", "VirtualMachine", "VmwareDistributedVirtualSwitch",
}

// checkReferences refuses a request that names an object that does not exist.
func (v *VCenter) checkReferences(method *simulator.Method) types.BaseMethodFault {
	for _, reference := range references(method.Body) {
		if slices.Contains(inventoryTypes, reference.Type) && v.registry().Get(reference) == nil {
			return &types.ManagedObjectNotFound{Obj: reference}
		}
	}
	return nil
}

// references collects all references anywhere in a request.
func references(request any) []types.ManagedObjectReference {
	var found []types.ManagedObjectReference
	var walk func(reflect.Value)
	walk = func(value reflect.Value) {
		switch value.Kind() {
		case reflect.Pointer, reflect.Interface:
			if !value.IsNil() {
				walk(value.Elem())
			}
		case reflect.Slice:
			for i := range value.Len() {
				walk(value.Index(i))
			}
		case reflect.Struct:
			if !value.CanInterface() {
				return
			}
			switch content := value.Interface().(type) {
			case types.ManagedObjectReference:
				found = append(found, content)
			case time.Time:
			default:
				for i := range value.NumField() {
					walk(value.Field(i))
				}
			}
		default:
		}
	}
	walk(reflect.ValueOf(request))
	return found
}

func (v *VCenter) checkImport(ctx *simulator.Context, request *types.ImportVApp) types.BaseMethodFault {
	spec, ok := request.Spec.(*types.VirtualMachineImportSpec)
	if !ok {
		return nil // vcsim refuses it
	}
	if annotation, ok := v.annotations.Load(spec.ConfigSpec.Name); ok {
		spec.ConfigSpec.Annotation, _ = annotation.(string)
	}
	folder := request.Folder
	if folder == nil {
		if datacenter, ok := v.registry().Any("Datacenter").(*simulator.Datacenter); ok {
			folder = &datacenter.VmFolder
		}
	}
	return v.checkCreate(ctx, *folder, &spec.ConfigSpec, &request.Host)
}

// checkCreate refuses a VM whose name is taken or whose files cannot lie where it says, gives it an
// identity of its own and a host.
func (v *VCenter) checkCreate(
	ctx *simulator.Context, folder types.ManagedObjectReference,
	spec *types.VirtualMachineConfigSpec, host **types.ManagedObjectReference,
) types.BaseMethodFault {
	if fault := v.checkPaths(spec); fault != nil {
		return fault
	}
	if parent, ok := v.registry().Get(folder).(*simulator.Folder); ok {
		var taken mo.Entity
		ctx.WithLock(parent, func() { taken = v.registry().FindByName(spec.Name, parent.ChildEntity) })
		if taken != nil {
			return &types.DuplicateName{Name: spec.Name, Object: taken.Reference()}
		}
	}
	identify(spec)
	if *host == nil {
		*host = v.place(ctx)
	}
	return nil
}

// checkPaths refuses files on a datastore that does not exist.
func (v *VCenter) checkPaths(spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	var paths []string
	if spec.Files != nil {
		paths = append(paths, spec.Files.VmPathName)
	}
	for _, change := range spec.DeviceChange {
		device := change.GetVirtualDeviceConfigSpec().Device
		if device == nil {
			continue
		}
		if backing, ok := device.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
			paths = append(paths, backing.GetVirtualDeviceFileBackingInfo().FileName)
		}
	}
	for _, path := range paths {
		var parsed object.DatastorePath
		if path == "" || parsed.FromString(path) && slices.Contains(v.options.Inventory.datastores(), parsed.Datastore) {
			continue
		}
		return &types.InvalidDatastorePath{
			InvalidDatastore: types.InvalidDatastore{Name: parsed.Datastore}, DatastorePath: path,
		}
	}
	return nil
}

// identify gives a VM new UUIDs. vcsim derives them from the path of its files, so that a VM made
// again under the same name would be the same VM to clients.
func identify(spec *types.VirtualMachineConfigSpec) {
	if spec.Uuid == "" {
		spec.Uuid = uuid.NewString()
	}
	if spec.InstanceUuid == "" {
		spec.InstanceUuid = uuid.NewString()
	}
}

// place chooses the host with the fewest VMs, as DRS would among idle hosts; vcsim throws dice.
func (v *VCenter) place(ctx *simulator.Context) *types.ManagedObjectReference {
	best, fewest := types.ManagedObjectReference{}, -1
	for _, host := range v.hosts() {
		ctx.WithLock(host, func() {
			if fewest < 0 || len(host.Vm) < fewest {
				best, fewest = host.Self, len(host.Vm)
			}
		})
	}
	return &best
}

// completeClone gives a clone UUIDs of its own and its source's extra configuration.
func (v *VCenter) completeClone(ctx *simulator.Context, request *types.CloneVM_Task) {
	if request.Spec.Config == nil {
		request.Spec.Config = &types.VirtualMachineConfigSpec{}
	}
	spec := request.Spec.Config
	identify(spec)
	source, ok := v.registry().Get(request.This).(*simulator.VirtualMachine)
	if !ok {
		return
	}
	ctx.WithLock(source, func() {
		spec.ExtraConfig = append(slices.Clone(source.Config.ExtraConfig), spec.ExtraConfig...)
	})
}

// checkReconfigure refuses what vCenter refuses of a powered-on VM, and disks on no datastore.
func (v *VCenter) checkReconfigure(ctx *simulator.Context, request *types.ReconfigVM_Task) types.BaseMethodFault {
	if fault := v.checkPaths(&request.Spec); fault != nil {
		return fault
	}
	vm, ok := v.registry().Get(request.This).(*simulator.VirtualMachine)
	if !ok {
		return nil
	}
	var fault types.BaseMethodFault
	ctx.WithLock(vm, func() {
		if vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
			fault = hotPlugFault(vm.Config, &request.Spec)
		}
	})
	if fault == nil {
		v.carry(vm.Self.Value, &request.Spec)
	}
	return fault
}

// What vSphere adds to a running machine with Linux: nothing past 3 GiB to one that began with less, and at most
// sixteen times as much.
const (
	linuxStartMiB = 3072
	hotAddTimes   = 16
)

func hotPlugFault(config *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	changed := func(want, have *bool) bool { return want != nil && *want != isTrue(have) }

	memory, current := spec.MemoryMB, int64(config.Hardware.MemoryMB)
	if memory != 0 && memory != current && (memory < current || !isTrue(config.MemoryHotAddEnabled)) {
		return &types.MemoryHotPlugNotSupported{}
	}
	if memory > current && (memory > hotAddTimes*current || current <= linuxStartMiB && memory > linuxStartMiB) {
		return &types.MemoryHotPlugNotSupported{}
	}
	cpus, have := spec.NumCPUs, config.Hardware.NumCPU
	if cpus > have && !isTrue(config.CpuHotAddEnabled) || cpus != 0 && cpus < have && !isTrue(config.CpuHotRemoveEnabled) {
		return &types.CpuHotPlugNotSupported{}
	}
	if changed(spec.MemoryHotAddEnabled, config.MemoryHotAddEnabled) || changed(spec.CpuHotAddEnabled, config.CpuHotAddEnabled) {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: types.VirtualMachinePowerStatePoweredOn,
		}
	}
	return nil
}

// importer adds to vcsim's OVF import what it leaves out: the descriptor's vmw:ExtraConfig.
type importer struct{ *simulator.OvfManager }

// CreateImportSpec implements the SOAP method.
func (m *importer) CreateImportSpec(ctx *simulator.Context, request *types.CreateImportSpec) soap.HasFault {
	body := m.OvfManager.CreateImportSpec(ctx, request)
	response, ok := body.(*methods.CreateImportSpecBody)
	if !ok || response.Res == nil {
		return body
	}
	spec, ok := response.Res.Returnval.ImportSpec.(*types.VirtualMachineImportSpec)
	if !ok {
		return body
	}
	envelope, err := ovf.Unmarshal(strings.NewReader(request.OvfDescriptor))
	if err != nil {
		return body // vcsim has read it before
	}
	for _, hardware := range envelope.VirtualSystem.VirtualHardware {
		for _, extra := range hardware.ExtraConfig {
			spec.ConfigSpec.ExtraConfig = append(spec.ConfigSpec.ExtraConfig,
				&types.OptionValue{Key: extra.Key, Value: extra.Value})
		}
	}
	return body
}
