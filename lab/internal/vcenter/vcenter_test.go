package vcenter

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vapi/vcenter"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"platform.lab/lab/internal/factory"
)

const (
	user      = "platform@vsphere.local"
	password  = "lab-password-of-this-test"
	schematic = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
)

var inventory = Inventory{
	Datacenter: "dc-one", Cluster: "cluster-one", Datastore: "ssd-one", Network: "platform-network",
	Hosts: []string{"esx-a.example.test", "esx-b.example.test", "esx-c.example.test"},
}

// recorded is a Machines that sends every call as a line.
type recorded struct{ calls chan string }

func (r recorded) PowerOn(h Hardware) {
	r.calls <- fmt.Sprintf("on %s %d CPUs %d MiB %v GiB %s %s", h.Name, h.CPUs, h.MemoryMiB, sizes(h),
		h.GuestInfo["guestinfo.metadata"], h.Image.TalosVersion)
}
func sizes(h Hardware) (found []int) {
	for _, disk := range h.Disks {
		found = append(found, disk.GiB)
	}
	return found
}

func (r recorded) PowerOff(string) { r.calls <- "off" }
func (r recorded) Reconfigure(h Hardware) {
	r.calls <- fmt.Sprintf("reconfigure %s %d MiB %v GiB", h.Name, h.MemoryMiB, sizes(h))
}
func (r recorded) Destroy(string) { r.calls <- "destroy" }

// site is a running vCenter with a client that is logged in.
type site struct {
	*testing.T
	*VCenter
	ctx      context.Context
	address  string
	roots    *x509.CertPool
	machines recorded
	client   *govmomi.Client
	rest     *rest.Client
	finder   *find.Finder
}

