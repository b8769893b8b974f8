package vsphereplugin

// Virtual machines: cloned from a content library's item or from a template, then given their configuration and
// devices, then powered on. An update powers a machine off only when one of its changes needs that.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/pbm"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	govproperty "github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vapi/library"
	ovf "github.com/vmware/govmomi/vapi/vcenter"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func virtualMachine() resource {
	fields := []field{
		{name: "resourcePoolId", kind: text, required: true},
		{name: "datastoreId", kind: text, computed: true},
		{name: "storagePolicyId", kind: text, computed: true},
		{name: "folder", kind: text, same: normalPath},
		{name: "hostSystemId", kind: text, computed: true},
		{name: "hardwareVersion", kind: integer, computed: true},
		{name: "extraConfig", kind: textMap},
		{name: "extraConfigRebootRequired", kind: boolean, fallback: true},
		{name: "replaceTrigger", kind: text, replaces: true},
		{name: "clone", kind: block, fields: []field{
			{name: "templateUuid", kind: text, required: true, replaces: true},
			{name: "linkedClone", kind: boolean, replaces: true},
			{name: "timeout", kind: integer, fallback: 30, least: atLeast(10)},
			{name: "ovfNetworkMap", kind: textMap, unserved: true},
			{name: "ovfStorageMap", kind: textMap, unserved: true},
			{name: "customize", kind: block, unserved: true},
			{name: "customizationSpec", kind: block, unserved: true},
		}},
		{name: "disks", kind: blocks, computed: true, key: "label", fields: diskFields()},
		{name: "networkInterfaces", kind: blocks, fields: interfaceFields()},
		{name: "scsiType", kind: text, fallback: "pvscsi", oneOf: []string{"lsilogic", "lsilogic-sas", "pvscsi"}},
		{name: "scsiBusSharing", kind: text, fallback: "noSharing", oneOf: []string{"noSharing", "physicalSharing", "virtualSharing"}},
		{name: "waitForGuestIpTimeout", kind: integer, fallback: 0},
		{name: "waitForGuestNetTimeout", kind: integer, fallback: 5},
		{name: "waitForGuestNetRoutable", kind: boolean, fallback: true},
		{name: "ignoredGuestIps", kind: texts},
		{name: "shutdownWaitTimeout", kind: integer, fallback: 3, least: atLeast(1)},
		{name: "migrateWaitTimeout", kind: integer, fallback: 30, least: atLeast(10)},
		{name: "poweronTimeout", kind: integer, fallback: 300, least: atLeast(300)},
		{name: "forcePowerOff", kind: boolean, fallback: true},
		tagsField,

		{name: "scsiControllerCount", kind: integer, fallback: 1, unserved: true},
		{name: "sataControllerCount", kind: integer, fallback: 0, unserved: true},
		{name: "ideControllerCount", kind: integer, fallback: 2, unserved: true},
		{name: "nvmeControllerCount", kind: integer, fallback: 0, unserved: true},
		attributesField,

		{name: "changeVersion", kind: text, output: true},
		{name: "defaultIpAddress", kind: text, output: true},
		{name: "guestIpAddresses", kind: texts, output: true},
		{name: "imported", kind: boolean, output: true},
		{name: "moid", kind: text, output: true},
		{name: "powerState", kind: text, output: true},
		{name: "rebootRequired", kind: boolean, output: true},
		{name: "uuid", kind: text, output: true},
		{name: "vappTransports", kind: texts, output: true},
		{name: "vmwareToolsStatus", kind: text, output: true},
		{name: "vmxPath", kind: text, output: true},
	}
	for _, name := range []string{"cdroms", "datacenterId", "datastoreClusterId", "datastorePath", "evcMode",
		"numCoresPerNumaNode", "ovfDeploy", "pciDeviceIds", "vapp", "videoCard", "vtpm"} {
		fields = append(fields, field{name: name, kind: text, unserved: true})
	}
	for _, s := range machineSettings() {
		fields = append(fields, s.field)
	}
	return resource{
		token: "vsphere:index/virtualMachine:VirtualMachine", fields: fields, autoName: true,
		create: createMachine, read: readMachine, update: updateMachine, delete: deleteMachine, find: importMachine,
		plan: planMachine,
		// An imported machine has no clone in its state: declaring one must not rebuild it.
		relax: func(state property.Map, d differ) {
			for path, change := range d {
				imported := state.Get("imported").IsBool() && state.Get("imported").AsBool()
				if imported && (path == "clone" || strings.HasPrefix(path, "clone.")) && strings.HasSuffix(string(change.Kind), "&replace") {
					d[path] = p.PropertyDiff{Kind: p.DiffKind(strings.TrimSuffix(string(change.Kind), "&replace"))}
				}
			}
		},
	}
}

