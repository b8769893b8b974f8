// Package vcenter simulates the site's vCenter: an inventory named as in the settings, the SOAP and
// REST interfaces of vCenter 8.0, and a machine behind every powered-on VM. It is govmomi's vcsim
// with corrections where vcsim differs from the real server in a way that clients notice: see
// checks.go (requests), observer.go (objects) and http.go (the wire).
package vcenter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	_ "github.com/vmware/govmomi/pbm/simulator"          // storage policies, read with every VM
	_ "github.com/vmware/govmomi/vapi/cluster/simulator" // REST: cluster modules
	_ "github.com/vmware/govmomi/vapi/simulator"         // REST: sessions, tags, content library
	_ "github.com/vmware/govmomi/vsan/simulator"         // read with every cluster

	"platform.lab/lab/internal/httpserver"
)

// The version that the server says it has.
const (
	version = "8.0.3"
	build   = "24022515"
)

// Options describe a vCenter. All fields but Dir, the delays and Log are needed.
type Options struct {
	Listener    net.Listener    // plain TCP; TLS is added
	Certificate tls.Certificate // for the name by which clients know the server
	User        string
	Password    string
	Inventory   Inventory
	Machines    Machines
	Dir         string // where the datastore's folder is made, until Close; "" is the system's for such
	// TaskDelay lengthens every task. CloneDelay is the time between a VM's appearance in the
	// inventory and the end of the deployment that makes it, and lengthens clones and removals: a
	// run that is killed meanwhile does not see their end. Task delays are
	// process-wide in vcsim: use them in one VCenter at a time.
	TaskDelay  time.Duration
	CloneDelay time.Duration
	Log        *slog.Logger // nil discards
}

// VCenter is a running server. Its state lives as long as it does.
type VCenter struct {
	options Options
	model   *simulator.Model
	inner   *simulator.Server  // loopback, for vcsim's calls to itself
	end     context.CancelFunc // of the outer server
	events  *queue
	serving sync.WaitGroup
	closing sync.Once
	dir     string // the datastore's files

	annotations sync.Map // of the VMs that are being deployed, by name
	policies    sync.Map // the ids of storage policies, by what carries them

	mu  sync.Mutex
	vms map[types.ManagedObjectReference]*VM
}

// VM is what VMs reports of a virtual machine.
type VM struct {
	Hardware
	Host      string
	HostID    types.ManagedObjectReference
	PoweredOn bool
}