func start(t *testing.T, change func(*Options)) *site {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certificate, roots := selfSigned(t)
	s := &site{
		T: t, ctx: t.Context(), address: listener.Addr().String(), roots: roots,
		machines: recorded{make(chan string, 100)},
	}
	options := Options{
		Listener: listener, Certificate: certificate, User: user, Password: password,
		Inventory: inventory, Machines: s.machines,
	}
	if change != nil {
		change(&options)
	}
	s.VCenter, err = Start(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.client = s.login(password)
	s.rest = rest.NewClient(s.client.Client)
	s.must(s.rest.Login(s.ctx, url.UserPassword(user, password)))
	s.finder = find.NewFinder(s.client.Client, false)
	datacenter, err := s.finder.Datacenter(s.ctx, inventory.Datacenter)
	s.must(err)
	s.finder.SetDatacenter(datacenter)
	return s
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vcenter"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// soap is a client that trusts the server's certificate and nothing else.
func (s *site) soap() *soap.Client {
	client := soap.NewClient(&url.URL{Scheme: "https", Host: s.address, Path: "/sdk"}, false)
	client.DefaultTransport().TLSClientConfig.RootCAs = s.roots
	return client
}

func (s *site) tryLogin(password string) (*govmomi.Client, error) {
	vim, err := newVim(s.ctx, s.soap())
	if err != nil {
		return nil, err
	}
	client := &govmomi.Client{Client: vim, SessionManager: newSession(vim)}
	return client, client.Login(s.ctx, url.UserPassword(user, password))
}

func (s *site) login(password string) *govmomi.Client {
	s.Helper()
	client, err := s.tryLogin(password)
	s.must(err)
	return client
}

// next is the next call of Machines.
func (s *site) next() string {
	s.Helper()
	select {
	case call := <-s.machines.calls:
		return call
	case <-time.After(time.Minute):
		s.Fatal("no call of Machines in a minute")
		return ""
	}
}

func (s *site) expect(want string) {
	s.Helper()
	if got := s.next(); got != want {
		s.Errorf("machines: got %q, want %q", got, want)
	}
}

func (s *site) quiet() {
	s.Helper()
	select {
	case call := <-s.machines.calls:
		s.Errorf("machines: unexpected %q", call)
	case <-time.After(50 * time.Millisecond):
	}
}

func (s *site) wait(task *object.Task, err error) {
	s.Helper()
	s.must(err)
	s.must(task.Wait(s.ctx))
}

func (s *site) pool() *object.ResourcePool {
	s.Helper()
	pool, err := s.finder.ResourcePool(s.ctx, inventory.Cluster+"/Resources")
	s.must(err)
	return pool
}

// item makes a content library with the factory's image in it, as the provider does with a URL that
// ends in .ova: descriptor and disk are pushed one by one.
func (s *site) item() string {
	s.Helper()
	handler, err := factory.New(factory.Options{Versions: []string{"1.13.9"}, Registered: []string{schematic}})
	s.must(err)
	server := httptest.NewServer(handler)
	s.Cleanup(server.Close)
	datastore, err := s.finder.Datastore(s.ctx, inventory.Datastore)
	s.must(err)
	libraries := library.NewManager(s.rest)
	libraryID, err := libraries.CreateLibrary(s.ctx, library.Library{
		Name: "images", Type: "LOCAL", Publication: &library.Publication{Published: types.NewBool(false)},
		Storage: []library.StorageBacking{{DatastoreID: datastore.Reference().Value, Type: "DATASTORE"}},
	})
	s.must(err)
	itemID, err := libraries.CreateLibraryItem(s.ctx, library.Item{LibraryID: libraryID, Name: "talos", Type: library.ItemTypeOVF})
	s.must(err)
	session, err := libraries.CreateLibraryItemUpdateSession(s.ctx, library.Session{LibraryItemID: itemID})
	s.must(err)
	s.push(libraries, session, server.URL+"/image/"+schematic+"/v1.13.9/vmware-amd64.ova")
	s.must(libraries.CompleteLibraryItemUpdateSession(s.ctx, session))
	return itemID
}

func (s *site) push(libraries *library.Manager, session, ova string) {
	s.Helper()
	for _, name := range []string{"disk.ovf", "disk.vmdk"} {
		content := fileOf(s.T, ova, name)
		file, err := libraries.AddLibraryItemFile(s.ctx, session, library.UpdateFile{
			Name: name, SourceType: "PUSH", Size: int64(len(content)),
		})
		s.must(err)
		target, err := url.Parse(file.UploadEndpoint.URI)
		s.must(err)
		if target.Host != s.address || target.Scheme != "https" {
			s.Fatalf("the upload goes to %s, the client knows the server as %s", target, s.address)
		}
		upload := soap.DefaultUpload
		upload.ContentLength = int64(len(content))
		s.must(s.rest.Upload(s.ctx, strings.NewReader(content), target, &upload))
	}
}

func (s *site) tryDeploy(item, name string, change func(*vcenter.Deploy)) (*object.VirtualMachine, error) {
	s.Helper()
	folders, err := s.finder.DefaultFolder(s.ctx)
	s.must(err)
	datastore, err := s.finder.Datastore(s.ctx, inventory.Datastore)
	s.must(err)
	network, err := s.finder.Network(s.ctx, inventory.Network)
	s.must(err)
	deploy := vcenter.Deploy{
		DeploymentSpec: vcenter.DeploymentSpec{
			Name: name, DefaultDatastoreID: datastore.Reference().Value, AcceptAllEULA: true, StorageProvisioning: "thin",
			NetworkMappings: []vcenter.NetworkMapping{{Key: "VM Network", Value: network.Reference().Value}},
		},
		Target: vcenter.Target{ResourcePoolID: s.pool().Reference().Value, FolderID: folders.Reference().Value},
	}
	if change != nil {
		change(&deploy)
	}
	reference, err := vcenter.NewManager(s.rest).DeployLibraryItem(s.ctx, item, deploy)
	if err != nil {
		return nil, err
	}
	return object.NewVirtualMachine(s.client.Client, *reference), nil
}

// deploy makes a VM as the provider does: from the item, then configured, still powered off.
func (s *site) deploy(item, name string) *object.VirtualMachine {
	s.Helper()
	vm, err := s.tryDeploy(item, name, nil)
	s.must(err)
	s.wait(vm.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{
		NumCPUs: 4, MemoryMB: 8192, MemoryHotAddEnabled: types.NewBool(true),
		ExtraConfig:  []types.BaseOptionValue{&types.OptionValue{Key: "guestinfo.metadata", Value: "address-of-" + name}},
		DeviceChange: s.resized(vm, 32),
	}))
	return vm
}

func (s *site) resized(vm *object.VirtualMachine, gib int64) []types.BaseVirtualDeviceConfigSpec {
	s.Helper()
	devices, err := vm.Device(s.ctx)
	s.must(err)
	disk, ok := devices.SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk)
	if !ok {
		s.Fatal("no disk")
	}
	disk.CapacityInKB, disk.CapacityInBytes = gib<<20, gib<<30
	return []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: disk},
	}
}

