package vsphereplugin

// The devices of a virtual machine: its SCSI controller, its disks and its network interfaces. Each function compares
// the devices that the machine has with those that it should have, and returns the changes.

import (
	"context"
	"fmt"
	"sort"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

type (
	devices = object.VirtualDeviceList
	changes = []types.BaseVirtualDeviceConfigSpec
)

const gib = int64(1) << 30

func diskFields() []field {
	return []field{
		{name: "label", kind: text, required: true},
		{name: "size", kind: integer, least: atLeast(1)},
		{name: "unitNumber", kind: integer, fallback: 0, least: atLeast(0)},
		{name: "datastoreId", kind: text, computed: true},
		{name: "path", kind: text, computed: true},
		{name: "diskMode", kind: text, fallback: "persistent", oneOf: []string{"persistent", "nonpersistent", "undoable",
			"independent_persistent", "independent_nonpersistent", "append"}},
		{name: "diskSharing", kind: text, fallback: "sharingNone", oneOf: []string{"sharingNone", "sharingMultiWriter"}},
		{name: "eagerlyScrub", kind: boolean, fallback: false},
		{name: "thinProvisioned", kind: boolean, fallback: true},
		{name: "writeThrough", kind: boolean, fallback: false},
		{name: "keepOnRemove", kind: boolean, fallback: false},
		{name: "ioLimit", kind: integer, fallback: -1, least: atLeast(-1)},
		{name: "ioReservation", kind: integer, fallback: 0, least: atLeast(0)},
		{name: "ioShareLevel", kind: text, fallback: "normal", oneOf: []string{"low", "normal", "high", "custom"}},
		{name: "ioShareCount", kind: integer, computed: true, least: atLeast(0)}, // means something for custom shares only
		{name: "attach", kind: boolean, fallback: false, unserved: true},
		{name: "controllerType", kind: text, fallback: "scsi", unserved: true},
		{name: "storagePolicyId", kind: text, computed: true},
		{name: "uuid", kind: text, output: true},
		{name: "key", kind: integer, output: true},
		{name: "deviceAddress", kind: text, output: true},
	}
}

func interfaceFields() []field {
	return []field{
		{name: "networkId", kind: text, required: true},
		{name: "adapterType", kind: text, fallback: "vmxnet3", oneOf: []string{"e1000", "e1000e", "vmxnet3"}},
		{name: "useStaticMac", kind: boolean},
		{name: "macAddress", kind: text, computed: true},
		{name: "ovfMapping", kind: text, replaces: true},
		{name: "bandwidthLimit", kind: integer, fallback: -1, least: atLeast(-1)},
		{name: "bandwidthReservation", kind: integer, fallback: 0, least: atLeast(0)},
		{name: "bandwidthShareLevel", kind: text, fallback: "normal", oneOf: []string{"low", "normal", "high", "custom"}},
		{name: "bandwidthShareCount", kind: integer, computed: true, least: atLeast(0)},
		{name: "physicalFunction", kind: text, unserved: true},
		{name: "externalPortId", kind: text, unserved: true},
		{name: "key", kind: integer, output: true},
		{name: "deviceAddress", kind: text, output: true},
	}
}

// firstController is the SCSI controller on bus 0, where all disks are.
func firstController(list devices) types.BaseVirtualSCSIController {
	for _, d := range list {
		if c, ok := d.(types.BaseVirtualSCSIController); ok && c.GetVirtualSCSIController().BusNumber == 0 {
			return c
		}
	}
	return nil
}

func scsiType(list devices) string {
	if c := firstController(list); c != nil {
		return list.Type(c.(types.BaseVirtualDevice)) //nolint:forcetypeassert // every controller is a device
	}
	return "<unknown>"
}

// controllerChanges gives the machine a SCSI controller of the wanted type; an image's own one of another type is
// swapped for it and its disks move over.
func controllerChanges(list devices, a attributes) (changes, error) {
	sharing := types.VirtualSCSISharing(a.text("scsiBusSharing"))
	now := firstController(list)
	if now != nil && scsiType(list) == a.text("scsiType") {
		if now.GetVirtualSCSIController().SharedBus == sharing {
			return nil, nil
		}
		now.GetVirtualSCSIController().SharedBus = sharing
		return devices{now.(types.BaseVirtualDevice)}.ConfigSpec(types.VirtualDeviceConfigSpecOperationEdit) //nolint:forcetypeassert // every controller is a device
	}
	next, err := list.CreateSCSIController(a.text("scsiType"))
	if err != nil {
		return nil, err
	}
	controller := next.(types.BaseVirtualSCSIController).GetVirtualSCSIController() //nolint:forcetypeassert // every controller is a device
	controller.SharedBus, controller.BusNumber = sharing, 0
	added, err := devices{next}.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	if now == nil || err != nil {
		return added, err
	}
	removed, err := devices{now.(types.BaseVirtualDevice)}.ConfigSpec(types.VirtualDeviceConfigSpecOperationRemove) //nolint:forcetypeassert // every controller is a device
	if err != nil {
		return nil, err
	}
	spec := append(removed, added...)
	for _, d := range list {
		if d.GetVirtualDevice().ControllerKey != now.GetVirtualSCSIController().Key {
			continue
		}
		d.GetVirtualDevice().ControllerKey = next.GetVirtualDevice().Key
		spec = append(spec, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: d})
	}
	return spec, nil
}