func createMachine(ctx context.Context, vc *vcenter, a attributes) (string, error) {
	if a.block("clone") == nil {
		return "", errors.New("clone: the lab's stand-in for the vsphere plugin makes machines from a content library's " +
			"item or a template only; set clone.templateUuid")
	}
	vm, err := cloneMachine(ctx, vc, a)
	if err != nil {
		return "", err
	}
	if err := shapeClone(ctx, vc, vm, a); err != nil {
		// Half a machine is of no use to anyone: the published plugin takes it away again too.
		if undo := destroyMachine(context.WithoutCancel(ctx), vm); undo != nil {
			return "", fmt.Errorf("error reconfiguring virtual machine: %w; and removing it failed: %w", err, undo)
		}
		return "", fmt.Errorf("error reconfiguring virtual machine: %w", err)
	}
	uuid := vm.UUID(ctx)
	if err := powerOn(ctx, vm, a); err != nil {
		return uuid, err
	}
	if err := vc.setTags(ctx, vm, nil, a.texts("tags")); err != nil {
		return uuid, err
	}
	return uuid, waitForGuest(ctx, vc, vm, a)
}

// cloneMachine leaves a machine that is powered off and looks like its image.
func cloneMachine(ctx context.Context, vc *vcenter, a attributes) (*object.VirtualMachine, error) {
	clone := a.block("clone")
	ctx, cancel := context.WithTimeout(ctx, time.Duration(clone.number("timeout"))*time.Minute)
	defer cancel()
	folder, err := vc.vmFolder(ctx, a.text("resourcePoolId"), a.text("folder"))
	if err != nil {
		return nil, err
	}
	if _, err := find.NewFinder(vc.Client.Client).ObjectReference(ctx, ref("Datastore", a.text("datastoreId"))); err != nil {
		return nil, fmt.Errorf("error locating datastore for VM: %w", err)
	}
	item, err := library.NewManager(vc.rest).GetLibraryItem(ctx, clone.text("templateUuid"))
	if err == nil {
		return deployItem(ctx, vc, item, folder, a)
	}
	template, err := vc.machine(ctx, clone.text("templateUuid"))
	if errors.Is(err, errGone) {
		return nil, fmt.Errorf("cannot locate virtual machine or template with UUID %q: virtual machine with UUID %q not found",
			clone.text("templateUuid"), clone.text("templateUuid"))
	} else if err != nil {
		return nil, err
	}
	return cloneTemplate(ctx, vc, template, folder, a)
}

