package vsphereplugin

// Folders, resource pools and the rule that keeps machines on different hosts.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

var (
	tagsField       = field{name: "tags", kind: textSet}
	attributesField = field{name: "customAttributes", kind: textMap, unserved: true}
)

func folder() resource {
	return resource{
		token: "vsphere:index/folder:Folder",
		fields: []field{
			{name: "path", kind: text, required: true, same: normalPath},
			{name: "type", kind: text, required: true, replaces: true,
				oneOf: []string{"vm", "network", "host", "datastore", "datacenter"}},
			{name: "datacenterId", kind: text, replaces: true},
			tagsField, attributesField,
		},
		create: createFolder, read: readFolder, update: updateFolder, delete: deleteFolder,
		find: func(ctx context.Context, vc *vcenter, given string, _ attributes) (string, error) {
			if !strings.HasPrefix(given, "/") {
				return "", errors.New("path must start with a trailing slash")
			}
			f, err := find.NewFinder(vc.Client.Client).Folder(ctx, given)
			if err != nil {
				return "", err
			}
			return f.Reference().Value, nil
		},
	}
}

// parentFolder finds the folder above the one at this path; the path is relative to the datacenter's folder for the
// type, or to the inventory's root for folders of datacenters.
func parentFolder(ctx context.Context, vc *vcenter, a attributes, relative string) (*object.Folder, error) {
	above := path.Dir(normalPath(relative))
	if a.text("type") == "datacenter" {
		return find.NewFinder(vc.Client.Client).Folder(ctx, path.Join("/", above))
	}
	if a.text("datacenterId") == "" {
		return nil, fmt.Errorf("datacenter_id cannot be empty when creating a targetFolder of type %s", a.text("type"))
	}
	f, err := vc.finder(ctx, a.text("datacenterId"))
	if err != nil {
		return nil, err
	}
	dc, err := f.ObjectReference(ctx, ref("Datacenter", a.text("datacenterId")))
	if err != nil {
		return nil, fmt.Errorf("cannot locate datacenter: %w", err)
	}
	parent, err := f.Folder(ctx, path.Join(dc.(*object.Datacenter).InventoryPath, a.text("type"), above)) //nolint:forcetypeassert // asked for one
	if err != nil {
		return nil, fmt.Errorf("error trying to determine parent targetFolder: %w", err)
	}
	return parent, nil
}

func createFolder(ctx context.Context, vc *vcenter, a attributes) (string, error) {
	parent, err := parentFolder(ctx, vc, a, a.text("path"))
	if err != nil {
		return "", err
	}
	f, err := parent.CreateFolder(ctx, path.Base(normalPath(a.text("path"))))
	if err != nil {
		return "", fmt.Errorf("error creating targetFolder: %w", err)
	}
	return f.Reference().Value, vc.setTags(ctx, f, nil, a.texts("tags"))
}

// readFolder reports a missing folder as gone; the published plugin fails its refresh with "cannot locate folder".
func readFolder(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
	var props mo.Folder
	self := ref("Folder", id)
	if err := vc.RetrieveOne(ctx, self, []string{"childType"}, &props); isGone(err) {
		return nil, errGone
	} else if err != nil {
		return nil, fmt.Errorf("cannot locate folder: %w", err)
	}
	out := prior.clone()
	out["type"] = "datacenter"
	for child, kind := range map[string]string{"VirtualMachine": "vm", "Network": "network", "ComputeResource": "host",
		"Datastore": "datastore"} {
		for _, c := range props.ChildType {
			if c == child {
				out["type"] = kind
			}
		}
	}
	if out["type"] == "datacenter" {
		ancestors, err := mo.Ancestors(ctx, vc.Client.Client, vc.ServiceContent.PropertyCollector, self)
		if err != nil {
			return nil, err
		}
		names := ""
		for _, a := range ancestors[1:] {
			names = path.Join(names, a.Name)
		}
		out["path"] = names
	} else {
		in, err := vc.inventory(ctx, self)
		if err != nil {
			return nil, fmt.Errorf("cannot determine datacenter path: %w", err)
		}
		out["path"], out["datacenterId"] = path.Join(in.folder, in.name), in.datacenter.Value
	}
	var err error
	out["tags"], err = vc.tags(ctx, self)
	return out, err
}