// disksOf returns the disks on the first SCSI controller, by unit number.
func disksOf(list devices) []*types.VirtualDisk {
	controller := firstController(list)
	var disks []*types.VirtualDisk
	for _, d := range list {
		if disk, ok := d.(*types.VirtualDisk); ok && controller != nil &&
			disk.ControllerKey == controller.GetVirtualSCSIController().Key {
			disks = append(disks, disk)
		}
	}
	sort.SliceStable(disks, func(i, j int) bool { return value(disks[i].UnitNumber) < value(disks[j].UnitNumber) })
	return disks
}

// unitNumber skips the unit that the controller has for itself.
func unitNumber(disk *types.VirtualDisk) int {
	unit := int(value(disk.UnitNumber))
	if unit > 7 {
		unit--
	}
	return unit
}

func backing(disk *types.VirtualDisk) (*types.VirtualDiskFlatVer2BackingInfo, error) {
	b, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return nil, fmt.Errorf("disk backing at scsi:0:%d is of an unsupported type (type %T)", value(disk.UnitNumber), disk.Backing)
	}
	return b, nil
}

// diskChanges compares by UUID, which a disk has once it was read; one without is matched by its unit number, as are
// the disks that a new machine has from its image.
func diskChanges(ctx context.Context, vc *vcenter, list devices, a attributes, old []attributes) (changes, error) {
	var spec changes
	kept := map[int32]bool{}
	for i, wanted := range a.blocks("disks") {
		disk, err := findDisk(list, wanted)
		if err != nil {
			return nil, fmt.Errorf("disk.%d: %w", i, err)
		}
		operation := types.VirtualDeviceConfigSpecOperationEdit
		if disk == nil {
			operation = types.VirtualDeviceConfigSpecOperationAdd
			if disk, err = newDisk(ctx, vc, list, wanted, a.text("datastoreId")); err != nil {
				return nil, fmt.Errorf("disk.%d: %w", i, err)
			}
			list = append(list, disk)
		}
		kept[disk.Key] = true
		if err := vetoDisk(old, wanted); err != nil {
			return nil, fmt.Errorf("disk.%d: %w", i, err)
		}
		changed, err := shapeDisk(disk, wanted)
		if err != nil {
			return nil, fmt.Errorf("disk.%d: %w", i, err)
		}
		policy := wanted.text("storagePolicyId")
		changed = changed || policy != "" && policy != policyBefore(old, wanted)
		if !changed && operation == types.VirtualDeviceConfigSpecOperationEdit {
			continue
		}
		change, err := devices{disk}.ConfigSpec(operation)
		if err != nil {
			return nil, err
		}
		change[0].GetVirtualDeviceConfigSpec().Profile = profile(policy)
		spec = append(spec, change...)
	}
	for _, gone := range old {
		disk, err := findDisk(list, gone)
		if err != nil || disk == nil || kept[disk.Key] {
			continue
		}
		change, err := devices{disk}.ConfigSpec(types.VirtualDeviceConfigSpecOperationRemove)
		if err != nil {
			return nil, err
		}
		if gone.flag("keepOnRemove") {
			change[0].GetVirtualDeviceConfigSpec().FileOperation = ""
		}
		spec = append(spec, change...)
	}
	return spec, nil
}

