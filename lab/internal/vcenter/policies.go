// Storage policies: vcsim knows their names, but forgets what carries them.

package vcenter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/pbm"
	pbmmethods "github.com/vmware/govmomi/pbm/methods"
	pbmsimulator "github.com/vmware/govmomi/pbm/simulator"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// profiles is vcsim's manager of policies, with a memory.
type profiles struct {
	*pbmsimulator.ProfileManager
	v *VCenter
}

// addPolicy gives the manager its memory, and makes a policy of this name; "" makes none.
func (v *VCenter) addPolicy(name string) error {
	registry := v.model.Service.Context.For(pbm.Path).Map
	for _, reference := range registry.AllReference("PbmProfileProfileManager") {
		manager, ok := reference.(*pbmsimulator.ProfileManager)
		if !ok {
			continue
		}
		registry.Put(&profiles{manager, v})
		if name != "" {
			ctx := &simulator.Context{Map: registry, Session: &simulator.Session{}}
			manager.PbmCreate(ctx, &pbmtypes.PbmCreate{CreateSpec: pbmtypes.PbmCapabilityProfileCreateSpec{
				Name: name, Category: string(pbmtypes.PbmProfileCategoryEnumREQUIREMENT),
				ResourceType: pbmtypes.PbmProfileResourceType{ResourceType: string(pbmtypes.PbmProfileResourceTypeEnumSTORAGE)},
			}})
		}
		return nil
	}
	return errors.New("vcsim has no manager of storage policies")
}

// PbmQueryAssociatedProfile implements the SOAP method: which policy a machine's folder or one of its disks carries.
func (p *profiles) PbmQueryAssociatedProfile(request *pbmtypes.PbmQueryAssociatedProfile) soap.HasFault {
	body := &pbmmethods.PbmQueryAssociatedProfileBody{Res: &pbmtypes.PbmQueryAssociatedProfileResponse{}}
	vm, disk, _ := strings.Cut(request.Entity.Key, ":")
	key := vm
	if request.Entity.ObjectType == string(pbmtypes.PbmObjectTypeVirtualDiskId) {
		key = p.v.placeOf(vm, disk)
	}
	if id, carries := p.v.policies.Load(key); carries {
		body.Res.Returnval = []pbmtypes.PbmProfileId{{UniqueId: fmt.Sprint(id)}}
	}
	return body
}

// placeOf names a disk by its VM and its place on a controller, which a request to add it has and its key is not.
func (v *VCenter) placeOf(vm, key string) string {
	found, ok := v.registry().Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: vm}).(*simulator.VirtualMachine)
	if !ok {
		return ""
	}
	for _, device := range found.Config.Hardware.Device {
		if base := device.GetVirtualDevice(); strconv.Itoa(int(base.Key)) == key {
			return diskPlace(vm, base)
		}
	}
	return ""
}

func diskPlace(vm string, disk *types.VirtualDevice) string {
	unit := int32(0)
	if disk.UnitNumber != nil {
		unit = *disk.UnitNumber
	}
	return fmt.Sprintf("%s/%d", vm, unit)
}

// carry remembers the policies that a reconfiguration names.
func (v *VCenter) carry(vm string, spec *types.VirtualMachineConfigSpec) {
	if id := profileOf(spec.VmProfile); id != "" {
		v.policies.Store(vm, id)
	}
	for _, change := range spec.DeviceChange {
		if disk, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk); ok {
			if id := profileOf(change.GetVirtualDeviceConfigSpec().Profile); id != "" {
				v.policies.Store(diskPlace(vm, &disk.VirtualDevice), id)
			}
		}
	}
}

func profileOf(specs []types.BaseVirtualMachineProfileSpec) string {
	for _, spec := range specs {
		if defined, ok := spec.(*types.VirtualMachineDefinedProfileSpec); ok {
			return defined.ProfileId
		}
	}
	return ""
}

// carryAll remembers the policy of a deployment: the new VM, by the answer that names it, and its disks carry it.
func (v *VCenter) carryAll(answer []byte, policy string) {
	var deployed struct {
		Value struct {
			ID *struct {
				ID string `json:"id"`
			} `json:"resource_id"`
		} `json:"value"`
	}
	if json.Unmarshal(answer, &deployed) != nil || deployed.Value.ID == nil {
		return
	}
	id := deployed.Value.ID.ID
	vm, ok := v.registry().Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: id}).(*simulator.VirtualMachine)
	if !ok {
		return
	}
	v.policies.Store(id, policy)
	for _, device := range vm.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			v.policies.Store(diskPlace(id, &disk.VirtualDevice), policy)
		}
	}
}