func (s *site) properties(vm *object.VirtualMachine) mo.VirtualMachine {
	s.Helper()
	var properties mo.VirtualMachine
	s.must(vm.Properties(s.ctx, vm.Reference(), nil, &properties))
	return properties
}

func TestAWrongPasswordIsRefusedOnEveryInterface(t *testing.T) {
	s := start(t, nil)
	_, err := s.tryLogin("wrong")
	if err == nil || !strings.Contains(err.Error(), "Cannot complete login due to an incorrect user name or password.") {
		t.Errorf("SOAP: %v", err)
	}
	if _, is := soap.ToSoapFault(err).VimFault().(types.InvalidLogin); !is {
		t.Errorf("SOAP: the fault is %T", soap.ToSoapFault(err).VimFault())
	}
	if err := rest.NewClient(s.client.Client).Login(s.ctx, url.UserPassword(user, "wrong")); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("REST: %v", err)
	}
	for _, header := range []string{"SIGN token=x", ""} {
		request, err := http.NewRequest(http.MethodPost, "https://"+s.address+"/rest/com/vmware/cis/session", nil)
		s.must(err)
		request.Header.Set("Authorization", header)
		response, err := s.soap().Client.Do(request)
		s.must(err)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("REST with authorization %q: %s", header, response.Status)
		}
	}
	create := `{"params": {"serviceId": "com.vmware.cis.session", "operationId": "create"}}`
	response, err := s.soap().Client.Post("https://"+s.address+"/api", "application/json", strings.NewReader(create))
	s.must(err)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("JSON-RPC, which checks no password: %s", response.Status)
	}
}

func TestWithoutALoginNothingCanBeRead(t *testing.T) {
	s := start(t, nil)
	stranger, err := newVim(s.ctx, s.soap())
	s.must(err)
	var folder mo.Folder
	err = object.NewRootFolder(stranger).Properties(s.ctx, stranger.ServiceContent.RootFolder, []string{"name"}, &folder)
	if err == nil || !strings.Contains(err.Error(), "The session is not authenticated.") {
		t.Errorf("got %v", err)
	}
}