// policyBefore is the storage policy that a disk had; "" for a new one.
func policyBefore(old []attributes, wanted attributes) string {
	for _, disk := range old {
		if disk.text("label") == wanted.text("label") {
			return disk.text("storagePolicyId")
		}
	}
	return ""
}

// profile names a storage policy by its id; nothing for none.
func profile(id string) []types.BaseVirtualMachineProfileSpec {
	if id == "" {
		return nil
	}
	return []types.BaseVirtualMachineProfileSpec{&types.VirtualMachineDefinedProfileSpec{ProfileId: id}}
}

func findDisk(list devices, wanted attributes) (*types.VirtualDisk, error) {
	for _, disk := range disksOf(list) {
		b, err := backing(disk)
		if err != nil {
			return nil, err
		}
		if wanted.text("uuid") == b.Uuid || wanted.text("uuid") == "" && unitNumber(disk) == wanted.number("unitNumber") {
			return disk, nil
		}
	}
	return nil, nil
}

// vetoDisk refuses to change how an existing disk was laid out.
func vetoDisk(old []attributes, wanted attributes) error {
	for _, o := range old {
		if wanted.text("uuid") == "" || o.text("uuid") != wanted.text("uuid") {
			continue
		}
		for property, attribute := range map[string]string{"thinProvisioned": "thin_provisioned", "eagerlyScrub": "eagerly_scrub"} {
			if o.flag(property) != wanted.flag(property) {
				return fmt.Errorf("cannot change the value of %q - (old: %t newValue: %t)", attribute, o.flag(property), wanted.flag(property))
			}
		}
	}
	return nil
}

func newDisk(ctx context.Context, vc *vcenter, list devices, wanted attributes, machineDatastore string) (*types.VirtualDisk, error) {
	id := wanted.text("datastoreId")
	if id == "" {
		id = machineDatastore
	}
	name, err := object.NewDatastore(vc.Client.Client, ref("Datastore", id)).ObjectName(ctx)
	if err != nil {
		return nil, fmt.Errorf("datastore with ID %q: %w", id, err)
	}
	unit := int32(wanted.number("unitNumber")) //nolint:gosec // a small number
	if unit >= 7 {
		unit++
	}
	controller := firstController(list)
	if controller == nil {
		return nil, fmt.Errorf("could not find a SCSI controller on bus 0")
	}
	return &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: list.NewKey(),
		ControllerKey: controller.GetVirtualSCSIController().Key, UnitNumber: &unit,
		Backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[" + name + "]"},
			ThinProvisioned:              types.NewBool(wanted.flag("thinProvisioned")),
			EagerlyScrub:                 types.NewBool(wanted.flag("eagerlyScrub"))}}}, nil
}

// shapeDisk sets the wanted size and modes, and says whether that changed anything.
func shapeDisk(disk *types.VirtualDisk, wanted attributes) (bool, error) {
	b, err := backing(disk)
	if err != nil {
		return false, err
	}
	size := int64(wanted.number("size")) * gib
	if size < disk.CapacityInBytes {
		return false, fmt.Errorf("disk name %s must be at least the same size of source when cloning (expected: >= %d GiB)",
			wanted.text("label"), (disk.CapacityInBytes+gib-1)/gib)
	}
	before := readDisk(disk, b)
	disk.CapacityInBytes, disk.CapacityInKB = size, size/1024
	b.DiskMode, b.Sharing = wanted.text("diskMode"), wanted.text("diskSharing")
	b.WriteThrough = types.NewBool(wanted.flag("writeThrough"))
	disk.StorageIOAllocation = &types.StorageIOAllocationInfo{
		Limit:       types.NewInt64(int64(wanted.number("ioLimit"))),
		Reservation: types.NewInt32(int32(wanted.number("ioReservation"))), //nolint:gosec // a small number
		Shares: &types.SharesInfo{Level: types.SharesLevel(wanted.text("ioShareLevel")),
			Shares: int32(wanted.number("ioShareCount"))}, //nolint:gosec // a small number
	}
	return fmt.Sprint(before) != fmt.Sprint(readDisk(disk, b)), nil
}