func deployItem(ctx context.Context, vc *vcenter, item *library.Item, folder *object.Folder, a attributes) (*object.VirtualMachine, error) {
	if item.Type != library.ItemTypeOVF {
		return nil, fmt.Errorf("unsupported library item type: %s", item.Type)
	}
	provisioning := "thick"
	if disks := a.blocks("disks"); len(disks) > 0 && disks[0].flag("thinProvisioned") {
		provisioning = "thin"
	} else if len(disks) > 0 && disks[0].flag("eagerlyScrub") {
		provisioning = "eagerZeroedThick"
	}
	deploy := ovf.Deploy{
		DeploymentSpec: ovf.DeploymentSpec{Name: a.text("name"), Annotation: a.text("annotation"), AcceptAllEULA: true,
			DefaultDatastoreID: a.text("datastoreId"), StorageProvisioning: provisioning, StorageProfileID: a.text("storagePolicyId")},
		Target: ovf.Target{ResourcePoolID: a.text("resourcePoolId"), HostID: a.text("hostSystemId"),
			FolderID: folder.Reference().Value},
	}
	for _, nic := range a.blocks("networkInterfaces") {
		if nic.text("ovfMapping") != "" {
			deploy.NetworkMappings = append(deploy.NetworkMappings,
				ovf.NetworkMapping{Key: nic.text("ovfMapping"), Value: nic.text("networkId")})
		}
	}
	vm, err := ovf.NewManager(vc.rest).DeployLibraryItem(ctx, item.ID, deploy)
	if err != nil {
		return nil, fmt.Errorf("deploying %s from content library item %s: %w", a.text("name"), item.Name, err)
	}
	return object.NewVirtualMachine(vc.Client.Client, *vm), nil
}

func cloneTemplate(ctx context.Context, vc *vcenter, template *object.VirtualMachine, folder *object.Folder, a attributes) (*object.VirtualMachine, error) {
	if a.block("clone").flag("linkedClone") {
		return nil, errors.New("clone.linkedClone is not served by the lab's stand-in for the vsphere plugin")
	}
	var props mo.VirtualMachine
	if err := template.Properties(ctx, template.Reference(), []string{"config"}, &props); err != nil {
		return nil, err
	}
	if props.Config.GuestId != a.text("guestId") {
		return nil, fmt.Errorf("invalid guest ID %q for clone. Please set it to %q", a.text("guestId"), props.Config.GuestId)
	}
	pool, datastore := ref("ResourcePool", a.text("resourcePoolId")), ref("Datastore", a.text("datastoreId"))
	spec := types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &pool, Datastore: &datastore}}
	if id := a.text("hostSystemId"); id != "" {
		spec.Location.Host = types.New(ref("HostSystem", id))
	}
	task, err := template.Clone(ctx, folder, a.text("name"), spec)
	if err != nil {
		return nil, fmt.Errorf("error cloning virtual machine: %w", err)
	}
	done, err := task.WaitForResult(ctx)
	if err != nil {
		return nil, fmt.Errorf("error cloning virtual machine: %w", err)
	}
	return object.NewVirtualMachine(vc.Client.Client, done.Result.(types.ManagedObjectReference)), nil //nolint:forcetypeassert // what cloning gives
}

// shapeClone gives a new machine its configuration: the controller first, because the disks hang on it.
func shapeClone(ctx context.Context, vc *vcenter, vm *object.VirtualMachine, a attributes) error {
	list, err := vm.Device(ctx)
	if err != nil {
		return err
	}
	spec := machineSpec(a)
	spec.ExtraConfig = extraConfigChanges(nil, a.block("extraConfig"))
	if spec.DeviceChange, err = controllerChanges(list, a); err != nil {
		return err
	}
	task, err := vm.Reconfigure(ctx, spec)
	if err := finish(ctx, task, err); err != nil {
		return err
	}
	if list, err = vm.Device(ctx); err != nil {
		return err
	}
	if have := len(disksOf(list)); have > len(a.blocks("disks")) {
		return fmt.Errorf("not enough disks in configuration - you need at least %d to use this template (current: %d)",
			have, len(a.blocks("disks")))
	}
	spec = configSpec{}
	disks, err := diskChanges(ctx, vc, list, a, nil)
	if err != nil {
		return fmt.Errorf("error processing disk changes post-clone: %w", err)
	}
	cards, _, err := interfaceChanges(ctx, vc, list, a.blocks("networkInterfaces"))
	if err != nil {
		return fmt.Errorf("error processing network device changes post-clone: %w", err)
	}
	if spec.DeviceChange = slices.Concat(disks, cards); len(spec.DeviceChange) > 0 {
		task, err := vm.Reconfigure(ctx, spec)
		if err := finish(ctx, task, err); err != nil {
			return err
		}
	}
	return upgradeHardware(ctx, vm, a.number("hardwareVersion"))
}