func TestTheInventoryIsTheSettingsAndNothingElse(t *testing.T) {
	s := start(t, nil)
	elements, err := s.finder.ManagedObjectListChildren(s.ctx, "/...")
	s.must(err)
	var paths []string
	for _, element := range elements {
		paths = append(paths, element.Path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		if strings.Contains(path, "DC0") {
			t.Errorf("a default object: %s", path)
		}
	}
	for _, want := range []string{
		"/dc-one/datastore/ssd-one", "/dc-one/host/cluster-one/esx-c.example.test", "/dc-one/network/platform-network",
	} {
		if !slices.Contains(paths, want) {
			t.Errorf("%s is missing in %v", want, paths)
		}
	}
	if _, err := s.finder.VirtualMachineList(s.ctx, "*"); err == nil {
		t.Error("there are virtual machines")
	}
	if about := s.client.ServiceContent.About; about.Version != "8.0.3" || about.ApiVersion != "8.0.3.0" {
		t.Errorf("version %s, API %s", about.Version, about.ApiVersion)
	}
	for path, look := range map[string]func(string) error{
		"datastore 'no-such' not found": func(n string) error { _, err := s.finder.Datastore(s.ctx, n); return err },
		"network 'no-such' not found":   func(n string) error { _, err := s.finder.Network(s.ctx, n); return err },
	} {
		if err := look("no-such"); err == nil || err.Error() != path {
			t.Errorf("got %v, want %s", err, path)
		}
	}
}

func TestAStandardNetworkNeedsNoDistributedSwitch(t *testing.T) {
	s := start(t, func(o *Options) { o.Inventory.Network = "VM Network" })
	network, err := s.finder.Network(s.ctx, "VM Network")
	s.must(err)
	if kind := network.Reference().Type; kind != "Network" {
		t.Errorf("got a %s", kind)
	}
}

func TestAMachineRunsFromItsPowerOnToItsDestruction(t *testing.T) {
	s := start(t, nil)
	item := s.item()
	one, two := s.deploy(item, "node01"), s.deploy(item, "node02")
	s.quiet() // nothing runs before it is powered on

	s.wait(one.PowerOn(s.ctx))
	s.expect("on node01 4 CPUs 8192 MiB [32] GiB address-of-node01 1.13.9")
	s.wait(two.PowerOn(s.ctx))
	s.expect("on node02 4 CPUs 8192 MiB [32] GiB address-of-node02 1.13.9")

	s.wait(one.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{MemoryMB: 12288}))
	s.expect("reconfigure node01 12288 MiB [32] GiB")
	s.wait(one.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{DeviceChange: s.resized(one, 64)}))
	s.expect("reconfigure node01 12288 MiB [64] GiB")
	s.wait(one.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{Annotation: "nothing a machine sees"}))
	s.quiet()

	s.wait(one.Reset(s.ctx))
	s.expect("off")
	s.expect("on node01 4 CPUs 12288 MiB [64] GiB address-of-node01 1.13.9")

	task, err := one.Destroy(s.ctx)
	s.must(err)
	if err := task.Wait(s.ctx); err == nil || !strings.Contains(err.Error(), "current state (poweredOn)") {
		t.Errorf("destroying a running machine: %v", err)
	}
	s.wait(one.PowerOff(s.ctx))
	s.expect("off")
	s.wait(one.Destroy(s.ctx))
	s.expect("destroy")
	if list := s.VMs(); len(list) != 1 || list[0].Name != "node02" || !list[0].PoweredOn || list[0].Image.Schematic != schematic {
		t.Errorf("what is left: %+v", list)
	}
}

// slow is a Machines that stops and goes a while after it was told to.
type slow struct{ recorded }

func (r slow) PowerOff(id string) { time.Sleep(300 * time.Millisecond); r.recorded.PowerOff(id) }
func (r slow) Destroy(id string)  { time.Sleep(300 * time.Millisecond); r.recorded.Destroy(id) }

func TestATaskEndsWhenTheMachineHasFollowed(t *testing.T) {
	s := start(t, func(o *Options) { o.Machines = slow{o.Machines.(recorded)} })
	vm := s.deploy(s.item(), "node01")
	has := func(want string) {
		t.Helper()
		select {
		case call := <-s.machines.calls:
			if !strings.HasPrefix(call, want) {
				t.Errorf("machines: got %q, want %q", call, want)
			}
		default:
			t.Errorf("the task ended before %q", want)
		}
	}
	s.wait(vm.PowerOn(s.ctx))
	has("on node01")
	s.wait(vm.PowerOff(s.ctx))
	has("off")
	s.wait(vm.Destroy(s.ctx))
	has("destroy")
}

func TestAVMIsAsTheProviderExpectsIt(t *testing.T) {
	s := start(t, nil)
	vm := s.deploy(s.item(), "node01")
	properties := s.properties(vm)
	if properties.Config.SwapPlacement != "inherit" {
		t.Errorf("swap placement %q", properties.Config.SwapPlacement)
	}
	if properties.Config.GuestId != "other3xLinux64Guest" || properties.Config.Version != "vmx-15" {
		t.Errorf("guest %s, hardware %s", properties.Config.GuestId, properties.Config.Version)
	}
	if len(properties.Guest.Net) != 0 {
		t.Errorf("the guest reports %+v before it runs", properties.Guest.Net)
	}
	options, err := queryConfigOption(s.ctx, s.client.Client, properties.EnvironmentBrowser)
	s.must(err)
	if options.HardwareOptions.HwVersion != 15 {
		t.Errorf("the environment browser says hardware version %d", options.HardwareOptions.HwVersion)
	}
	found, err := object.NewSearchIndex(s.client.Client).FindByUuid(s.ctx, nil, properties.Config.Uuid, true, types.NewBool(false))
	s.must(err)
	if found == nil || found.Reference() != vm.Reference() {
		t.Errorf("by its UUID: %v", found)
	}
}