func readDisk(disk *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) attributes {
	bytes := disk.CapacityInBytes
	if bytes == 0 {
		bytes = disk.CapacityInKB * 1024
	}
	out := attributes{
		"size": int(bytes / gib), "unitNumber": unitNumber(disk), "diskMode": b.DiskMode, "uuid": b.Uuid,
		"thinProvisioned": value(b.ThinProvisioned), "eagerlyScrub": value(b.EagerlyScrub),
		"writeThrough": value(b.WriteThrough), "controllerType": "scsi", "key": int(disk.Key),
		"deviceAddress": fmt.Sprintf("scsi:0:%d", value(disk.UnitNumber)),
	}
	if b.Sharing != "" { // blank where the hardware version knows no sharing
		out["diskSharing"] = b.Sharing
	}
	if b.Datastore != nil {
		out["datastoreId"] = b.Datastore.Value
	}
	var file object.DatastorePath
	if file.FromString(b.FileName) {
		out["path"] = file.Path
	}
	if io := disk.StorageIOAllocation; io != nil {
		out["ioLimit"], out["ioReservation"] = int(value(io.Limit)), int(value(io.Reservation))
		if io.Shares != nil {
			out["ioShareLevel"], out["ioShareCount"] = string(io.Shares.Level), int(io.Shares.Shares)
		}
	}
	return out
}

// readDisks keeps the label and the other things that only the state knows; a disk that nobody declared is shown
// under a label that says so, and is kept when it is removed.
func readDisks(list devices, prior []attributes) ([]any, error) {
	out := []any{}
	orphans := 0
	for _, disk := range disksOf(list) {
		b, err := backing(disk)
		if err != nil {
			return nil, err
		}
		var known attributes
		for _, p := range prior {
			if p.text("uuid") == b.Uuid || p.text("uuid") == "" && p.number("unitNumber") == unitNumber(disk) {
				known = p.clone()
			}
		}
		if known == nil {
			known = attributes{"label": fmt.Sprintf("orphaned_disk_%d", orphans), "keepOnRemove": true}
			orphans++
		}
		for name, v := range readDisk(disk, b) {
			known[name] = v
		}
		out = append(out, map[string]any(known))
	}
	return out, nil
}

func interfacesOf(list devices) devices {
	return list.Select(func(d types.BaseVirtualDevice) bool {
		_, ok := d.(types.BaseVirtualEthernetCard)
		return ok
	})
}

// networkOf is the id of the port group behind a card. A distributed port group's key is its id.
func networkOf(card *types.VirtualEthernetCard) string {
	switch b := card.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		if b.Network != nil {
			return b.Network.Value
		}
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		return b.Port.PortgroupKey
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		return b.OpaqueNetworkId
	}
	return ""
}

// interfaceChanges compares by position: the first card is the first interface. swapped tells of a card that had to
// be replaced because its type changed, which needs the machine off unless its tools are running.
func interfaceChanges(ctx context.Context, vc *vcenter, list devices, wanted []attributes) (spec changes, swapped bool, err error) {
	have := interfacesOf(list)
	for i, w := range wanted {
		var change changes
		switch {
		case i >= len(have):
			change, err = addInterface(ctx, vc, list, w)
		case adapterType(have[i]) != w.text("adapterType"):
			swapped = true
			if change, err = (devices{have[i]}).ConfigSpec(types.VirtualDeviceConfigSpecOperationRemove); err == nil {
				var added changes
				added, err = addInterface(ctx, vc, list, w)
				change = append(change, added...)
			}
		default:
			change, err = editInterface(ctx, vc, have[i], w)
		}
		if err != nil {
			return nil, false, fmt.Errorf("network_interface.%d: %w", i, err)
		}
		spec = append(spec, change...)
	}
	for _, extra := range have[min(len(wanted), len(have)):] {
		change, err := devices{extra}.ConfigSpec(types.VirtualDeviceConfigSpecOperationRemove)
		if err != nil {
			return nil, false, err
		}
		spec = append(spec, change...)
	}
	return spec, swapped, nil
}