func upgradeHardware(ctx context.Context, vm *object.VirtualMachine, target int) error {
	var props mo.VirtualMachine
	if err := vm.Properties(ctx, vm.Reference(), []string{"config.version"}, &props); err != nil {
		return err
	}
	if target <= hardwareVersion(props.Config.Version) {
		return nil
	}
	task, err := vm.UpgradeVM(ctx, fmt.Sprintf("vmx-%02d", target))
	return finish(ctx, task, err)
}

func powerOn(ctx context.Context, vm *object.VirtualMachine, a attributes) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.number("poweronTimeout"))*time.Second)
	defer cancel()
	task, err := vm.PowerOn(ctx)
	if err := finish(ctx, task, err); err != nil {
		return fmt.Errorf("error powering on virtual machine: %w", err)
	}
	return nil
}

// powerOff asks the guest first where its tools are running, and pulls the plug where they are not or do not answer.
func powerOff(ctx context.Context, vm *object.VirtualMachine, minutes int, force bool) error {
	var props mo.VirtualMachine
	if err := vm.Properties(ctx, vm.Reference(), []string{"runtime.powerState", "guest.toolsRunningStatus"}, &props); err != nil {
		return err
	}
	if props.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
		return nil
	}
	tools := string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	if props.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && props.Guest != nil && props.Guest.ToolsRunningStatus == tools {
		patience, cancel := context.WithTimeout(ctx, time.Duration(max(minutes, 1))*time.Minute)
		defer cancel()
		err := vm.ShutdownGuest(patience)
		if err == nil {
			err = vm.WaitForPowerState(patience, types.VirtualMachinePowerStatePoweredOff)
		}
		if err == nil {
			return nil
		}
		if !force && errors.Is(patience.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("the guest did not shut down within %d minutes and forcePowerOff is off: %w", minutes, err)
		}
	}
	task, err := vm.PowerOff(ctx)
	return finish(ctx, task, err)
}

func updateMachine(ctx context.Context, vc *vcenter, id string, old, wanted attributes) error {
	vm, err := vc.machine(ctx, id)
	if err != nil {
		return fmt.Errorf("cannot locate virtual machine with UUID %q: %w", id, err)
	}
	wanted["imported"] = false
	if err := placeMachine(ctx, vc, vm, old, wanted); err != nil {
		return err
	}
	if err := vc.setTags(ctx, vm, old.texts("tags"), wanted.texts("tags")); err != nil {
		return err
	}
	if err := reconfigureMachine(ctx, vc, vm, old, wanted); err != nil {
		return err
	}
	return migrateMachine(ctx, vm, old, wanted)
}

// placeMachine moves the machine in the inventory: to another resource pool and to another folder.
func placeMachine(ctx context.Context, vc *vcenter, vm *object.VirtualMachine, old, wanted attributes) error {
	if wanted.text("resourcePoolId") != old.text("resourcePoolId") {
		if err := moveIntoPool(ctx, vc, wanted.text("resourcePoolId"), vm.Reference()); err != nil {
			return err
		}
	}
	if normalPath(wanted.text("folder")) == normalPath(old.text("folder")) {
		return nil
	}
	folder, err := vc.vmFolder(ctx, wanted.text("resourcePoolId"), wanted.text("folder"))
	if err != nil {
		return fmt.Errorf("could not move virtual machine to folder %q: %w", wanted.text("folder"), err)
	}
	task, err := folder.MoveInto(ctx, []types.ManagedObjectReference{vm.Reference()})
	if err := finish(ctx, task, err); err != nil {
		return fmt.Errorf("could not move virtual machine to folder %q: %w", wanted.text("folder"), err)
	}
	return nil
}

