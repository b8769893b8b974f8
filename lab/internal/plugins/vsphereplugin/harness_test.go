package vsphereplugin

// A vCenter, an image factory and the engine's own client of a provider, all in this process: what a test does goes
// over the same wire as in a deployment.

import (
	"context"
	"maps"
	"net"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	rpcplugin "github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	rpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"github.com/vmware/govmomi/object"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"platform.lab/lab/internal/factory"
	"platform.lab/lab/internal/pki"
	vcentersim "platform.lab/lab/internal/vcenter"
)

const (
	schematic = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
	login     = "administrator@vsphere.local"
	password  = "Correct-Horse-42"
)

type values = map[string]any

// machines records what the vCenter asks of the machines behind its VMs.
type machines struct {
	mu     sync.Mutex
	events []string
}

func (m *machines) note(event string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, event)
}

func (m *machines) PowerOn(h vcentersim.Hardware)   { m.note("on " + h.Name) }
func (m *machines) PowerOff(string)                 { m.note("off") }
func (m *machines) Reconfigure(vcentersim.Hardware) { m.note("reconfigure") }
func (m *machines) Destroy(string)                  { m.note("destroy") }

// since returns the events after the first n. A VM's task ends with the events that it brings about.
func (m *machines) since(n int) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events[n:])
}

func (m *machines) count() int { return len(m.since(0)) }

// site is the world of one test.
type site struct {
	t        *testing.T
	server   string // vCenter's address
	vcenter  *vcentersim.VCenter
	machines *machines
	images   string // the image factory's address
	client   rpcplugin.Provider
}

func startSite(t *testing.T) *site {
	t.Helper()
	authority, err := pki.New()
	must(t, err)
	certificate, err := authority.Server("127.0.0.1", time.Now().Add(time.Hour))
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m := &machines{}
	vc, err := vcentersim.Start(t.Context(), vcentersim.Options{Listener: listener, Certificate: certificate,
		User: login, Password: password, Machines: m, Inventory: vcentersim.Inventory{Datacenter: "dc", Cluster: "cluster",
			Datastore: "datastore", Network: "VM Network", Hosts: []string{"esx1", "esx2", "esx3"},
			Datastores: []string{"local"}, Networks: []string{"storage"}, Policy: "gold",
			Folder: "it", Library: "theirs", Category: "roles", Tags: []string{"worker"}}})
	must(t, err)
	t.Cleanup(vc.Close)
	images, err := factory.New(factory.Options{Versions: []string{"1.13.9"}, Registered: []string{schematic}})
	must(t, err)
	web := httptest.NewServer(images)
	t.Cleanup(web.Close)
	s := &site{t: t, server: listener.Addr().String(), vcenter: vc, machines: m, images: web.URL}
	s.client = startPlugin(t)
	must(t, s.configure(s.client, password))
	return s
}

// startPlugin serves the plugin and returns the engine's client of it.
func startPlugin(t *testing.T) rpcplugin.Provider {
	t.Helper()
	raw, err := p.RawServer(pluginName, pluginVersion, newProvider())(nil)
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := grpc.NewServer()
	rpc.RegisterResourceProviderServer(server, raw)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return dialPlugin(t, listener.Addr().String())
}

func dialPlugin(t *testing.T, address string) rpcplugin.Provider {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return rpcplugin.NewProviderWithClient(
		rpcplugin.NewContextWithHost(context.Background(), nil, nil, &rpcplugin.MockHost{}, "", "", nil),
		rpc.NewResourceProviderClient(conn), false)
}

func (s *site) configure(client rpcplugin.Provider, password string) error {
	return configure(s.t.Context(), client, presource.PropertyMap{
		"vsphereServer": presource.NewProperty(s.server), "user": presource.NewProperty(login),
		"password": presource.MakeSecret(presource.NewProperty(password)), "allowUnverifiedSsl": presource.NewProperty("true")})
}