// Start serves a vCenter on the listener until ctx is done or Close is called.
func Start(ctx context.Context, options Options) (*VCenter, error) {
	if options.User == "" || options.Password == "" {
		return nil, errors.New("vcenter: User and Password must not be empty")
	}
	if err := options.Inventory.validate(); err != nil {
		return nil, err
	}
	if options.Log == nil {
		options.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	v := &VCenter{options: options, events: newQueue(), vms: map[types.ManagedObjectReference]*VM{}}
	if err := v.create(ctx); err != nil {
		v.Close()
		return nil, fmt.Errorf("vcenter: inventory: %w", err)
	}
	v.serve(ctx)
	if err := v.furnish(ctx); err != nil {
		v.Close()
		return nil, fmt.Errorf("vcenter: inventory: %w", err)
	}
	context.AfterFunc(ctx, v.Close)
	options.Log.Info("vCenter is up", "address", options.Listener.Addr().String(), "version", version)
	return v, nil
}

// create builds the model: an empty vCenter, the inventory, and the corrections.
func (v *VCenter) create(ctx context.Context) error {
	dir, err := os.MkdirTemp(v.options.Dir, "datastore-")
	if err != nil {
		return err
	}
	v.dir = dir
	simulator.TaskDelay = simulator.DelayConfig{} // the inventory is not delayed
	v.model = simulator.VPX()
	*v.model = simulator.Model{ServiceContent: v.model.ServiceContent, RootFolder: v.model.RootFolder}
	about := &v.model.ServiceContent.About
	about.Version, about.ApiVersion, about.Build = version, version+".0", build
	about.FullName = fmt.Sprintf("VMware vCenter Server %s build-%s (simulated)", version, build)
	about.LicenseProductVersion = "8.0"
	if err := v.model.Create(); err != nil {
		return err
	}
	if err := v.options.Inventory.build(ctx, v.model.Service, dir); err != nil {
		return err
	}
	v.correct()
	v.delayTasks()
	return nil
}

func (v *VCenter) delayTasks() {
	if v.options.TaskDelay == 0 && v.options.CloneDelay == 0 {
		return
	}
	simulator.TaskDelay = simulator.DelayConfig{
		Delay: int(v.options.TaskDelay.Milliseconds()),
		MethodDelay: map[string]int{
			"CloneVM_Task": int(v.options.CloneDelay.Milliseconds()),
			"Destroy_Task": int(v.options.CloneDelay.Milliseconds()),
			"LockHandoff":  0, // a delayed task must not lock its object, or nobody could read it
		},
	}
}

// serve starts the inner server, which vcsim's REST part uses to call its SOAP part, and the outer
// one, which clients see.
func (v *VCenter) serve(ctx context.Context) {
	service := v.model.Service
	service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(v.options.User, v.options.Password)}
	service.RegisterEndpoints = true
	v.inner = service.NewServer()
	config := &tls.Config{Certificates: []tls.Certificate{v.options.Certificate}, MinVersion: tls.VersionTLS12}
	v.registry().SessionManager().TLS = func() *tls.Config { return config }

	front := &frontend{
		vcsim: service.ServeMux, innerURL: fmt.Sprintf("%s://%s", v.inner.URL.Scheme, v.inner.URL.Host),
		cloneDelay: v.options.CloneDelay, annotations: &v.annotations, carry: v.carryAll, log: v.options.Log,
	}
	v.inner.Config.Handler = front // before its first request
	ctx, v.end = context.WithCancel(ctx)
	v.serving.Go(func() {
		listener := tls.NewListener(v.options.Listener, config)
		if err := httpserver.Serve(ctx, listener, &http.Server{Handler: front}, v.options.Log); err != nil {
			v.options.Log.Error("vCenter stopped", "error", err)
		}
	})
}

// Close stops the server, without touching the machines, and forgets everything.
func (v *VCenter) Close() { v.closing.Do(v.close) }

func (v *VCenter) close() {
	if v.end != nil {
		v.end()
	}
	v.serving.Wait()
	v.events.close()
	if v.inner != nil {
		v.inner.CloseClientConnections()
		v.inner.Close()
	}
	if v.model != nil && v.model.Service != nil {
		v.model.Remove()
	}
	_ = os.RemoveAll(v.dir)
}

// VMs lists the virtual machines, by name.
func (v *VCenter) VMs() []VM {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]VM, 0, len(v.vms))
	for _, vm := range v.vms {
		list = append(list, *vm)
	}
	slices.SortFunc(list, func(a, b VM) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Fault is a rule by which calls fail.
type Fault struct {
	Method  string        // SOAP method, such as PowerOnVM_Task; "*" is any
	Object  string        // inventory name of the object called; "" is any
	Message string        // text of the fault
	Skip    int           // calls that pass first
	Count   int           // calls that fail; 0 is all
	Delay   time.Duration // before the fault
}

// AddFault makes SOAP calls fail with a SystemError. REST calls fail where they lead to SOAP calls:
// the deployment of a library item calls ImportVApp.
func (v *VCenter) AddFault(fault Fault) {
	object := fault.Object
	if object == "" {
		object = "*"
	}
	v.model.Service.AddFaultRule(&simulator.FaultInjectionRule{
		MethodName: fault.Method, ObjectType: "*", ObjectName: object, Probability: 1,
		FaultType: simulator.FaultTypeCustom, Fault: &types.SystemError{Reason: fault.Message}, Message: fault.Message,
		SkipCount: fault.Skip, MaxCount: fault.Count, Delay: int(fault.Delay.Milliseconds()), Enabled: true,
	})
}

func (v *VCenter) registry() *simulator.Registry { return v.model.Map() }
