package machine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/machine/blockdevices"
	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/events"
	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kubelet"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/logs"
	"platform.lab/lab/internal/machine/meta"
	"platform.lab/lab/internal/machine/pods"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/machine/resources"
	"platform.lab/lab/internal/machine/services"
	"platform.lab/lab/internal/machine/talosapi"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/siderolink"
)

// faultsFolder holds a file per machine whose cable is pulled: `touch DIR/unreachable/NAME`.
const faultsFolder = "unreachable"

// deadImages holds a file for each version or schematic whose image does not start: `touch DIR/does-not-start/v1.13.10`.
const deadImages = "does-not-start"

// boot is a running system: everything between a machine's power on and its next power off.
type boot struct {
	*lifetime.Lifetime
	*configuration.Active

	machine  *machine
	network  *guestnetwork.Network
	hardware Hardware
	// id is /proc/sys/kernel/random/boot_id.
	id        string
	begun     time.Time
	resources *resources.Publisher
	api       *talosapi.Machine
	events    *events.Stream
	services  *services.Services
	etcd      *etcd.Service
	plane     *controlplane.Plane
	node      *kubelet.Kubelet
	// values are those of META.
	values *meta.Partition
	link   *siderolink.Link
	sink   *siderolink.Sink
	// configured is closed when a complete configuration is there.
	configured chan struct{}

	mu        sync.Mutex
	meta      disk.Installation
	stage     runtime.MachineStage
	rebooting bool
}

func newBoot(m *machine) (*boot, error) {
	stored, err := m.installation()
	if err != nil {
		return nil, err
	}

	b := &boot{
		Lifetime:   lifetime.New(m.fleet.ctx, logs.OfService(m.log, m.disk, "machined")),
		Active:     &configuration.Active{},
		machine:    m,
		hardware:   m.vm(),
		id:         uuid.NewString(),
		begun:      time.Now(),
		meta:       stored,
		configured: make(chan struct{}),
	}

	kept, err := resources.NewState(b.Context())
	if err != nil {
		b.Cut()

		return nil, err
	}

	if b.network, err = guestnetwork.New(b.Lifetime, b.Active, b.hardware, b.options().Bridge, b.options().Switches); err != nil {
		b.Cut()

		return nil, err
	}

	if err := b.join(); err != nil {
		b.Cut()

		return nil, errors.Join(err, b.network.Close())
	}

	b.events = events.New(b.Log)
	b.sink = &siderolink.Sink{Lifetime: b.Lifetime, Configuration: b.Provider, Events: b.events, Dial: b.network.Dial}
	b.services = services.New(b.Lifetime, b.IsControlPlane)
	programs := process.Programs{
		Folder: b.options().Bin, Environment: b.options().Environment, Disk: m.disk, Launch: b.network.Start, Log: b.Log,
	}
	secrets := certificates.NewSecrets(m.disk, b.network)
	b.etcd = etcd.New(etcd.Machine{
		Lifetime: b.Lifetime, Active: b.Active, Disk: m.disk, Network: b.network, Programs: programs, Services: b.services,
		Secrets: secrets, Discovery: m.fleet.discovery, Bootstrapped: m.fleet.kwok.Restart,
	})
	b.plane = controlplane.New(controlplane.Machine{
		Lifetime: b.Lifetime, Active: b.Active, Disk: m.disk, Network: b.network, Programs: programs, Services: b.services,
		Secrets: secrets, Serves: func(provider config.Provider) { m.fleet.kwok.Ensure(m.fleet.ctx, b.hardware.ID, provider) },
		Pull: b.pull, Publish: func(c controlplane.Component) string { return b.resources.PublishComponent(c) },
	})
	b.node = kubelet.New(kubelet.Machine{
		Lifetime: b.Lifetime, Active: b.Active, Hardware: b.hardware, Now: m.vm, BootID: b.id, Begun: b.begun, TalosVersion: b.TalosVersion,
		Disk: m.disk, Network: b.network, Services: b.services, StaticPods: b.plane.Snapshot, NodeReady: b.options().NodeReady,
		PodLog: b.options().PodLog, Pods: b.newPods(), LabLog: m.log, Pull: b.pull,
	})

	devices := blockdevices.New(m.vm)
	b.resources = &resources.Publisher{State: kept, Machine: resources.Machine{
		Lifetime: b.Lifetime, Active: b.Active, Hardware: b.hardware, Devices: devices,
		UserVolumes: &blockdevices.Volumes{Devices: devices, Disk: m.disk}, Network: b.network, Discovery: m.fleet.discovery, Events: b.events,
		Services: b.services, Etcd: b.etcd, ControlPlane: b.plane, Kubelet: b.node, TalosVersion: b.TalosVersion, Schematic: b.Schematic,
		Stage: b.currentStage, Meta: b.values, Link: b.link, SystemUUID: b.systemUUID, UniqueToken: b.uniqueToken,
	}}

	b.api = &talosapi.Machine{
		Lifetime: b.Lifetime, Active: b.Active, Hardware: b.hardware, Now: m.vm, BootID: b.id, Begun: b.begun, InstallDelay: b.options().InstallDelay,
		Disk: m.disk, Network: b.network, Discovery: m.fleet.discovery, Events: b.events, Services: b.services, Etcd: b.etcd,
		ControlPlane: b.plane, Kubelet: b.node, Resources: b.resources, System: b, All: m.fleet.apis, Fetch: b.options().Fetch, Pull: b.pull,
		Meta: b.values,
	}

	return b, nil
}