func adapterType(device types.BaseVirtualDevice) string {
	switch device.(type) {
	case *types.VirtualVmxnet3:
		return "vmxnet3"
	case *types.VirtualE1000:
		return "e1000"
	case *types.VirtualE1000e:
		return "e1000e"
	default:
		return "unknown" // differs from every type that can be wanted
	}
}

func addInterface(ctx context.Context, vc *vcenter, list devices, w attributes) (changes, error) {
	network, err := vc.network(ctx, w.text("networkId"))
	if err != nil {
		return nil, err
	}
	backing, err := network.EthernetCardBackingInfo(ctx)
	if err != nil {
		return nil, err
	}
	card, err := list.CreateEthernetCard(w.text("adapterType"), backing)
	if err != nil {
		return nil, err
	}
	shapeInterface(card, w)
	return devices{card}.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
}

func editInterface(ctx context.Context, vc *vcenter, device types.BaseVirtualDevice, w attributes) (changes, error) {
	card := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard() //nolint:forcetypeassert // a network card
	now := readInterface(device)
	same := true
	for _, f := range interfaceFields() {
		if _, told := now[f.name]; told && !f.output && !equal(f, encode(now[f.name]), encode(w[f.name])) {
			same = same && f.computed && w[f.name] == nil
		}
	}
	if same {
		return nil, nil
	}
	if now.text("networkId") != w.text("networkId") {
		network, err := vc.network(ctx, w.text("networkId"))
		if err != nil {
			return nil, err
		}
		if card.Backing, err = network.EthernetCardBackingInfo(ctx); err != nil {
			return nil, err
		}
	}
	shapeInterface(device, w)
	return devices{device}.ConfigSpec(types.VirtualDeviceConfigSpecOperationEdit)
}

func shapeInterface(device types.BaseVirtualDevice, w attributes) {
	card := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard() //nolint:forcetypeassert // a network card
	if w.flag("useStaticMac") {
		card.AddressType, card.MacAddress = string(types.VirtualEthernetCardMacTypeManual), w.text("macAddress")
	} else {
		card.AddressType = string(types.VirtualEthernetCardMacTypeAssigned)
	}
	card.ResourceAllocation = &types.VirtualEthernetCardResourceAllocation{
		Limit:       types.NewInt64(int64(w.number("bandwidthLimit"))),
		Reservation: types.NewInt64(int64(w.number("bandwidthReservation"))),
		Share: types.SharesInfo{Level: types.SharesLevel(w.text("bandwidthShareLevel")),
			Shares: int32(w.number("bandwidthShareCount"))}, //nolint:gosec // a small number
	}
}

func readInterface(device types.BaseVirtualDevice) attributes {
	card := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard() //nolint:forcetypeassert // a network card
	out := attributes{
		"networkId": networkOf(card), "adapterType": adapterType(device), "macAddress": card.MacAddress,
		"useStaticMac":  card.AddressType == string(types.VirtualEthernetCardMacTypeManual),
		"key":           int(card.Key),
		"deviceAddress": fmt.Sprintf("pci:0:%d", value(card.UnitNumber)),
	}
	if r := card.ResourceAllocation; r != nil {
		out["bandwidthLimit"], out["bandwidthReservation"] = int(value(r.Limit)), int(value(r.Reservation))
		out["bandwidthShareLevel"], out["bandwidthShareCount"] = string(r.Share.Level), int(r.Share.Shares)
	}
	return out
}

func readInterfaces(list devices, prior []attributes) []any {
	out := []any{}
	for i, d := range interfacesOf(list) {
		known := attributes{}
		if i < len(prior) {
			known = prior[i].clone()
		}
		for name, v := range readInterface(d) {
			known[name] = v
		}
		out = append(out, map[string]any(known))
	}
	return out
}