// reconfigureMachine changes configuration and devices, with the machine off where that is needed, and leaves it on.
func reconfigureMachine(ctx context.Context, vc *vcenter, vm *object.VirtualMachine, old, wanted attributes) error {
	list, err := vm.Device(ctx)
	if err != nil {
		return err
	}
	bus, err := controllerChanges(list, wanted)
	if err != nil {
		return err
	}
	disks, err := diskChanges(ctx, vc, list, wanted, old.blocks("disks"))
	if err != nil {
		return err
	}
	cards, swapped, err := interfaceChanges(ctx, vc, list, wanted.blocks("networkInterfaces"))
	if err != nil {
		return err
	}
	spec := machineSpec(wanted)
	spec.ExtraConfig = extraConfigChanges(old.block("extraConfig"), wanted.block("extraConfig"))
	spec.DeviceChange = slices.Concat(bus, disks, cards)
	upgrade := wanted.number("hardwareVersion") > old.number("hardwareVersion")
	policy := wanted.text("storagePolicyId") != old.text("storagePolicyId")
	if len(changedSettings(old, wanted))+len(spec.ExtraConfig)+len(spec.DeviceChange) == 0 && !upgrade && !policy {
		return nil
	}
	tools := old.text("vmwareToolsStatus") == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	if needsPowerOff(old, wanted) || len(bus) > 0 || swapped && !tools {
		if err := powerOff(ctx, vm, wanted.number("shutdownWaitTimeout"), wanted.flag("forcePowerOff")); err != nil {
			return fmt.Errorf("error shutting down virtual machine: %w", err)
		}
	}
	task, err := vm.Reconfigure(ctx, spec)
	if err := finish(ctx, task, err); err != nil {
		return err
	}
	if err := upgradeHardware(ctx, vm, wanted.number("hardwareVersion")); err != nil {
		return err
	}
	state, err := vm.PowerState(ctx)
	if err != nil || state == types.VirtualMachinePowerStatePoweredOn {
		return err
	}
	if err := powerOn(ctx, vm, wanted); err != nil {
		return err
	}
	return waitForGuest(ctx, vc, vm, wanted)
}

// migrateMachine moves a machine to another host or datastore.
func migrateMachine(ctx context.Context, vm *object.VirtualMachine, old, wanted attributes) error {
	host, datastore := wanted.text("hostSystemId"), wanted.text("datastoreId")
	if host == old.text("hostSystemId") && datastore == old.text("datastoreId") {
		return nil
	}
	pool := ref("ResourcePool", wanted.text("resourcePoolId"))
	spec := types.VirtualMachineRelocateSpec{Pool: &pool}
	if host != "" {
		spec.Host = types.New(ref("HostSystem", host))
	}
	if datastore != "" {
		spec.Datastore = types.New(ref("Datastore", datastore))
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(wanted.number("migrateWaitTimeout"))*time.Minute)
	defer cancel()
	task, err := vm.Relocate(ctx, spec, types.VirtualMachineMovePriorityDefaultPriority)
	if err := finish(ctx, task, err); err != nil {
		return fmt.Errorf("error running VM migration: %w", err)
	}
	return nil
}

func deleteMachine(ctx context.Context, vc *vcenter, id string, old attributes) error {
	vm, err := vc.machine(ctx, id)
	if err != nil {
		return fmt.Errorf("cannot locate virtual machine with UUID %q: %w", id, err)
	}
	if err := powerOff(ctx, vm, old.number("shutdownWaitTimeout"), true); err != nil {
		return fmt.Errorf("error shutting down virtual machine: %w", err)
	}
	list, err := vm.Device(ctx)
	if err != nil {
		return err
	}
	var keep []attributes
	for _, disk := range old.blocks("disks") {
		if disk.flag("keepOnRemove") {
			keep = append(keep, disk)
		}
	}
	detach, err := diskChanges(ctx, vc, list, nil, keep)
	if err != nil {
		return err
	}
	if len(detach) > 0 {
		task, err := vm.Reconfigure(ctx, configSpec{DeviceChange: detach})
		if err := finish(ctx, task, err); err != nil {
			return fmt.Errorf("error detaching virtual disks: %w", err)
		}
	}
	return destroyMachine(ctx, vm)
}

