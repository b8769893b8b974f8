package vsphereplugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	pschema "github.com/pulumi/pulumi/pkg/v3/codegen/schema"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	rpcplugin "github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/vmware/govmomi/vim25/types"

	vcentersim "platform.lab/lab/internal/vcenter"
)

const machineToken = "vsphere:index/virtualMachine:VirtualMachine"

func TestAPlatformIsMadeAndASecondPreviewIsEmptyAlsoAfterARefresh(t *testing.T) {
	pf := startPlatform(t)
	node01, node02 := pf.machine("node01"), pf.machine("node02")
	ruleArgs := values{"name": "apart", "computeClusterId": pf.cluster, "mandatory": true,
		"virtualMachineIds": []any{string(node02.id), string(node01.id)}}
	rule := pf.create("vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule", "rule", ruleArgs)
	poolArgs := values{"name": "pool", "parentResourcePoolId": pf.pool}
	pool := pf.create("vsphere:index/resourcePool:ResourcePool", "pool", poolArgs)

	all := []struct {
		what *deployed
		args values
	}{{pf.folder, pf.folderArgs()}, {pf.library, pf.libraryArgs()}, {pf.item, pf.itemArgs()}, {pf.category, categoryArgs()},
		{pf.tag, pf.tagArgs()}, {node01, pf.machineArgs("node01")}, {node02, pf.machineArgs("node02")}, {rule, ruleArgs},
		{pool, poolArgs}}
	for _, r := range all {
		if c := r.what.changes(r.args); len(c) > 0 {
			t.Errorf("%s: the second preview shows %v", r.what.urn.Name(), c)
		}
		before := r.what.outputs.Copy()
		if !r.what.refresh() {
			t.Fatalf("%s is gone", r.what.urn.Name())
		}
		if d := before.Diff(r.what.outputs); d.AnyChanges() {
			t.Errorf("%s: the refresh shows %v", r.what.urn.Name(), d.ChangedKeys())
		}
		if c := r.what.changes(r.args); len(c) > 0 {
			t.Errorf("%s: the preview after the refresh shows %v", r.what.urn.Name(), c)
		}
	}

	for _, vm := range pf.vcenter.VMs() {
		if !vm.PoweredOn || vm.CPUs != 4 || vm.MemoryMiB != 8192 || !slices.Equal(sizes(vm), []int{32, 10}) ||
			vm.GuestInfo["guestinfo.metadata"] != "bWV0YQ==" {
			t.Errorf("vCenter has %+v", vm)
		}
	}
	for _, want := range []string{"uuid", "moid", "powerState", "vmxPath", "changeVersion", "hostSystemId"} {
		if v := node01.outputs[presource.PropertyKey(want)]; !v.HasValue() || !v.IsString() {
			t.Errorf("output %s is %v", want, v)
		}
	}
	if node01.outputs["uuid"].StringValue() != string(node01.id) {
		t.Errorf("the id %s is not the UUID", node01.id)
	}

	rule.delete()
	node01.delete()
	node02.delete()
	pool.delete()
	for _, d := range []*deployed{pf.tag, pf.category, pf.item, pf.library, pf.folder} {
		d.delete()
	}
	if left := pf.vcenter.VMs(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAPreviewKnowsNoComputedOutputAndTouchesNothing(t *testing.T) {
	pf := startPlatform(t)
	args := properties(pf.machineArgs("node01"))
	args["clone"].ObjectValue()["templateUuid"] = presource.MakeComputed(presource.NewProperty(""))
	planned, err := pf.tryCreate(machineToken, "node01", args, true)
	must(t, err)
	for _, name := range []presource.PropertyKey{"uuid", "moid", "defaultIpAddress", "powerState"} {
		if v := planned.outputs[name]; !v.IsComputed() && !v.IsOutput() {
			t.Errorf("%s is %v in a preview", name, v)
		}
	}
	if v := planned.outputs["memory"]; !v.IsNumber() || v.NumberValue() != 8192 {
		t.Errorf("memory is %v", v)
	}
	if vms := pf.vcenter.VMs(); len(vms) > 0 {
		t.Errorf("the preview made %v", vms)
	}
}

func TestMemoryGrowsInARunningMachineOnlyWithHotAdd(t *testing.T) {
	pf := startPlatform(t)
	hot := pf.machineArgs("hot")
	hot["memoryHotAddEnabled"], hot["cpuHotAddEnabled"] = true, true
	for _, c := range []struct {
		name   string
		args   values
		cycles bool
	}{{"hot", hot, false}, {"cold", pf.machineArgs("cold"), true}} {
		vm := pf.create(machineToken, c.name, c.args)
		before := pf.machines.count()
		c.args["memory"], c.args["numCpus"] = 16384, 6
		if changed := vm.changes(c.args); !slices.Equal(changed, []string{"memory", "numCpus"}) {
			t.Errorf("%s: the preview shows %v", c.name, changed)
		}
		vm.update(c.args)
		events := pf.machines.since(before)
		if cycled := slices.Contains(events, "off") && slices.Contains(events, "on "+c.name); cycled != c.cycles {
			t.Errorf("%s: %v", c.name, events)
		}
		if changed := vm.changes(c.args); len(changed) > 0 {
			t.Errorf("%s: the preview after the update shows %v", c.name, changed)
		}
		if vm.outputs["powerState"].StringValue() != "on" || vm.outputs["memory"].NumberValue() != 16384 {
			t.Errorf("%s: %v", c.name, vm.outputs)
		}
	}
}

func TestExtraConfigCyclesThePowerUnlessToldNotTo(t *testing.T) {
	pf := startPlatform(t)
	for _, reboots := range []bool{true, false} {
		name := map[bool]string{true: "reboots", false: "stays"}[reboots]
		args := pf.machineArgs(name)
		args["extraConfigRebootRequired"] = reboots
		vm := pf.create(machineToken, name, args)
		before := pf.machines.count()
		args["extraConfig"] = values{"guestinfo.metadata": "bmV3"}
		if changed := vm.changes(args); !slices.Equal(changed, []string{`extraConfig["guestinfo.metadata"]`, `extraConfig["guestinfo.metadata.encoding"]`}) {
			t.Errorf("the preview shows %v", changed)
		}
		if changed := vm.changes(args, "extraConfig"); len(changed) > 0 {
			t.Errorf("ignored, the preview shows %v", changed)
		}
		vm.update(args)
		if events := pf.machines.since(before); slices.Contains(events, "off") != reboots {
			t.Errorf("extraConfigRebootRequired=%v: %v", reboots, events)
		}
		vm.refresh()
		if changed := vm.changes(args); len(changed) > 0 {
			t.Errorf("the preview after the update shows %v", changed)
		}
	}
}

// sizes are those of the machine's disks, in GiB.
func sizes(vm vcentersim.VM) []int {
	var found []int
	for _, disk := range vm.Disks {
		found = append(found, disk.GiB)
	}
	return found
}

func TestADiskGrowsWhileTheMachineRunsAndNeverShrinks(t *testing.T) {
	pf := startPlatform(t)
	vm := pf.machine("node01")
	args := pf.machineArgs("node01")
	disks := args["disks"].([]any)
	disks[1].(values)["size"] = 20
	before := pf.machines.count()
	vm.update(args)
	if got := sizes(pf.vcenter.VMs()[0]); !slices.Equal(got, []int{32, 20}) {
		t.Errorf("the disks are %v", got)
	}
	args["disks"] = append(disks, values{"label": "more", "size": 5, "unitNumber": 2})
	vm.update(args)
	if got := sizes(pf.vcenter.VMs()[0]); !slices.Equal(got, []int{32, 20, 5}) {
		t.Errorf("the disks are %v", got)
	}
	if events := pf.machines.since(before); slices.Contains(events, "off") {
		t.Errorf("growing a disk powered the machine off: %v", events)
	}
	if changed := vm.changes(args); len(changed) > 0 {
		t.Errorf("the preview after the update shows %v", changed)
	}
	args["disks"] = disks[:2]
	vm.update(args)
	if got := sizes(pf.vcenter.VMs()[0]); !slices.Equal(got, []int{32, 20}) {
		t.Errorf("the disks are %v", got)
	}

	disks[1].(values)["thinProvisioned"] = false
	wantError(t, vm.tryUpdate(args), `disk.1: cannot change the value of "thin_provisioned" - (old: true newValue: false)`)
	delete(disks[1].(values), "thinProvisioned")
	disks[1].(values)["size"] = 10
	_, err := vm.diff(args)
	wantError(t, err, `disk.1: virtual disk "data": virtual disks cannot be shrunk (old: 20 new: 10)`)
}

func TestARefreshSeesWhatWasChangedBehindTheEnginesBack(t *testing.T) {
	pf := startPlatform(t)
	vm := pf.machine("node01")
	direct := pf.behindTheBack(vm.id)
	ctx := context.Background()
	task, err := direct.PowerOff(ctx)
	must(t, finish(ctx, task, err))
	task, err = direct.Reconfigure(ctx, types.VirtualMachineConfigSpec{MemoryMB: 4096})
	must(t, finish(ctx, task, err))

	vm.refresh()
	if got := vm.inputs["memory"].NumberValue(); got != 4096 {
		t.Errorf("the refreshed inputs say memory %v", got)
	}
	if got := vm.outputs["powerState"].StringValue(); got != "off" {
		t.Errorf("the refreshed state says power %v", got)
	}
	if changed := vm.changes(pf.machineArgs("node01")); !slices.Equal(changed, []string{"memory"}) {
		t.Errorf("the preview shows %v", changed)
	}
	vm.update(pf.machineArgs("node01"))
	if now := pf.vcenter.VMs()[0]; now.MemoryMiB != 8192 || !now.PoweredOn {
		t.Errorf("after the update vCenter has %+v", now)
	}
}

func TestWhatWasDeletedBehindTheEnginesBackIsGone(t *testing.T) {
	pf := startPlatform(t)
	vm := pf.machine("node01")
	ruleArgs := values{"computeClusterId": pf.cluster, "virtualMachineIds": []any{string(vm.id)}}
	rule := pf.create("vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule", "rule", ruleArgs)
	if got := rule.outputs["name"].StringValue(); !strings.HasPrefix(got, "rule-") {
		t.Errorf("the rule that was given no name is called %q", got)
	}
	for _, d := range []*deployed{rule, vm, pf.tag, pf.category, pf.item, pf.library, pf.folder} {
		again := *d
		again.delete()
		if d.refresh() {
			t.Errorf("%s is still there", d.urn.Name())
		}
	}
}

func TestAMachineIsImportedByItsInventoryPath(t *testing.T) {
	pf := startPlatform(t)
	made := pf.machine("node01")
	r, err := pf.client.Read(t.Context(), rpcplugin.ReadRequest{URN: urn(machineToken, "node01"), ID: "/dc/vm/platform/node01"})
	must(t, err)
	if r.ID != made.id {
		t.Fatalf("imported as %q, it is %q", r.ID, made.id)
	}
	imported := &deployed{pf.site, made.urn, r.ID, r.Inputs, r.Outputs}
	d, err := imported.diff(pf.machineArgs("node01"))
	must(t, err)
	if len(d.ReplaceKeys) > 0 {
		t.Errorf("the first preview after the import wants to replace the machine because of %v", d.ReplaceKeys)
	}
	if _, err := pf.client.Read(t.Context(), rpcplugin.ReadRequest{URN: made.urn, ID: "/dc/vm/platform/node09"}); err == nil {
		t.Error("a machine that does not exist was imported")
	}
}

func TestOnlyTheSourceOfAMachineReplacesIt(t *testing.T) {
	pf := startPlatform(t)
	vm := pf.machine("node01")
	for name, change := range map[string]struct {
		set      values
		replaces bool
	}{
		"source":        {values{"clone": values{"templateUuid": "another"}}, true},
		"clone timeout": {values{"clone": values{"templateUuid": string(pf.item.id), "timeout": 40}}, false},
		"trigger":       {values{"replaceTrigger": "again"}, true},
		"firmware":      {values{"firmware": "bios"}, false},
		"name":          {values{"name": "other"}, false},
		"folder":        {values{"folder": "/platform/"}, false},
	} {
		args := pf.machineArgs("node01")
		for k, v := range change.set {
			args[k] = v
		}
		d, err := vm.diff(args)
		must(t, err)
		if (len(d.ReplaceKeys) > 0) != change.replaces {
			t.Errorf("%s: replaces because of %v", name, d.ReplaceKeys)
		}
		if d.DeleteBeforeReplace != change.replaces { // the name is given, so two cannot be there at once
			t.Errorf("%s: deleteBeforeReplace is %v", name, d.DeleteBeforeReplace)
		}
		if name == "folder" && len(d.DetailedDiff) > 0 {
			t.Errorf("the same folder in another spelling shows %v", d.DetailedDiff)
		}
	}
}

func TestAResourceWithAnAutomaticNameIsReplacedBeforeTheOldOneIsDeleted(t *testing.T) {
	pf := startPlatform(t)
	args := pf.machineArgs("")
	delete(args, "name")
	vm := pf.create(machineToken, "node01", args)
	if name := vm.outputs["name"].StringValue(); !strings.HasPrefix(name, "node01-") || len(name) != len("node01-")+7 {
		t.Errorf("the machine is called %q", name)
	}
	vm.refresh()
	args["replaceTrigger"] = "again"
	d, err := vm.diff(args)
	must(t, err)
	if len(d.ReplaceKeys) != 1 || d.DeleteBeforeReplace {
		t.Errorf("%+v", d)
	}
}

func TestAMachineMovesBetweenFoldersIsRenamedAndRetagged(t *testing.T) {
	pf := startPlatform(t)
	vm := pf.machine("node01")
	pf.create("vsphere:index/folder:Folder", "other", values{"path": "platform/other", "type": "vm", "datacenterId": pf.datacenter})
	args := pf.machineArgs("node01")
	args["folder"], args["name"], args["annotation"] = "platform/other", "renamed", "moved"
	delete(args, "tags")
	before := pf.machines.count()
	vm.update(args)
	vm.refresh()
	if changed := vm.changes(args); len(changed) > 0 {
		t.Errorf("the preview after the update shows %v", changed)
	}
	if events := pf.machines.since(before); slices.Contains(events, "off") {
		t.Errorf("a rename powered the machine off: %v", events)
	}
	if got := vm.outputs["folder"].StringValue(); got != "platform/other" {
		t.Errorf("it is in %q", got)
	}
}

func TestManyTasksAtOnceAllEnd(t *testing.T) {
	pf := startPlatform(t)
	var all []*deployed
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		all = append(all, pf.machine(name))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	results := make(chan error)
	for _, d := range all {
		go func() {
			_, err := pf.client.Delete(ctx, rpcplugin.DeleteRequest{URN: d.urn, ID: d.id, Inputs: d.inputs, Outputs: d.outputs, Timeout: 20})
			results <- err
		}()
	}
	for range all {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if left := pf.vcenter.VMs(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAFailedReconfigurationTakesTheCloneAwayAgain(t *testing.T) {
	pf := startPlatform(t)
	args := pf.machineArgs("node01")
	args["disks"] = []any{values{"label": "disk0", "size": 1}}
	_, err := pf.tryCreate(machineToken, "node01", properties(args), false)
	wantError(t, err, "must be at least the same size of source when cloning")
	if left := pf.vcenter.VMs(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAMachineThatDoesNotComeUpIsKeptInTheState(t *testing.T) {
	pf := startPlatform(t)
	u := urn(machineToken, "node01")
	args := pf.machineArgs("node01")
	args["waitForGuestNetTimeout"] = 5
	r, err := pf.client.Create(t.Context(), rpcplugin.CreateRequest{URN: u, Properties: pf.check(u, nil, properties(args)), Timeout: 3})
	var failed *rpcplugin.InitError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	if r.ID == "" || len(pf.vcenter.VMs()) != 1 {
		t.Errorf("id %q, vCenter has %v", r.ID, pf.vcenter.VMs())
	}
}

func TestSecretsStaySecret(t *testing.T) {
	pf := startPlatform(t)
	args := properties(pf.machineArgs("node01"))
	args["extraConfig"] = presource.MakeSecret(args["extraConfig"])
	vm, err := pf.tryCreate(machineToken, "node01", args, false)
	must(t, err)
	if !vm.inputs["extraConfig"].IsSecret() || !vm.outputs["extraConfig"].IsSecret() {
		t.Errorf("inputs %v, outputs %v", vm.inputs["extraConfig"], vm.outputs["extraConfig"])
	}
	vm.refresh()
	if !vm.inputs["extraConfig"].IsSecret() || !vm.outputs["extraConfig"].IsSecret() {
		t.Errorf("after a refresh: inputs %v, outputs %v", vm.inputs["extraConfig"], vm.outputs["extraConfig"])
	}
}

func TestBadInputsAreRefusedByName(t *testing.T) {
	s := startSite(t)
	good := func() values {
		return values{"name": "n", "resourcePoolId": "resgroup-1", "datastoreId": "datastore-1",
			"networkInterfaces": []any{values{"networkId": "network-1"}}, "disks": []any{values{"label": "disk0", "size": 8}}}
	}
	for _, c := range []struct {
		set    func(values)
		reason string
	}{
		{func(v values) { v["memroy"] = 1 }, "Invalid or unknown key. Examine values at 'vm.memroy'."},
		{func(v values) { delete(v, "resourcePoolId") }, "Missing required property 'resourcePoolId'. Examine values at 'vm.resourcePoolId'."},
		{func(v values) { v["memory"] = "8192" }, "expected a whole number, got a string. Examine values at 'vm.memory'."},
		{func(v values) { v["numCpus"] = 1.5 }, "expected a whole number, got a number. Examine values at 'vm.numCpus'."},
		{func(v values) { v["firmware"] = "uefi" }, `expected firmware to be one of ["bios" "efi"], got uefi. Examine values at 'vm.firmware'.`},
		{func(v values) { v["disks"].([]any)[0].(values)["sise"] = 1 }, "Invalid or unknown key. Examine values at 'vm.disks[0].sise'."},
		{func(v values) { v["extraConfig"] = values{"a.b": true} }, `expected a string, got a boolean. Examine values at 'vm.extraConfig["a.b"]'.`},
		{func(v values) { v["uuid"] = "x" }, "'uuid' is set by vCenter and cannot be given. Examine values at 'vm.uuid'."},
		{func(v values) { v["cdroms"] = []any{} }, "'cdroms' is served by the published vsphere plugin but not by the lab's stand-in; " +
			"remove it or run with the published plugin. Examine values at 'vm.cdroms'."},
		{func(v values) { v["migrateWaitTimeout"] = 1 }, "expected migrateWaitTimeout to be at least (10), got 1. Examine values at 'vm.migrateWaitTimeout'."},
	} {
		args := good()
		c.set(args)
		_, failures := s.tryCheck(urn(machineToken, "vm"), nil, properties(args))
		if len(failures) != 1 || failures[0].Reason != c.reason {
			t.Errorf("got %v, want %q", failures, c.reason)
		}
	}
	_, err := s.client.Check(t.Context(), rpcplugin.CheckRequest{URN: urn("vsphere:index/host:Host", "h"), News: presource.PropertyMap{}})
	wantError(t, err, "unrecognized resource type (vsphere:index/host:Host)")
}

func TestImpossiblePlansAreRefusedBeforeAnythingIsMade(t *testing.T) {
	pf := startPlatform(t)
	disk := func(label string, unit int) values { return values{"label": label, "size": 32, "unitNumber": unit} }
	for _, c := range []struct {
		name string
		v    any
		want string
	}{
		{"networkInterfaces", []any{}, "network_interface parameter is required"},
		{"disks", []any{}, "there must be at least one disk specified"},
		{"disks", []any{disk("a", 0), disk("a", 1)}, "disk: duplicate name a"},
		{"disks", []any{disk("a", 0), disk("b", 0)}, "disk: duplicate SCSI unit_number 0"},
		{"disks", []any{disk("a", 3)}, "at least one disk must have a unit_number of 0"},
		{"disks", []any{values{"label": "a"}}, `size for disk "a": required option not set`},
		{"datastoreId", nil, "one of datastore_id datastore_cluster_id must be specified"},
	} {
		args := pf.machineArgs("node01")
		args[c.name] = c.v
		_, err := pf.tryCreate(machineToken, "node01", properties(args), true)
		wantError(t, err, c.want)
	}
}

func TestWhatDoesNotExistIsNamed(t *testing.T) {
	pf := startPlatform(t)
	for _, c := range []struct {
		function string
		args     values
		want     string
	}{
		{"getDatacenter", values{"name": "nowhere"}, "error fetching datacenter: datacenter 'nowhere' not found"},
		{"getDatastore", values{"name": "nowhere", "datacenterId": pf.datacenter}, "error fetching datastore: datastore 'nowhere' not found"},
		{"getComputeCluster", values{"name": "nowhere", "datacenterId": pf.datacenter}, "error loading cluster: cluster 'nowhere' not found"},
		{"getNetwork", values{"name": "nowhere", "datacenterId": pf.datacenter}, "network nowhere not found"},
		{"getResourcePool", values{"name": "nowhere", "datacenterId": pf.datacenter}, "resource pool 'nowhere' not found"},
		{"getHost", values{"name": "nowhere", "datacenterId": pf.datacenter}, "error fetching host: host 'nowhere' not found"},
		{"getContentLibrary", values{"name": "nowhere"}, "nowhere"},
		{"getContentLibraryItem", values{"name": "nowhere", "libraryId": string(pf.library.id), "type": "ovf"}, "nowhere"},
	} {
		_, err := pf.call(c.function, c.args)
		wantError(t, err, c.want)
	}
	args := pf.itemArgs()
	args["name"], args["fileUrl"] = "other", pf.images+"/image/"+schematic+"/v0.0.1/vmware-amd64.ova"
	_, err := pf.tryCreate("vsphere:index/contentLibraryItem:ContentLibraryItem", "item", properties(args), false)
	wantError(t, err, "content library item other: got status 4")

	vm := pf.machineArgs("node01")
	vm["folder"] = "nowhere"
	_, err = pf.tryCreate(machineToken, "node01", properties(vm), false)
	wantError(t, err, "nowhere' not found")
}

func TestWhatExistsIsFound(t *testing.T) {
	pf := startPlatform(t)
	if got := pf.id("getContentLibrary", values{"name": "images"}); got != string(pf.library.id) {
		t.Errorf("library %s", got)
	}
	if got := pf.id("getContentLibraryItem", values{"name": "talos-1.13.9", "libraryId": string(pf.library.id), "type": "ovf"}); got != string(pf.item.id) {
		t.Errorf("item %s", got)
	}
	if got := pf.id("getResourcePool", values{"name": "cluster/Resources", "datacenterId": pf.datacenter}); got != pf.pool {
		t.Errorf("pool %s", got)
	}
	host, err := pf.call("getHost", values{"name": "esx1", "datacenterId": pf.datacenter})
	must(t, err)
	if host["resourcePoolId"].StringValue() != pf.pool {
		t.Errorf("host %v", host)
	}
	_, err = pf.client.Invoke(t.Context(), rpcplugin.InvokeRequest{Tok: "vsphere:index/getZone:getZone"})
	wantError(t, err, "unrecognized data function (vsphere:index/getZone:getZone)")
}

func TestWhatTheSiteMadeIsFoundByItsName(t *testing.T) {
	s := startSite(t)
	category := s.id("getTagCategory", values{"name": "roles"})
	for name, id := range map[string]string{
		"policy": s.id("getPolicy", values{"name": "gold"}), "folder": s.id("getFolder", values{"path": "/dc/vm/it"}),
		"library": s.id("getContentLibrary", values{"name": "theirs"}), "category": category,
		"tag": s.id("getTag", values{"name": "worker", "categoryId": category}),
	} {
		if id == "" {
			t.Errorf("%s: no id", name)
		}
	}
	for call, args := range map[string]values{
		"getPolicy": {"name": "silver"}, "getFolder": {"path": "/dc/vm/other"}, "getTagCategory": {"name": "other"},
		"getTag": {"name": "other", "categoryId": category},
	} {
		if _, err := s.call(call, args); err == nil || !strings.Contains(err.Error(), "not found") && !strings.Contains(err.Error(), "no pbm profile found") {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestAMachineHasItsStoragePolicyItsDatastoreAndASecondCard(t *testing.T) {
	pf := startPlatform(t)
	gold := pf.id("getPolicy", values{"name": "gold"})
	args := func(datastore, policy string) values {
		a := pf.machineArgs("node01")
		a["datastoreId"], a["storagePolicyId"] = datastore, policy
		a["disks"] = []any{values{"label": "disk0", "size": 32, "storagePolicyId": policy},
			values{"label": "data", "size": 10, "unitNumber": 1, "storagePolicyId": policy}}
		a["networkInterfaces"] = []any{values{"networkId": pf.network, "ovfMapping": "VM Network"},
			values{"networkId": pf.id("getNetwork", values{"name": "storage", "datacenterId": pf.datacenter})}}
		return a
	}
	node := pf.create("vsphere:index/virtualMachine:VirtualMachine", "node01", args(pf.datastore, gold))
	same := func(wanted values) {
		t.Helper()
		if !node.refresh() {
			t.Fatal("the machine is gone")
		}
		if c := node.changes(wanted); len(c) > 0 {
			t.Errorf("the preview after the refresh shows %v", c)
		}
	}
	same(args(pf.datastore, gold))
	if vm := pf.vcenter.VMs()[0]; !slices.Equal(vm.Networks, []string{"VM Network", "storage"}) {
		t.Errorf("its cards are in %v", vm.Networks)
	}
	local := pf.id("getDatastore", values{"name": "local", "datacenterId": pf.datacenter})
	before := pf.machines.count()
	node.update(args(local, gold))
	same(args(local, gold))
	if events := pf.machines.since(before); slices.Contains(events, "off") {
		t.Errorf("it was switched off: %v", events)
	}
	node.delete()
}

func TestWrongCredentialsAreRefusedAndNeverShown(t *testing.T) {
	s := startSite(t)
	err := s.configure(startPlugin(t), "Wrong-Battery-43")
	wantError(t, err, "Cannot complete login due to an incorrect user name or password.")
	if strings.Contains(err.Error(), "Wrong-Battery-43") {
		t.Error("the error shows the password")
	}
}

func TestACertificateThatNobodySignedIsRefused(t *testing.T) {
	s := startSite(t)
	err := configure(t.Context(), startPlugin(t), presource.PropertyMap{"vsphereServer": presource.NewProperty(s.server),
		"user": presource.NewProperty(login), "password": presource.NewProperty(password)})
	wantError(t, err, "certificate signed by unknown authority")
}

// The test program stands in for the plugin's executable.
func TestMain(m *testing.M) {
	if os.Getenv("SERVE_PLUGIN") != "" {
		if err := Main(context.Background()); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func TestTheExecutablePrintsItsPortAndServesItsVersionAndSchema(t *testing.T) {
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), "SERVE_PLUGIN=1")
	stdout, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	port, err := bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	client := dialPlugin(t, "127.0.0.1:"+strings.TrimSpace(port))
	info, err := client.GetPluginInfo(t.Context())
	must(t, err)
	if info.Version.String() != "4.18.2" {
		t.Errorf("version %s", info.Version)
	}
	got, err := client.GetSchema(t.Context(), rpcplugin.GetSchemaRequest{})
	must(t, err)
	var spec pschema.PackageSpec
	must(t, json.Unmarshal(got.Schema, &spec))
	if _, diagnostics, err := pschema.BindSpec(spec, nil, pschema.ValidationOptions{}); err != nil || diagnostics.HasErrors() {
		t.Errorf("the schema is not valid: %v %v", diagnostics, err)
	}
	if !slices.Contains(spec.Resources[machineToken].RequiredInputs, "resourcePoolId") {
		t.Errorf("required: %v", spec.Resources[machineToken].RequiredInputs)
	}
}

func TestSettingsComeFromTheEnvironmentWhenTheProgramGivesNone(t *testing.T) {
	s := startSite(t)
	for name, v := range map[string]string{"VSPHERE_SERVER": s.server, "VSPHERE_USER": login, "VSPHERE_PASSWORD": password,
		"VSPHERE_ALLOW_UNVERIFIED_SSL": "true"} {
		t.Setenv(name, v)
	}
	client := startPlugin(t)
	u := urn("pulumi:providers:vsphere", "vsphere")
	r, err := client.CheckConfig(t.Context(), rpcplugin.CheckConfigRequest{URN: u})
	must(t, err)
	if len(r.Failures) > 0 {
		t.Fatal(r.Failures)
	}
	must(t, configure(t.Context(), client, r.Properties))
	t.Setenv("VSPHERE_PASSWORD", "")
	r, err = client.CheckConfig(t.Context(), rpcplugin.CheckConfigRequest{URN: u})
	must(t, err)
	if len(r.Failures) != 1 || r.Failures[0].Property != "password" {
		t.Errorf("without a password: %v", r.Failures)
	}
}

func TestAMachineIsClonedFromATemplateWithItsGuestID(t *testing.T) {
	pf := startPlatform(t)
	source := pf.machine("template")
	direct := pf.behindTheBack(source.id)
	task, err := direct.PowerOff(t.Context())
	must(t, finish(t.Context(), task, err))
	must(t, direct.MarkAsTemplate(t.Context()))

	args := pf.machineArgs("node01")
	args["clone"] = values{"templateUuid": string(source.id)}
	vm := pf.create(machineToken, "node01", args)
	if changed := vm.changes(args); len(changed) > 0 {
		t.Errorf("the second preview shows %v", changed)
	}
	args["guestId"] = "otherGuest64"
	_, err = pf.tryCreate(machineToken, "node02", properties(args), false)
	wantError(t, err, `invalid guest ID "otherGuest64" for clone. Please set it to "other5xLinux64Guest"`)
}

func TestTheControllerOfTheImageIsSwappedForTheWantedOne(t *testing.T) {
	pf := startPlatform(t)
	args := pf.machineArgs("node01")
	args["scsiType"] = "lsilogic"
	vm := pf.create(machineToken, "node01", args)
	list, err := pf.behindTheBack(vm.id).Device(t.Context())
	must(t, err)
	if got := scsiType(list); got != "lsilogic" {
		t.Errorf("the controller is %s", got)
	}
	if got := len(disksOf(list)); got != 2 {
		t.Errorf("%d disks are on it", got)
	}
	if changed := vm.changes(args); len(changed) > 0 {
		t.Errorf("the second preview shows %v", changed)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
}
