package vsphereplugin

// The look-ups of existing objects (data sources).

import (
	"context"
	"fmt"
	"strconv"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/pbm"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"

	"platform.lab/lab/internal/plugins"
)

// function is one look-up; call adds `id` and what it found to the arguments.
type function struct {
	fields []field
	call   func(context.Context, *vcenter, attributes) error
}

func functions() map[string]function {
	name, optional := field{name: "name", kind: text, required: true}, field{name: "name", kind: text}
	datacenter := field{name: "datacenterId", kind: text}
	list := map[string]function{
		"getDatacenter": {[]field{optional, {name: "virtualMachines", kind: texts, output: true}}, getDatacenter},
		"getComputeCluster": {[]field{name, datacenter, {name: "resourcePoolId", kind: text, output: true}},
			getComputeCluster},
		"getDatastore": {[]field{name, datacenter, {name: "stats", kind: textMap, computed: true}}, getDatastore},
		"getNetwork": {[]field{name, datacenter, {name: "type", kind: text, output: true},
			{name: "distributedVirtualSwitchUuid", kind: text, unserved: true}, {name: "filters", kind: texts, unserved: true},
			{name: "retryInterval", kind: integer, fallback: 500}, {name: "retryTimeout", kind: integer, fallback: 0, unserved: true},
			{name: "vpcId", kind: text, unserved: true}, {name: "vpcProjectId", kind: text, unserved: true}}, getNetwork},
		"getResourcePool": {[]field{optional, datacenter, {name: "parentResourcePoolId", kind: text, unserved: true}},
			getResourcePool},
		"getPolicy": {[]field{name}, getPolicy},
		"getFolder": {[]field{{name: "path", kind: text, required: true}}, getFolder},
		"getTagCategory": {[]field{name, {name: "description", kind: text, output: true},
			{name: "cardinality", kind: text, output: true}, {name: "associableTypes", kind: texts, output: true}}, getTagCategory},
		"getTag": {[]field{name, {name: "categoryId", kind: text, required: true},
			{name: "description", kind: text, output: true}}, getTag},
		"getHost": {[]field{optional, {name: "datacenterId", kind: text, required: true},
			{name: "resourcePoolId", kind: text, output: true}}, getHost},
		"getContentLibrary": {[]field{name}, getContentLibrary},
		"getContentLibraryItem": {[]field{name, {name: "libraryId", kind: text, required: true},
			{name: "type", kind: text, required: true}}, getContentLibraryItem},
	}
	functions := map[string]function{}
	for name, f := range list {
		functions[fmt.Sprintf("vsphere:index/%s:%s", name, name)] = f
	}
	return functions
}

func (pl *plugin) invoke(ctx context.Context, r p.InvokeRequest) (p.InvokeResponse, error) {
	f, ok := pl.functions[string(r.Token)]
	if !ok {
		return p.InvokeResponse{}, fmt.Errorf("unrecognized data function (%s): the lab's stand-in for the vsphere plugin "+
			"serves %v", r.Token, plugins.SortedKeys(pl.functions))
	}
	c := checker{resource: string(r.Token.Name())}
	args := c.object(nil, f.fields, r.Args).Delete(defaultsKey)
	if len(c.failures) > 0 {
		return p.InvokeResponse{Failures: c.failures}, nil
	}
	vc, err := pl.connection()
	if err != nil {
		return p.InvokeResponse{}, err
	}
	ctx, done := pl.deadline(ctx, 0)
	defer done()
	found := decodeMap(args)
	if err := f.call(ctx, vc, found); err != nil {
		return p.InvokeResponse{}, fmt.Errorf("invoking %s: %w", r.Token, err)
	}
	return p.InvokeResponse{Return: encodeMap(found)}, nil
}

func getDatacenter(ctx context.Context, vc *vcenter, a attributes) error {
	f, _ := vc.finder(ctx, "")
	dc, err := f.DatacenterOrDefault(ctx, a.text("name"))
	if err != nil {
		return fmt.Errorf("error fetching datacenter: %w", err)
	}
	machines, err := view.NewManager(vc.Client.Client).CreateContainerView(ctx, dc.Reference(), []string{"VirtualMachine"}, true)
	if err != nil {
		return fmt.Errorf("error fetching datacenter: %w", err)
	}
	defer func() { _ = machines.Destroy(ctx) }()
	var all []mo.VirtualMachine
	if err := machines.Retrieve(ctx, []string{"VirtualMachine"}, []string{"name"}, &all); err != nil {
		return fmt.Errorf("error fetching virtual machines: %w", err)
	}
	names := []any{}
	for _, vm := range all {
		names = append(names, vm.Name)
	}
	a["id"], a["virtualMachines"] = dc.Reference().Value, names
	return nil
}

func getComputeCluster(ctx context.Context, vc *vcenter, a attributes) error {
	f, err := vc.finder(ctx, a.text("datacenterId"))
	if err != nil {
		return fmt.Errorf("error loading cluster: %w", err)
	}
	cluster, err := f.ClusterComputeResource(ctx, a.text("name"))
	if err != nil {
		return fmt.Errorf("error loading cluster: %w", err)
	}
	pool, err := cluster.ResourcePool(ctx)
	if err != nil {
		return fmt.Errorf("error loading cluster properties: %w", err)
	}
	a["id"], a["resourcePoolId"] = cluster.Reference().Value, pool.Reference().Value
	return nil
}