func TestAVMMadeAgainIsANewVM(t *testing.T) {
	s := start(t, nil)
	item := s.item()
	first := s.deploy(item, "node01")
	uuid := s.properties(first).Config.Uuid
	s.wait(first.Destroy(s.ctx))
	if again := s.properties(s.deploy(item, "node01")).Config.Uuid; again == uuid {
		t.Errorf("both have the UUID %s", uuid)
	}
}

func TestMachinesSpreadOverTheHostsAndObeyHints(t *testing.T) {
	s := start(t, nil)
	item := s.item()
	for _, name := range []string{"node01", "node02", "node03"} {
		s.deploy(item, name)
	}
	hosts := map[string]bool{}
	for _, vm := range s.VMs() {
		hosts[vm.Host] = true
	}
	if len(hosts) != 3 {
		t.Errorf("the hosts in use: %v", hosts)
	}
	host, err := s.finder.HostSystem(s.ctx, "esx-c.example.test")
	s.must(err)
	_, err = s.tryDeploy(item, "node04", func(d *vcenter.Deploy) { d.Target.HostID = host.Reference().Value })
	s.must(err)
	if vm := s.VMs()[3]; vm.Host != "esx-c.example.test" {
		t.Errorf("node04 is on %s", vm.Host)
	}
}

func TestACloneHasItsSourcesImage(t *testing.T) {
	s := start(t, nil)
	source := s.deploy(s.item(), "template")
	folder, err := s.finder.DefaultFolder(s.ctx)
	s.must(err)
	pool := s.pool().Reference()
	s.wait(source.Clone(s.ctx, folder, "node01", types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{Pool: &pool}, PowerOn: true,
	}))
	s.expect("on node01 4 CPUs 8192 MiB [32] GiB address-of-template 1.13.9")
}