func updateFolder(ctx context.Context, vc *vcenter, id string, old, wanted attributes) error {
	self := object.NewFolder(vc.Client.Client, ref("Folder", id))
	if err := vc.setTags(ctx, self, old.texts("tags"), wanted.texts("tags")); err != nil {
		return err
	}
	from, to := normalPath(old.text("path")), normalPath(wanted.text("path"))
	if path.Base(from) != path.Base(to) {
		task, err := self.Rename(ctx, path.Base(to))
		if err := finish(ctx, task, err); err != nil {
			return fmt.Errorf("could not rename folder: %w", err)
		}
	}
	if path.Dir(from) != path.Dir(to) {
		parent, err := parentFolder(ctx, vc, wanted, to)
		if err != nil {
			return err
		}
		task, err := parent.MoveInto(ctx, []types.ManagedObjectReference{self.Reference()})
		if err := finish(ctx, task, err); err != nil {
			return fmt.Errorf("could not move folder: %w", err)
		}
	}
	return nil
}

// deleteFolder refuses a folder that still holds something: vCenter would destroy the machines in it.
func deleteFolder(ctx context.Context, vc *vcenter, id string, _ attributes) error {
	self := object.NewFolder(vc.Client.Client, ref("Folder", id))
	children, err := self.Children(ctx)
	if err != nil {
		return fmt.Errorf("error checking for folder contents: %w", err)
	}
	if len(children) > 0 {
		return errors.New("folder is not empty, please remove all items before deleting")
	}
	task, err := self.Destroy(ctx)
	if err := finish(ctx, task, err); err != nil {
		return fmt.Errorf("cannot delete folder: %w", err)
	}
	return nil
}

func resourcePool() resource {
	fields := []field{
		{name: "name", kind: text, required: true},
		{name: "parentResourcePoolId", kind: text, required: true},
		{name: "scaleDescendantsShares", kind: text, oneOf: []string{"disabled", "scaleCpuAndMemoryShares"}},
		tagsField, attributesField,
	}
	for _, what := range []string{"cpu", "memory"} {
		fields = append(fields,
			field{name: what + "ShareLevel", kind: text, fallback: "normal", oneOf: []string{"low", "normal", "high", "custom"}},
			field{name: what + "Shares", kind: integer, computed: true},
			field{name: what + "Reservation", kind: integer, fallback: 0},
			field{name: what + "Expandable", kind: boolean, fallback: true},
			field{name: what + "Limit", kind: integer, fallback: -1})
	}
	return resource{
		token: "vsphere:index/resourcePool:ResourcePool", fields: fields, autoName: true,
		create: func(ctx context.Context, vc *vcenter, a attributes) (string, error) {
			parent := object.NewResourcePool(vc.Client.Client, ref("ResourcePool", a.text("parentResourcePoolId")))
			pool, err := parent.Create(ctx, a.text("name"), poolSpec(a))
			if err != nil {
				return "", err
			}
			return pool.Reference().Value, vc.setTags(ctx, pool, nil, a.texts("tags"))
		},
		read: readPool,
		update: func(ctx context.Context, vc *vcenter, id string, old, wanted attributes) error {
			self := object.NewResourcePool(vc.Client.Client, ref("ResourcePool", id))
			if err := vc.setTags(ctx, self, old.texts("tags"), wanted.texts("tags")); err != nil {
				return err
			}
			if parent := wanted.text("parentResourcePoolId"); parent != old.text("parentResourcePoolId") {
				if err := moveIntoPool(ctx, vc, parent, self.Reference()); err != nil {
					return err
				}
			}
			spec := poolSpec(wanted)
			return self.UpdateConfig(ctx, wanted.text("name"), &spec)
		},
		delete: func(ctx context.Context, vc *vcenter, id string, old attributes) error {
			var props mo.ResourcePool
			if err := vc.RetrieveOne(ctx, ref("ResourcePool", id), []string{"resourcePool", "vm"}, &props); err != nil {
				return err
			}
			if len(props.ResourcePool)+len(props.Vm) > 0 {
				return fmt.Errorf("resource pool %q still has children resources. Please move or remove all items before deleting",
					old.text("name"))
			}
			task, err := object.NewResourcePool(vc.Client.Client, ref("ResourcePool", id)).Destroy(ctx)
			return finish(ctx, task, err)
		},
		find: func(ctx context.Context, vc *vcenter, given string, _ attributes) (string, error) {
			pool, err := find.NewFinder(vc.Client.Client).ResourcePool(ctx, given)
			if err != nil {
				return "", err
			}
			return pool.Reference().Value, nil
		},
	}
}