// newPods is what runs pods as processes; nil when all are simulated.
func (b *boot) newPods() *pods.Runtime {
	options := b.options()
	if len(options.Images) == 0 {
		return nil
	}

	path := options.DataPath.Begin(b.Context(), b.network, b.network.Address)

	made := pods.New(pods.Settings{
		Lifetime: b.Lifetime, Images: options.Images, Bin: options.Bin, Self: options.Self, Trust: options.Trust, Network: b.network,
		Folder: b.machine.disk.Path(disk.VolumesFolder, "pods"), LogFolder: b.machine.disk.OnMachine("/var/log"), HostPath: b.hostPath,
		Cluster: b.clusterNames, Log: logs.OfService(b.machine.log, b.machine.disk, "kubelet"),
		Routed: func(pod *corev1.Pod, address netip.Addr, there bool) error {
			if !there {
				path.Unplug(address)

				return network.RemoveRoute(address)
			}

			if err := path.Plug(pod, address); err != nil {
				return err
			}

			// From the lab, where the Services' addresses are, and through it from the other machines.
			err := errors.Join(network.Forward(), network.AddRoute(address, b.network.Address()))
			if err != nil {
				path.Unplug(address)
			}

			return err
		},
	})
	b.LogError("folders of logs", made.MakeLogFolders())

	return made
}

// hostPath is what stands for a path of the machine's own file system: what pods write there, and the kernel's own folders.
func (b *boot) hostPath(path string) (string, bool) {
	path = filepath.Clean(path)

	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if path == kernel || strings.HasPrefix(path, kernel+"/") {
			return path, true
		}
	}

	for _, writable := range []string{"/var", "/run", "/opt", "/etc/cni"} {
		if path == writable || strings.HasPrefix(path, writable+"/") {
			folder := b.machine.disk.OnMachine(path)

			return folder, os.MkdirAll(filepath.Dir(folder), 0o755) == nil
		}
	}

	return "", false
}

// clusterNames are the cluster's domain and the addresses of its DNS.
func (b *boot) clusterNames() (string, []string) {
	provider := b.Provider()

	var servers []string

	addresses, err := provider.Cluster().Network().DNSServiceIPs()
	b.LogError("the cluster's DNS", err)

	for _, address := range addresses {
		servers = append(servers, address.String())
	}

	return provider.Cluster().Network().DNSDomain(), servers
}

// pull gives the folder with the programs of a Kubernetes image, "" for any other image: no registry is here, and all
// others are there as soon as they are asked for. Of Kubernetes the lab has what it has built; another version fails
// as Talos fails with a registry that does not know it (internal/pkg/containers/image/image.go).
func (b *boot) pull(image string) (string, error) {
	if !strings.Contains(image, "/kube-") && !strings.Contains(image, "/kubelet:") {
		return "", nil
	}

	folder := programs.Kubernetes(b.options().Bin)[configuration.ImageTag(image)]
	if folder == "" {
		return "", fmt.Errorf("failed to pull image %q: failed to resolve reference %q: %s: not found", image, image, image)
	}

	return folder, nil
}

func (b *boot) options() Options { return b.machine.fleet.options }

// halt kills everything at once and returns when nothing of the system is left.
func (b *boot) halt() {
	b.Cut()
	b.api.Stop()

	b.etcd.Kill()
	b.plane.Kill()
	b.Wait()

	if err := b.network.Close(); err != nil {
		b.Log.Error("namespace not closed", "error", err)
	}
}