func TestAPulledImageWorksLikeAPushedOne(t *testing.T) {
	s := start(t, nil)
	handler, err := factory.New(factory.Options{Versions: []string{"1.13.9"}, Registered: []string{schematic}})
	s.must(err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	datastore, err := s.finder.Datastore(s.ctx, inventory.Datastore)
	s.must(err)
	libraries := library.NewManager(s.rest)
	libraryID, err := libraries.CreateLibrary(s.ctx, library.Library{
		Name: "images", Type: "LOCAL", Storage: []library.StorageBacking{{DatastoreID: datastore.Reference().Value, Type: "DATASTORE"}},
	})
	s.must(err)
	pull := func(name, uri string) (string, error) {
		id, err := libraries.CreateLibraryItem(s.ctx, library.Item{LibraryID: libraryID, Name: name, Type: library.ItemTypeOVF})
		s.must(err)
		session, err := libraries.CreateLibraryItemUpdateSession(s.ctx, library.Session{LibraryItemID: id})
		s.must(err)
		_, err = libraries.AddLibraryItemFileFromURI(s.ctx, session, "talos.ova", uri)
		s.must(err)
		s.must(libraries.CompleteLibraryItemUpdateSession(s.ctx, session))
		return id, libraries.WaitOnLibraryItemUpdateSession(s.ctx, session, 10*time.Millisecond, nil)
	}
	id, err := pull("talos", server.URL+"/image/"+schematic+"/v1.13.9/vmware-amd64.ova")
	s.must(err)
	s.wait(s.deploy(id, "node01").PowerOn(s.ctx))
	s.expect("on node01 4 CPUs 8192 MiB [32] GiB address-of-node01 1.13.9")
	if _, err := pull("missing", server.URL+"/image/"+schematic+"/v9.9.9/vmware-amd64.ova"); err == nil {
		t.Error("an image that does not exist was pulled")
	}
}

func TestWhatDoesNotExistIsAFaultAndNotTheEnd(t *testing.T) {
	s := start(t, nil)
	item := s.item()
	_, err := s.tryDeploy(item, "node01", func(d *vcenter.Deploy) { d.Target.ResourcePoolID = "resgroup-404" })
	if err == nil || !strings.Contains(err.Error(), "The object 'vim.ResourcePool:resgroup-404' has already been deleted") {
		t.Errorf("deployment into an unknown pool: %v", err)
	}
	folder, err := s.finder.DefaultFolder(s.ctx)
	s.must(err)
	unknown := object.NewResourcePool(s.client.Client, types.ManagedObjectReference{Type: "ResourcePool", Value: "resgroup-404"})
	spec := types.VirtualMachineConfigSpec{Name: "node01", Files: &types.VirtualMachineFileInfo{VmPathName: "[ssd-one]"}}
	_, err = folder.CreateVM(s.ctx, spec, unknown, nil)
	if _, is := soap.ToSoapFault(err).VimFault().(types.ManagedObjectNotFound); !is {
		t.Errorf("creation in an unknown pool: %v", err)
	}
	spec.Files.VmPathName = "[no-such]"
	if _, err = folder.CreateVM(s.ctx, spec, s.pool(), nil); err == nil || !strings.Contains(err.Error(), "Invalid datastore path '[no-such]'") {
		t.Errorf("creation on an unknown datastore: %v", err)
	}
	if _, err := library.NewManager(s.rest).CreateLibrary(s.ctx, library.Library{
		Name: "lost", Type: "LOCAL", Storage: []library.StorageBacking{{DatastoreID: "datastore-404", Type: "DATASTORE"}},
	}); err == nil {
		t.Error("a library on an unknown datastore was made")
	}
	s.deploy(item, "node01") // the server still works
	if _, err := s.tryDeploy(item, "node01", nil); err == nil || !strings.Contains(err.Error(), "The name 'node01' already exists.") {
		t.Errorf("a name that is taken: %v", err)
	}
}

func TestARunningMachineWithoutHotPlugKeepsItsHardware(t *testing.T) {
	s := start(t, nil)
	vm := s.deploy(s.item(), "node01")
	s.wait(vm.PowerOn(s.ctx))
	for change, spec := range map[string]types.VirtualMachineConfigSpec{
		"CPU hot plug is not supported":                 {NumCPUs: 8},
		"Memory hot plug is not supported":              {MemoryMB: 4096},
		"cannot be performed in the current state (pow": {CpuHotAddEnabled: types.NewBool(true)},
	} {
		if _, err := vm.Reconfigure(s.ctx, spec); err == nil || !strings.Contains(err.Error(), change) {
			t.Errorf("got %v, want %q", err, change)
		}
	}
	if hardware := s.VMs()[0]; hardware.CPUs != 4 || hardware.MemoryMiB != 8192 {
		t.Errorf("got %d CPUs and %d MiB", hardware.CPUs, hardware.MemoryMiB)
	}
}

func TestARunningMachineGetsNoMoreMemoryThanVSphereAddsLive(t *testing.T) {
	for _, c := range []struct {
		from int32
		to   int64
		ok   bool
	}{{2048, 3072, true}, {2048, 4096, false}, {3072, 4096, false}, {4096, 65536, true}, {4096, 65540, false}} {
		config := &types.VirtualMachineConfigInfo{MemoryHotAddEnabled: types.NewBool(true)}
		config.Hardware.MemoryMB = c.from
		if fault := hotPlugFault(config, &types.VirtualMachineConfigSpec{MemoryMB: c.to}); (fault == nil) != c.ok {
			t.Errorf("%d to %d MiB: %T", c.from, c.to, fault)
		}
	}
}

func TestTagsAndFoldersHoldMachines(t *testing.T) {
	s := start(t, nil)
	manager := tags.NewManager(s.rest)
	// As the provider writes them.
	categoryID, err := manager.CreateCategory(s.ctx, &tags.Category{
		Name: "platform", Cardinality: "SINGLE", AssociableTypes: []string{"urn:vim25:VirtualMachine"},
	})
	s.must(err)
	category, err := manager.GetCategory(s.ctx, categoryID)
	s.must(err)
	if !slices.Equal(category.AssociableTypes, []string{"VirtualMachine"}) {
		t.Errorf("associable types: %v", category.AssociableTypes)
	}
	tagID, err := manager.CreateTag(s.ctx, &tags.Tag{Name: "prod", CategoryID: categoryID})
	s.must(err)
	root, err := s.finder.DefaultFolder(s.ctx)
	s.must(err)
	folder, err := root.CreateFolder(s.ctx, "platform")
	s.must(err)
	vm, err := s.tryDeploy(s.item(), "node01", func(d *vcenter.Deploy) { d.Target.FolderID = folder.Reference().Value })
	s.must(err)
	s.must(manager.AttachTag(s.ctx, tagID, vm.Reference()))
	attached, err := manager.GetAttachedTags(s.ctx, vm.Reference())
	s.must(err)
	if len(attached) != 1 || attached[0].Name != "prod" {
		t.Errorf("attached: %+v", attached)
	}
	found, err := s.finder.VirtualMachine(s.ctx, "/dc-one/vm/platform/node01")
	s.must(err)
	if found.Reference() != vm.Reference() {
		t.Errorf("by its path: %v", found)
	}
}

func TestADestroyedMachineLeavesItsAntiAffinityRule(t *testing.T) {
	s := start(t, nil)
	item := s.item()
	one, two := s.deploy(item, "node01"), s.deploy(item, "node02")
	cluster, err := s.finder.ClusterComputeResource(s.ctx, inventory.Cluster)
	s.must(err)
	s.wait(cluster.Reconfigure(s.ctx, &types.ClusterConfigSpecEx{RulesSpec: []types.ClusterRuleSpec{{
		ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd},
		Info: &types.ClusterAntiAffinityRuleSpec{
			ClusterRuleInfo: types.ClusterRuleInfo{Name: "apart", Enabled: types.NewBool(true), Mandatory: types.NewBool(true)},
			Vm:              []types.ManagedObjectReference{one.Reference(), two.Reference()},
		},
	}}}, true))
	s.wait(one.Destroy(s.ctx))
	config, err := cluster.Configuration(s.ctx)
	s.must(err)
	if len(config.Rule) != 1 {
		t.Fatalf("rules: %+v", config.Rule)
	}
	rule, ok := config.Rule[0].(*types.ClusterAntiAffinityRuleSpec)
	if !ok || !*rule.Mandatory || !slices.Equal(rule.Vm, []types.ManagedObjectReference{two.Reference()}) {
		t.Errorf("the rule: %+v", config.Rule[0])
	}
}