func moveIntoPool(ctx context.Context, vc *vcenter, poolID string, what types.ManagedObjectReference) error {
	_, err := methods.MoveIntoResourcePool(ctx, vc.Client.Client, &types.MoveIntoResourcePool{
		This: ref("ResourcePool", poolID), List: []types.ManagedObjectReference{what}})
	return err
}

func poolSpec(a attributes) types.ResourceConfigSpec {
	allocation := func(what string) types.ResourceAllocationInfo {
		return types.ResourceAllocationInfo{
			Reservation:           types.NewInt64(int64(a.number(what + "Reservation"))),
			ExpandableReservation: types.NewBool(a.flag(what + "Expandable")),
			Limit:                 types.NewInt64(int64(a.number(what + "Limit"))),
			Shares: &types.SharesInfo{Level: types.SharesLevel(a.text(what + "ShareLevel")),
				Shares: int32(a.number(what + "Shares"))}, //nolint:gosec // checked by the schema
		}
	}
	return types.ResourceConfigSpec{CpuAllocation: allocation("cpu"), MemoryAllocation: allocation("memory"),
		ScaleDescendantsShares: a.text("scaleDescendantsShares")}
}

func readPool(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
	var props mo.ResourcePool
	self := ref("ResourcePool", id)
	if err := vc.RetrieveOne(ctx, self, []string{"name", "parent", "config"}, &props); isGone(err) {
		return nil, errGone
	} else if err != nil {
		return nil, err
	}
	out := prior.clone()
	out["name"], out["scaleDescendantsShares"] = props.Name, props.Config.ScaleDescendantsShares
	if props.Parent != nil {
		out["parentResourcePoolId"] = props.Parent.Value
	}
	for what, a := range map[string]types.ResourceAllocationInfo{"cpu": props.Config.CpuAllocation,
		"memory": props.Config.MemoryAllocation} {
		out[what+"Reservation"], out[what+"Limit"] = int(value(a.Reservation)), int(value(a.Limit))
		out[what+"Expandable"] = value(a.ExpandableReservation)
		if a.Shares != nil {
			out[what+"ShareLevel"], out[what+"Shares"] = string(a.Shares.Level), int(a.Shares.Shares)
		}
	}
	var err error
	out["tags"], err = vc.tags(ctx, self)
	return out, err
}

// value is what a pointer points to, or the zero value.
func value[T any](v *T) (out T) {
	if v != nil {
		out = *v
	}
	return out
}

func antiAffinityRule() resource {
	return resource{
		token: "vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule",
		fields: []field{
			{name: "computeClusterId", kind: text, required: true, replaces: true},
			{name: "name", kind: text, required: true},
			{name: "virtualMachineIds", kind: textSet, required: true},
			{name: "enabled", kind: boolean, fallback: true},
			{name: "mandatory", kind: boolean},
		},
		autoName: true,
		create: func(ctx context.Context, vc *vcenter, a attributes) (string, error) {
			if err := changeRule(ctx, vc, a.text("computeClusterId"), types.ArrayUpdateOperationAdd, 0, a); err != nil {
				return "", err
			}
			rule, err := findRule(ctx, vc, a.text("computeClusterId"), func(r *types.ClusterRuleInfo) bool { return r.Name == a.text("name") })
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%s:%d", a.text("computeClusterId"), rule.Key), nil
		},
		read: readRule,
		update: func(ctx context.Context, vc *vcenter, id string, _, wanted attributes) error {
			cluster, key, err := ruleID(id)
			if err != nil {
				return err
			}
			return changeRule(ctx, vc, cluster, types.ArrayUpdateOperationEdit, key, wanted)
		},
		delete: func(ctx context.Context, vc *vcenter, id string, _ attributes) error {
			cluster, key, err := ruleID(id)
			if err != nil {
				return err
			}
			return changeRule(ctx, vc, cluster, types.ArrayUpdateOperationRemove, key, nil)
		},
		find: findRuleID,
	}
}