// run is the system from the boot loader to its end.
func (b *boot) run() {
	b.Go(logs.Machine{Lifetime: b.Lifetime, Active: b.Active, Disk: b.machine.disk, Begun: b.begun, Dial: b.network.Dial}.Ship)

	if !b.Sleep(b.options().BootDelay) {
		return
	}

	b.events.Sequence("initialize", machineapi.SequenceEvent_START)
	b.setStage(runtime.MachineStageBooting)

	if !b.starts() {
		b.fail()

		return
	}

	b.Go(func() { b.network.WatchCable(filepath.Join(b.options().Dir, faultsFolder, b.hardware.Name)) })
	b.network.ApplyPlatform()
	b.Go(b.resources.Run)

	provider, err := b.initialConfig()
	if err != nil {
		b.Log.Error("the machine configuration is not usable, the machine waits in maintenance mode", "error", err)
	}

	b.services.Running("machined", "apid", "containerd", "udevd")

	if provider != nil {
		b.Activate(provider)
	}

	b.Go(b.link.Run)
	b.Go(b.sink.Run)

	if b.InMaintenance() && !b.maintain() {
		return
	}

	b.events.Sequence("initialize", machineapi.SequenceEvent_STOP)
	b.events.Sequence("install", machineapi.SequenceEvent_START)

	if !b.Installed() {
		b.install()

		return
	}

	b.events.Sequence("install", machineapi.SequenceEvent_STOP)
	b.events.Sequence("boot", machineapi.SequenceEvent_START)
	b.setStage(runtime.MachineStageBooting)
	b.LogError("upgrade tag", b.changeMeta(func(m *disk.Installation) { m.Upgrading = false }))
	b.api.Serve(talosapi.Everywhere)
	b.startEverything()
}

// maintain is maintenance mode: it ends with a complete configuration. The API is where the configuration that the machine
// has so far lets it be. False: the power went first.
func (b *boot) maintain() bool {
	b.setStage(runtime.MachineStageMaintenance)
	b.events.Task("runningMaintenance", machineapi.TaskEvent_START)

	for served := ""; ; {
		if wanted := b.api.MaintenanceAddress(); wanted != served {
			b.api.Serve(wanted)
			served = wanted
		}

		select {
		case <-b.Context().Done():
			return false
		case <-b.configured:
			b.events.Task("runningMaintenance", machineapi.TaskEvent_STOP)

			return true
		case <-time.After(lifetime.Tick):
		}
	}
}

// initialConfig is the persisted configuration, else the one that the hypervisor gives.
func (b *boot) initialConfig() (config.Provider, error) {
	provider, err := b.machine.disk.Config()
	if provider != nil || err != nil {
		return provider, err
	}

	data, err := guestinfo.ReadConfig(b.hardware.GuestInfo)
	if err != nil || len(data) == 0 {
		return nil, err
	}

	if provider, err = configloader.NewFromBytes(data); err != nil {
		return nil, err
	}

	if _, err = provider.Validate(configuration.VMwareMode{}); err != nil {
		return nil, err
	}

	return provider, b.machine.disk.SaveConfig(provider)
}

// Activate makes a configuration the active one.
func (b *boot) Activate(provider config.Provider) {
	b.Set(provider)
	b.Changed()
	b.network.Apply(provider)
	b.network.ApplyFirewall(provider)

	if provider.CompleteForBoot() {
		b.mu.Lock()
		defer b.mu.Unlock()

		select {
		case <-b.configured:
		default:
			close(b.configured)
		}
	}
}

func (b *boot) setStage(stage runtime.MachineStage) {
	b.mu.Lock()
	b.stage = stage
	b.mu.Unlock()

	b.Log.Info("stage " + stage.String())
	b.Changed()
}

func (b *boot) currentStage() runtime.MachineStage {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.stage
}

// Installed says whether Talos is on the disk.
func (b *boot) Installed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.meta.Installed
}

// TalosVersion is the version that runs.
func (b *boot) TalosVersion() string {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.meta.TalosVersion
}

// Schematic is that of the image that runs.
func (b *boot) Schematic() string {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.meta.Schematic
}

// IsRebooting says whether a sequence that ends the system has begun.
func (b *boot) IsRebooting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.rebooting
}

func (b *boot) changeMeta(change func(*disk.Installation)) error {
	b.mu.Lock()
	defer b.mu.Unlock()

	change(&b.meta)

	return b.machine.disk.SaveInstallation(b.meta)
}

func (b *boot) String() string { return fmt.Sprintf("%s (%s)", b.hardware.Name, b.network.Address()) }

// Install makes the next boot run another image.
func (b *boot) Install(image hardware.Image) error {
	return b.machine.changeInstallation(func(stored *disk.Installation) { stored.Install(image) })
}

// starts says whether the image gets as far as to serve its API. One that does not is what an upgrade goes back from.
func (b *boot) starts() bool {
	for _, name := range []string{b.TalosVersion(), b.Schematic()} {
		if _, err := os.Stat(filepath.Join(b.options().Dir, deadImages, name)); err == nil {
			return false
		}
	}

	return true
}

// fail is a boot that fails: Talos goes back to the image from before the upgrade, if it was one, and reboots
// (internal/app/machined/revert.go).
func (b *boot) fail() {
	b.Log.Error("boot sequence failed", "error", fmt.Sprintf("the image of %s does not start (a fault of the lab)", b.TalosVersion()))

	if !b.meta.Upgrading {
		return // it stays like this until somebody looks at its console
	}

	b.Log.Info("reverting failed upgrade, switching to " + b.meta.Previous.TalosVersion)
	b.LogError("revert", b.machine.changeInstallation((*disk.Installation).Revert))
	b.machine.restart(b, nothing)
}