func destroyMachine(ctx context.Context, vm *object.VirtualMachine) error {
	task, err := vm.Destroy(ctx)
	if err := finish(ctx, task, err); err != nil {
		return fmt.Errorf("error destroying virtual machine: %w", err)
	}
	return nil
}

func readMachine(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
	vm, err := vc.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	var props mo.VirtualMachine
	err = vc.RetrieveOne(ctx, vm.Reference(), []string{"config", "guest", "runtime", "resourcePool", "datastore"}, &props)
	if isGone(err) {
		return nil, errGone
	} else if err != nil {
		return nil, fmt.Errorf("error fetching VM properties: %w", err)
	}
	if props.Config == nil {
		return nil, fmt.Errorf("virtual machine with UUID %q has no configuration: is it inaccessible?", id)
	}
	out := prior.clone()
	for _, s := range machineSettings() {
		out[s.name] = s.read(props.Config)
	}
	out["moid"], out["uuid"] = vm.Reference().Value, props.Config.Uuid
	out["changeVersion"], out["rebootRequired"] = props.Config.ChangeVersion, false
	out["hardwareVersion"] = hardwareVersion(props.Config.Version)
	out["imported"] = prior.flag("imported")
	out["powerState"] = map[types.VirtualMachinePowerState]string{types.VirtualMachinePowerStatePoweredOn: "on",
		types.VirtualMachinePowerStatePoweredOff: "off", types.VirtualMachinePowerStateSuspended: "suspended"}[props.Runtime.PowerState]
	out["vappTransports"] = []any{}
	if props.Config.VAppConfig != nil {
		out["vappTransports"] = listOf(props.Config.VAppConfig.GetVmConfigInfo().OvfEnvironmentTransport)
	}
	if err := readPlace(ctx, vc, vm.Reference(), &props, out); err != nil {
		return nil, err
	}
	readExtraConfig(props.Config.ExtraConfig, prior, out)
	list := devices(props.Config.Hardware.Device)
	out["scsiType"] = scsiType(list)
	if c := firstController(list); c != nil {
		out["scsiBusSharing"] = string(c.GetVirtualSCSIController().SharedBus)
	}
	if out["disks"], err = readDisks(list, prior.blocks("disks")); err != nil {
		return nil, err
	}
	if err := readPolicies(ctx, vc, vm.Reference().Value, out); err != nil {
		return nil, err
	}
	out["networkInterfaces"] = readInterfaces(list, prior.blocks("networkInterfaces"))
	if out["tags"], err = vc.tags(ctx, vm); err != nil {
		return nil, err
	}
	readGuest(props.Guest, out)
	return out, nil
}

// readPolicies asks which storage policies the machine's folder and its disks carry.
func readPolicies(ctx context.Context, vc *vcenter, vm string, out attributes) error {
	client, err := pbm.NewClient(ctx, vc.Client.Client)
	if err != nil {
		return err
	}
	policy := func(kind pbmtypes.PbmObjectType, key string) (string, error) {
		ids, err := client.QueryAssociatedProfile(ctx, pbmtypes.PbmServerObjectRef{ObjectType: string(kind), Key: key})
		if err != nil || len(ids) == 0 {
			return "", err
		}
		return ids[0].UniqueId, nil
	}
	if out["storagePolicyId"], err = policy(pbmtypes.PbmObjectTypeVirtualMachine, vm); err != nil {
		return err
	}
	for _, disk := range out.blocks("disks") {
		key := fmt.Sprintf("%s:%d", vm, disk.number("key"))
		if disk["storagePolicyId"], err = policy(pbmtypes.PbmObjectTypeVirtualDiskId, key); err != nil {
			return err
		}
	}
	return nil
}