func TestAGuestWithoutToolsTellsNothing(t *testing.T) {
	s := start(t, nil)
	vm := s.deploy(s.item(), "node01")
	s.wait(vm.PowerOn(s.ctx))
	guest := s.properties(vm).Guest
	if guest.IpAddress != "" || len(guest.Net) != 0 || guest.ToolsRunningStatus != "guestToolsNotRunning" {
		t.Errorf("%+v", guest)
	}
	if err := vm.RebootGuest(s.ctx); err == nil {
		t.Error("a guest without tools was rebooted")
	}
}

func TestADeploymentThatItsClientLeavesStaysInTheInventory(t *testing.T) {
	s := start(t, func(o *Options) { o.CloneDelay = 4 * time.Second })
	item := s.item()
	impatient, leave := context.WithCancel(s.ctx)
	go func() {
		defer leave()
		for end := time.Now().Add(time.Minute); len(s.VMs()) == 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	background := s.ctx
	s.ctx = impatient
	_, err := s.tryDeploy(item, "node01", nil)
	s.ctx = background
	if err == nil {
		t.Fatal("the deployment took no time")
	}
	if list := s.VMs(); len(list) != 1 || list[0].PoweredOn {
		t.Errorf("the inventory: %+v", list)
	}
}

func TestADeployedVMCarriesItsAnnotationFromTheStartAndItsEventsSayWhoMadeAndStartedIt(t *testing.T) {
	s := start(t, nil)
	vm, err := s.tryDeploy(s.item(), "node01", func(deploy *vcenter.Deploy) { deploy.Annotation = "made by a stack" })
	s.must(err)
	if got := s.properties(vm).Config.Annotation; got != "made by a stack" {
		t.Errorf("annotation %q", got)
	}
	s.wait(vm.PowerOn(s.ctx))
	filter := types.EventFilterSpec{Entity: &types.EventFilterSpecByEntity{
		Entity: vm.Reference(), Recursion: types.EventFilterSpecRecursionOptionSelf,
	}}
	events, err := event.NewManager(s.client.Client).QueryEvents(s.ctx, filter)
	s.must(err)
	who := map[string]string{}
	for _, one := range events {
		who[fmt.Sprintf("%T", one)] = one.GetEvent().UserName
	}
	session, err := s.client.SessionManager.UserSession(s.ctx)
	s.must(err)
	for _, kind := range []string{"*types.VmCreatedEvent", "*types.VmPoweredOnEvent"} {
		if who[kind] != session.UserName || session.UserName == "" {
			t.Errorf("%s by %q, want %q (%v)", kind, who[kind], session.UserName, who)
		}
	}
}

func TestDelayedTasksDoNotHideTheirObjects(t *testing.T) {
	s := start(t, func(o *Options) { o.TaskDelay = 3 * time.Second })
	vm, err := s.tryDeploy(s.item(), "node01", nil)
	s.must(err)
	task, err := vm.PowerOn(s.ctx)
	s.must(err)
	state := s.properties(vm).Runtime.PowerState
	var running mo.Task
	s.must(property.DefaultCollector(s.client.Client).RetrieveOne(s.ctx, task.Reference(), []string{"info.state"}, &running))
	if state != "poweredOff" || running.Info.State != types.TaskInfoStateRunning {
		t.Errorf("%s while the task is %s", state, running.Info.State)
	}
	s.must(task.Wait(s.ctx))
	if state := s.properties(vm).Runtime.PowerState; state != "poweredOn" {
		t.Errorf("%s after the task", state)
	}
}

func TestAFaultRuleFailsTheCallsItNames(t *testing.T) {
	s := start(t, nil)
	vm := s.deploy(s.item(), "node01")
	s.AddFault(Fault{Method: "PowerOnVM_Task", Object: "node01", Message: "no power here", Count: 1})
	if _, err := vm.PowerOn(s.ctx); err == nil || !strings.Contains(err.Error(), "no power here") {
		t.Errorf("the first call: %v", err)
	}
	s.wait(vm.PowerOn(s.ctx))
	s.wait(vm.PowerOff(s.ctx))
}

func TestOptionsThatCannotBeAreNamed(t *testing.T) {
	_, err := Start(context.Background(), Options{User: "u", Password: "p", Inventory: Inventory{Datacenter: "d", Hosts: []string{"a", "a"}}})
	for _, want := range []string{"Cluster is empty", "Datastore is empty", "Network is empty", `has "a" twice`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

// pyVmomi is stricter than govmomi: it reads one property at a time, and refuses empty enumerations
// and tasks whose names are no methods.
func TestAVMCanBeReadByPyVmomi(t *testing.T) {
	s := start(t, nil)
	vm := s.deploy(s.item(), "node01")
	request := fmt.Sprintf(`<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>`+
		`<Fetch xmlns="urn:vim25"><_this type="VirtualMachine">%s</_this><prop>snapshot</prop></Fetch></e:Body></e:Envelope>`,
		vm.Reference().Value)
	response, err := s.client.Client.Client.Client.Post("https://"+s.address+"/sdk", "text/xml", strings.NewReader(request))
	s.must(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	s.must(err)
	if !strings.Contains(string(answer), `<FetchResponse xmlns="urn:vim25"></FetchResponse>`) {
		t.Errorf("a property without a value: %s", answer)
	}
	properties := s.properties(vm)
	if r := properties.Summary.Runtime; r.FaultToleranceState == "" || r.RecordReplayState == "" || properties.GuestHeartbeatStatus == "" {
		t.Errorf("empty enumerations: %+v, %q", r, properties.GuestHeartbeatStatus)
	}
	task, err := vm.PowerOn(s.ctx)
	s.must(err)
	info, err := task.WaitForResult(s.ctx)
	s.must(err)
	if info.Name != "PowerOnVM_Task" {
		t.Errorf("the task's name is %q", info.Name)
	}
}