func getDatastore(ctx context.Context, vc *vcenter, a attributes) error {
	f, err := vc.finder(ctx, a.text("datacenterId"))
	if err != nil {
		return err
	}
	ds, err := f.Datastore(ctx, a.text("name"))
	if err != nil {
		return fmt.Errorf("error fetching datastore: %w", err)
	}
	var props mo.Datastore
	if err := ds.Properties(ctx, ds.Reference(), []string{"summary"}, &props); err != nil {
		return fmt.Errorf("error getting properties for datastore ID %q: %w", ds.Reference().Value, err)
	}
	a["id"] = ds.Reference().Value
	a["stats"] = map[string]any{
		"capacity": strconv.FormatInt(props.Summary.Capacity, 10), "free": strconv.FormatInt(props.Summary.FreeSpace, 10)}
	return nil
}

func getNetwork(ctx context.Context, vc *vcenter, a attributes) error {
	f, err := vc.finder(ctx, a.text("datacenterId"))
	if err != nil {
		return err
	}
	networks, err := f.NetworkList(ctx, a.text("name"))
	if err != nil {
		return fmt.Errorf("network %s not found", a.text("name"))
	}
	if len(networks) > 1 {
		return fmt.Errorf("multiple networks found with the name '%s'. Please specify a filter to narrow down the results",
			a.text("name"))
	}
	a["id"], a["type"] = networks[0].Reference().Value, networks[0].Reference().Type
	return nil
}

func getResourcePool(ctx context.Context, vc *vcenter, a attributes) error {
	if a.text("name") == "" {
		return fmt.Errorf("argument 'name' is required when 'parent_resource_pool_id' is not specified")
	}
	f, err := vc.finder(ctx, a.text("datacenterId"))
	if err != nil {
		return err
	}
	if a.text("datacenterId") == "" {
		dc, err := f.DefaultDatacenter(ctx)
		if err != nil {
			return fmt.Errorf("failed to get default datacenter: %w", err)
		}
		f.SetDatacenter(dc)
	}
	pool, err := f.ResourcePool(ctx, a.text("name"))
	if err != nil {
		return fmt.Errorf("error fetching resource pool by path %q: %w", a.text("name"), err)
	}
	a["id"] = pool.Reference().Value
	return nil
}

func getHost(ctx context.Context, vc *vcenter, a attributes) error {
	f, err := vc.finder(ctx, a.text("datacenterId"))
	if err != nil {
		return fmt.Errorf("error fetching host: %w", err)
	}
	var host *object.HostSystem
	if a.text("name") == "" {
		host, err = f.DefaultHostSystem(ctx)
	} else {
		host, err = f.HostSystem(ctx, a.text("name"))
	}
	if err != nil {
		return fmt.Errorf("error fetching host: %w", err)
	}
	pool, err := host.ResourcePool(ctx)
	if err != nil {
		return err
	}
	a["id"], a["resourcePoolId"] = host.Reference().Value, pool.Reference().Value
	return nil
}

func getPolicy(ctx context.Context, vc *vcenter, a attributes) error {
	client, err := pbm.NewClient(ctx, vc.Client.Client)
	if err != nil {
		return err
	}
	a["id"], err = client.ProfileIDByName(ctx, a.text("name"))
	return err
}

func getFolder(ctx context.Context, vc *vcenter, a attributes) error {
	found, err := find.NewFinder(vc.Client.Client).Folder(ctx, a.text("path"))
	if err != nil {
		return fmt.Errorf("cannot locate folder: %w", err)
	}
	a["id"] = found.Reference().Value
	return nil
}

func getTagCategory(ctx context.Context, vc *vcenter, a attributes) error {
	categories, err := tags.NewManager(vc.rest).GetCategories(ctx)
	if err != nil {
		return fmt.Errorf("could not get category for name %q: %w", a.text("name"), err)
	}
	for _, one := range categories {
		if one.Name == a.text("name") {
			a["id"], a["description"], a["cardinality"] = one.ID, one.Description, one.Cardinality
			a["associableTypes"] = listOf(one.AssociableTypes)
			return nil
		}
	}
	return fmt.Errorf("category name %q not found", a.text("name"))
}

func getTag(ctx context.Context, vc *vcenter, a attributes) error {
	all, err := tags.NewManager(vc.rest).GetTagsForCategory(ctx, a.text("categoryId"))
	if err != nil {
		return fmt.Errorf("could not get tags for category ID %q: %w", a.text("categoryId"), err)
	}
	for _, one := range all {
		if one.Name == a.text("name") {
			a["id"], a["description"] = one.ID, one.Description
			return nil
		}
	}
	return fmt.Errorf("tag name %q not found in category ID %q", a.text("name"), a.text("categoryId"))
}

func getContentLibrary(ctx context.Context, vc *vcenter, a attributes) error {
	lib, err := library.NewManager(vc.rest).GetLibraryByName(ctx, a.text("name"))
	if err != nil {
		return err
	}
	if lib == nil {
		return fmt.Errorf("unable to find content library (%s)", a.text("name"))
	}
	a["id"] = lib.ID
	return nil
}

func getContentLibraryItem(ctx context.Context, vc *vcenter, a attributes) error {
	manager := library.NewManager(vc.rest)
	ids, err := manager.FindLibraryItems(ctx, library.FindItem{LibraryID: a.text("libraryId"), Name: a.text("name")})
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return fmt.Errorf("unable to find content library item (%s)", a.text("name"))
	}
	item, err := manager.GetLibraryItem(ctx, ids[0])
	if err != nil {
		return err
	}
	a["id"], a["type"] = item.ID, item.Type
	return nil
}