// ruleID splits "<cluster id>:<rule key>".
func ruleID(id string) (string, int32, error) {
	cluster, key, ok := strings.Cut(id, ":")
	number, err := strconv.ParseInt(key, 10, 32)
	if !ok || err != nil {
		return "", 0, fmt.Errorf("bad ID %q", id)
	}
	return cluster, int32(number), nil
}

func findRuleID(ctx context.Context, vc *vcenter, given string, _ attributes) (string, error) {
	var where struct {
		Path string `json:"compute_cluster_path"`
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(given), &where); err != nil {
		return "", err
	}
	cluster, err := find.NewFinder(vc.Client.Client).ClusterComputeResource(ctx, where.Path)
	if err != nil {
		return "", fmt.Errorf("cannot locate cluster %q: %w", where.Path, err)
	}
	id := cluster.Reference().Value
	rule, err := findRule(ctx, vc, id, func(r *types.ClusterRuleInfo) bool { return r.Name == where.Name })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s:%d", id, rule.Key), nil
}

func findRule(ctx context.Context, vc *vcenter, cluster string, is func(*types.ClusterRuleInfo) bool) (*types.ClusterAntiAffinityRuleSpec, error) {
	config, err := object.NewClusterComputeResource(vc.Client.Client, ref("ClusterComputeResource", cluster)).Configuration(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot locate cluster: %w", err)
	}
	for _, rule := range config.Rule {
		if spec, ok := rule.(*types.ClusterAntiAffinityRuleSpec); ok && is(rule.GetClusterRuleInfo()) {
			return spec, nil
		}
	}
	return nil, errGone
}

func changeRule(ctx context.Context, vc *vcenter, cluster string, operation types.ArrayUpdateOperation, key int32, a attributes) error {
	change := types.ClusterRuleSpec{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: operation}}
	if operation == types.ArrayUpdateOperationRemove {
		change.RemoveKey = key
	} else {
		rule := &types.ClusterAntiAffinityRuleSpec{ClusterRuleInfo: types.ClusterRuleInfo{
			Key: key, Name: a.text("name"), Enabled: types.NewBool(a.flag("enabled")),
			Mandatory: types.NewBool(a.flag("mandatory")), UserCreated: types.NewBool(true)}}
		for _, uuid := range a.texts("virtualMachineIds") {
			vm, err := vc.machine(ctx, uuid)
			if errors.Is(err, errGone) {
				return fmt.Errorf("virtual machine with UUID %q not found", uuid)
			} else if err != nil {
				return err
			}
			rule.Vm = append(rule.Vm, vm.Reference())
		}
		change.Info = rule
	}
	task, err := object.NewClusterComputeResource(vc.Client.Client, ref("ClusterComputeResource", cluster)).
		Reconfigure(ctx, &types.ClusterConfigSpecEx{RulesSpec: []types.ClusterRuleSpec{change}}, true)
	return finish(ctx, task, err)
}

func readRule(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
	cluster, key, err := ruleID(id)
	if err != nil {
		return nil, err
	}
	rule, err := findRule(ctx, vc, cluster, func(r *types.ClusterRuleInfo) bool { return r.Key == key })
	if err != nil {
		return nil, err
	}
	uuids := []any{}
	for _, vm := range rule.Vm {
		var props mo.VirtualMachine
		if err := vc.RetrieveOne(ctx, vm, []string{"config.uuid"}, &props); err != nil {
			return nil, err
		}
		uuids = append(uuids, props.Config.Uuid)
	}
	out := prior.clone()
	out["computeClusterId"], out["name"], out["virtualMachineIds"] = cluster, rule.Name, uuids
	out["enabled"], out["mandatory"] = value(rule.Enabled), value(rule.Mandatory)
	return out, nil
}