// readPlace fills in where the machine is: pool, host, folder, datastore.
func readPlace(ctx context.Context, vc *vcenter, vm types.ManagedObjectReference, props *mo.VirtualMachine, out attributes) error {
	if props.ResourcePool != nil {
		out["resourcePoolId"] = props.ResourcePool.Value
	}
	if props.Runtime.Host != nil {
		out["hostSystemId"] = props.Runtime.Host.Value
	}
	in, err := vc.inventory(ctx, vm)
	if err != nil {
		return fmt.Errorf("error parsing virtual machine path: %w", err)
	}
	out["folder"] = in.folder
	var file object.DatastorePath
	if !file.FromString(props.Config.Files.VmPathName) {
		return fmt.Errorf("could not parse VMX file path: %s", props.Config.Files.VmPathName)
	}
	out["vmxPath"] = file.Path
	for _, d := range props.Datastore {
		name, err := object.NewDatastore(vc.Client.Client, d).ObjectName(ctx)
		if err != nil {
			return fmt.Errorf("error locating VMX datastore: %w", err)
		}
		if name == file.Datastore {
			out["datastoreId"] = d.Value
			return nil
		}
	}
	return fmt.Errorf("VMX datastore %s not found", file.Datastore)
}

// readExtraConfig only looks at the entries that the program set: vCenter and the guest add their own.
func readExtraConfig(entries []types.BaseOptionValue, prior, out attributes) {
	known := prior.block("extraConfig")
	if known == nil {
		return
	}
	found := map[string]any{}
	for _, e := range entries {
		o := e.GetOptionValue()
		if _, ours := known[o.Key]; ours {
			found[o.Key] = fmt.Sprint(o.Value)
		}
	}
	out["extraConfig"] = found
}

// readGuest reports what the guest's tools tell; without tools there are no addresses.
func readGuest(guest *types.GuestInfo, out attributes) {
	out["guestIpAddresses"] = []any{}
	delete(out, "defaultIpAddress")
	if guest == nil {
		return
	}
	out["vmwareToolsStatus"] = guest.ToolsRunningStatus
	cards := slices.Clone(guest.Net)
	sort.SliceStable(cards, func(i, j int) bool { return cards[i].DeviceConfigId < cards[j].DeviceConfigId })
	var addresses []string
	primary := ""
	for _, card := range cards {
		if card.IpConfig == nil {
			continue
		}
		for _, a := range card.IpConfig.IpAddress {
			addresses = append(addresses, a.IpAddress)
			if primary == "" && slices.ContainsFunc(gateways(guest), func(g netip.Addr) bool { return holds(a, g) }) {
				primary = a.IpAddress
			}
		}
	}
	if len(addresses) == 0 && guest.IpAddress != "" {
		addresses = []string{guest.IpAddress}
	}
	if len(addresses) == 0 {
		return
	}
	if primary == "" {
		primary = addresses[0]
	}
	out["guestIpAddresses"], out["defaultIpAddress"] = listOf(addresses), primary
}

// gateways are those of the guest's default routes, IPv4 first.
func gateways(guest *types.GuestInfo) []netip.Addr {
	var found []netip.Addr
	for _, stack := range guest.IpStack {
		if stack.IpRouteConfig == nil {
			continue
		}
		for _, route := range stack.IpRouteConfig.IpRoute {
			if route.PrefixLength != 0 || route.Network != "0.0.0.0" && route.Network != "::" {
				continue
			}
			if g, err := netip.ParseAddr(route.Gateway.IpAddress); err == nil {
				found = append(found, g)
			}
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].Is4() && !found[j].Is4() })
	return found
}

// holds says whether the network of an address holds a gateway.
func holds(a types.NetIpConfigInfoIpAddress, gateway netip.Addr) bool {
	prefix, err := netip.ParsePrefix(fmt.Sprintf("%s/%d", a.IpAddress, a.PrefixLength))
	return err == nil && prefix.Masked().Contains(gateway)
}