// configure also calls a function: the engine's client reports a failed configuration with the next operation.
func configure(ctx context.Context, client rpcplugin.Provider, inputs presource.PropertyMap) error {
	u := urn("pulumi:providers:vsphere", "vsphere")
	kind := u.Type()
	if _, err := client.Configure(ctx, rpcplugin.ConfigureRequest{URN: &u, Type: &kind, Inputs: inputs}); err != nil {
		return err
	}
	_, err := client.Invoke(ctx, rpcplugin.InvokeRequest{Tok: "vsphere:index/getDatacenter:getDatacenter"})
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func properties(v values) presource.PropertyMap { return presource.NewPropertyMapFromMap(v) }

func urn(token, name string) presource.URN {
	return presource.NewURN("prod", "platform", "", tokens.Type(token), name)
}

// call is the look-up with this name.
func (s *site) call(name string, args values) (presource.PropertyMap, error) {
	s.t.Helper()
	r, err := s.client.Invoke(s.t.Context(), rpcplugin.InvokeRequest{
		Tok: tokens.ModuleMember("vsphere:index/" + name + ":" + name), Args: properties(args)})
	if err == nil && len(r.Failures) > 0 {
		s.t.Fatalf("%s: %v", name, r.Failures)
	}
	return r.Properties, err
}

func (s *site) id(name string, args values) string {
	s.t.Helper()
	found, err := s.call(name, args)
	must(s.t, err)
	return found["id"].StringValue()
}

// deployed is one resource as the engine's state has it.
type deployed struct {
	site    *site
	urn     presource.URN
	id      presource.ID
	inputs  presource.PropertyMap
	outputs presource.PropertyMap
}

// check returns the inputs with defaults; failures fail the test.
func (s *site) check(u presource.URN, old presource.PropertyMap, inputs presource.PropertyMap) presource.PropertyMap {
	s.t.Helper()
	r, failures := s.tryCheck(u, old, inputs)
	if len(failures) > 0 {
		s.t.Fatalf("%s: %v", u.Name(), failures)
	}
	return r
}

func (s *site) tryCheck(u presource.URN, old, inputs presource.PropertyMap) (presource.PropertyMap, []rpcplugin.CheckFailure) {
	s.t.Helper()
	r, err := s.client.Check(s.t.Context(), rpcplugin.CheckRequest{URN: u, Olds: old, News: inputs, AllowUnknowns: true,
		RandomSeed: []byte("0123456789abcdef0123456789abcdef")})
	must(s.t, err)
	return r.Properties, r.Failures
}

func (s *site) tryCreate(token, name string, inputs presource.PropertyMap, preview bool) (*deployed, error) {
	s.t.Helper()
	u := urn(token, name)
	checked := s.check(u, nil, inputs)
	r, err := s.client.Create(s.t.Context(), rpcplugin.CreateRequest{URN: u, Properties: checked, Preview: preview})
	return &deployed{s, u, r.ID, checked, r.Properties}, err
}

func (s *site) create(token, name string, inputs values) *deployed {
	s.t.Helper()
	d, err := s.tryCreate(token, name, properties(inputs), false)
	must(s.t, err)
	return d
}

func (d *deployed) diff(inputs values, ignored ...string) (rpcplugin.DiffResult, error) {
	d.site.t.Helper()
	return d.site.client.Diff(d.site.t.Context(), rpcplugin.DiffRequest{URN: d.urn, ID: d.id, OldInputs: d.inputs,
		OldOutputs: d.outputs, NewInputs: d.site.check(d.urn, d.inputs, properties(inputs)), AllowUnknowns: true, IgnoreChanges: ignored})
}

// changes are the paths that a preview would show, sorted.
func (d *deployed) changes(inputs values, ignored ...string) []string {
	d.site.t.Helper()
	r, err := d.diff(inputs, ignored...)
	must(d.site.t, err)
	return slices.Sorted(maps.Keys(r.DetailedDiff))
}

func (d *deployed) tryUpdate(inputs values) error {
	d.site.t.Helper()
	checked := d.site.check(d.urn, d.inputs, properties(inputs))
	r, err := d.site.client.Update(d.site.t.Context(), rpcplugin.UpdateRequest{URN: d.urn, ID: d.id, OldInputs: d.inputs,
		OldOutputs: d.outputs, NewInputs: checked})
	if err == nil {
		d.inputs, d.outputs = checked, r.Properties
	}
	return err
}

func (d *deployed) update(inputs values) {
	d.site.t.Helper()
	must(d.site.t, d.tryUpdate(inputs))
}

// refresh reads the resource back; false means that it is gone.
func (d *deployed) refresh() bool {
	d.site.t.Helper()
	r, err := d.site.client.Read(d.site.t.Context(), rpcplugin.ReadRequest{URN: d.urn, ID: d.id, Inputs: d.inputs, State: d.outputs})
	must(d.site.t, err)
	if r.ID == "" {
		return false
	}
	d.id, d.inputs, d.outputs = r.ID, r.Inputs, r.Outputs
	return true
}

func (d *deployed) delete() {
	d.site.t.Helper()
	_, err := d.site.client.Delete(d.site.t.Context(), rpcplugin.DeleteRequest{URN: d.urn, ID: d.id, Inputs: d.inputs, Outputs: d.outputs})
	must(d.site.t, err)
}

// platform is what a machine needs around it.
type platform struct {
	*site
	datacenter, cluster, pool, datastore, network string
	folder, library, item, category, tag          *deployed
}

func startPlatform(t *testing.T) *platform {
	t.Helper()
	s := startSite(t)
	pf := &platform{site: s}
	pf.datacenter = s.id("getDatacenter", values{"name": "dc"})
	cluster, err := s.call("getComputeCluster", values{"name": "cluster", "datacenterId": pf.datacenter})
	must(t, err)
	pf.cluster, pf.pool = cluster["id"].StringValue(), cluster["resourcePoolId"].StringValue()
	pf.datastore = s.id("getDatastore", values{"name": "datastore", "datacenterId": pf.datacenter})
	pf.network = s.id("getNetwork", values{"name": "VM Network", "datacenterId": pf.datacenter})
	pf.folder = s.create("vsphere:index/folder:Folder", "folder", pf.folderArgs())
	pf.library = s.create("vsphere:index/contentLibrary:ContentLibrary", "library", pf.libraryArgs())
	pf.item = s.create("vsphere:index/contentLibraryItem:ContentLibraryItem", "talos", pf.itemArgs())
	pf.category = s.create("vsphere:index/tagCategory:TagCategory", "category", categoryArgs())
	pf.tag = s.create("vsphere:index/tag:Tag", "tag", pf.tagArgs())
	return pf
}

func (pf *platform) folderArgs() values {
	return values{"path": "platform", "type": "vm", "datacenterId": pf.datacenter}
}

func (pf *platform) libraryArgs() values {
	return values{"name": "images", "storageBackings": []any{pf.datastore}, "publication": values{"published": false}}
}

func (pf *platform) itemArgs() values {
	return values{"name": "talos-1.13.9", "libraryId": string(pf.library.id),
		"fileUrl": pf.images + "/image/" + schematic + "/v1.13.9/vmware-amd64.ova"}
}

func categoryArgs() values {
	return values{"name": "platform", "cardinality": "SINGLE", "associableTypes": []any{"VirtualMachine"}}
}

func (pf *platform) tagArgs() values {
	return values{"name": "prod", "categoryId": string(pf.category.id)}
}

func (pf *platform) machineArgs(name string) values {
	return values{"name": name, "resourcePoolId": pf.pool, "datastoreId": pf.datastore, "folder": "platform",
		"guestId": "other5xLinux64Guest", "numCpus": 4, "memory": 8192, "waitForGuestNetTimeout": 0, "firmware": "efi",
		"enableDiskUuid": true, "clone": values{"templateUuid": string(pf.item.id)},
		"disks":             []any{values{"label": "disk0", "size": 32}, values{"label": "data", "size": 10, "unitNumber": 1}},
		"networkInterfaces": []any{values{"networkId": pf.network}},
		"extraConfig":       values{"guestinfo.metadata": "bWV0YQ==", "guestinfo.metadata.encoding": "base64"},
		"tags":              []any{string(pf.tag.id)}, "annotation": "one of three"}
}

func (pf *platform) machine(name string) *deployed {
	return pf.create("vsphere:index/virtualMachine:VirtualMachine", name, pf.machineArgs(name))
}

// behindTheBack gives a test what an operator has: vCenter itself.
func (s *site) behindTheBack(uuid presource.ID) *object.VirtualMachine {
	s.t.Helper()
	vc, err := connect(s.t.Context(), s.server, login, password, "true")
	must(s.t, err)
	vm, err := vc.machine(s.t.Context(), string(uuid))
	must(s.t, err)
	return vm
}