// waitForGuest waits, in minutes, for addresses that the guest's tools report; timeouts below one turn it off.
func waitForGuest(ctx context.Context, vc *vcenter, vm *object.VirtualMachine, a attributes) error {
	ignored, err := ignoredAddresses(a.texts("ignoredGuestIps"))
	if err != nil {
		return err
	}
	usable := func(text string) bool {
		ip, err := netip.ParseAddr(text)
		return err == nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() &&
			!slices.ContainsFunc(ignored, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	if err := waitUntil(ctx, vc, vm, a.number("waitForGuestIpTimeout"), "an available IP address", func(g *types.GuestInfo) bool {
		return usable(g.IpAddress)
	}); err != nil {
		return err
	}
	return waitUntil(ctx, vc, vm, a.number("waitForGuestNetTimeout"), "an available guest network", func(g *types.GuestInfo) bool {
		for _, card := range g.Net {
			if card.IpConfig == nil {
				continue
			}
			for _, ip := range card.IpConfig.IpAddress {
				routable := !a.flag("waitForGuestNetRoutable") ||
					slices.ContainsFunc(gateways(g), func(gw netip.Addr) bool { return holds(ip, gw) })
				if routable && usable(ip.IpAddress) {
					return true
				}
			}
		}
		return false
	})
}

func ignoredAddresses(given []string) ([]netip.Prefix, error) {
	var ignored []netip.Prefix
	for _, text := range given {
		prefix, err := netip.ParsePrefix(text)
		if addr, plain := netip.ParseAddr(text); plain == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, &net.ParseError{Type: "address or CIDR network in ignoredGuestIps", Text: text}
		}
		ignored = append(ignored, prefix)
	}
	return ignored, nil
}

func waitUntil(ctx context.Context, vc *vcenter, vm *object.VirtualMachine, minutes int, what string, ready func(*types.GuestInfo) bool) error {
	if minutes < 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(minutes)*time.Minute)
	defer cancel()
	guest := &types.GuestInfo{}
	err := govproperty.Wait(ctx, vc.PropertyCollector(), vm.Reference(), []string{"guest.net", "guest.ipStack", "guest.ipAddress"},
		func(changes []types.PropertyChange) bool {
			for _, c := range changes {
				switch v := c.Val.(type) {
				case types.ArrayOfGuestNicInfo:
					guest.Net = v.GuestNicInfo
				case types.ArrayOfGuestStackInfo:
					guest.IpStack = v.GuestStackInfo
				case string:
					guest.IpAddress = v
				}
			}
			return ready(guest)
		})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("timeout waiting for %s", what)
	}
	return err
}

// importMachine finds a machine by its inventory path. Its disks get the labels that vCenter shows ("Hard disk 1").
func importMachine(ctx context.Context, vc *vcenter, given string, prior attributes) (string, error) {
	vm, err := find.NewFinder(vc.Client.Client).VirtualMachine(ctx, given)
	if err != nil {
		return "", fmt.Errorf("error fetching virtual machine: %w", err)
	}
	var props mo.VirtualMachine
	if err := vc.RetrieveOne(ctx, vm.Reference(), []string{"config"}, &props); err != nil {
		return "", fmt.Errorf("error fetching virtual machine properties: %w", err)
	}
	if props.Config.Template {
		return "", fmt.Errorf("VM %q is a template and cannot be imported", given)
	}
	disks := []any{}
	for i, disk := range disksOf(props.Config.Hardware.Device) {
		known := map[string]any{"label": fmt.Sprintf("disk%d", i), "keepOnRemove": true, "unitNumber": unitNumber(disk)}
		if disk.DeviceInfo != nil && disk.DeviceInfo.GetDescription().Label != "" {
			known["label"], known["keepOnRemove"] = disk.DeviceInfo.GetDescription().Label, false
		}
		disks = append(disks, known)
	}
	prior["disks"], prior["imported"] = disks, true
	return props.Config.Uuid, nil
}
