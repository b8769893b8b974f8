package machine

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	"github.com/siderolabs/talos/pkg/machinery/config"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/network"
)

// faultsFolder holds a file per machine whose cable is pulled: `touch DIR/unreachable/NAME`.
const faultsFolder = "unreachable"

// boot is a running system: everything between a machine's power on and its next power off.
type boot struct {
	*lifetime.Lifetime

	machine   *machine
	namespace *network.Namespace
	programs  process.Programs
	hardware  Hardware
	// id is /proc/sys/kernel/random/boot_id.
	id    string
	begun time.Time
	// platform is nil without usable metadata; platformProblem says why.
	platform        *guestinfo.Network
	platformProblem error
	resources       state.State
	events          *events
	services        *services
	etcd            *etcd
	plane           *plane
	secrets         *secrets
	node            *node
	// configured is closed when a complete configuration is there.
	configured chan struct{}

	applying sync.Mutex

	mu        sync.Mutex
	meta      disk.Installation
	stage     runtime.MachineStage
	config    config.Provider
	rebooting bool
	rollback  *time.Timer
	addresses []netip.Prefix
	api       *apiServer
}

func newBoot(m *machine) (*boot, error) {
	stored, err := m.installation()
	if err != nil {
		return nil, err
	}

	b := &boot{
		Lifetime:   lifetime.New(context.Background(), m.serviceLog("machined")),
		machine:    m,
		hardware:   m.vm(),
		id:         uuid.NewString(),
		begun:      time.Now(),
		meta:       stored,
		configured: make(chan struct{}),
	}

	b.platform, b.platformProblem = guestinfo.ReadNetwork(b.hardware.GuestInfo)
	b.events = newEvents(b)
	b.services = newServices(b)
	b.etcd = newEtcd(b)
	b.plane = newPlane(b)
	b.secrets = newSecrets(b)
	b.node = newNode(b)

	if b.resources, err = newResources(b.Context()); err != nil {
		b.Cut()

		return nil, err
	}

	if b.namespace, err = b.options().Bridge.NewNamespace(linkName(b.hardware.ID)); err != nil {
		b.Cut()

		return nil, err
	}

	b.programs = process.Programs{
		Folder: b.options().Bin, Environment: b.options().Environment, Disk: m.disk, Launch: b.namespace.Start, Log: b.Log,
	}

	return b, nil
}

// linkName is the bridge's end of a machine's cable: the kernel allows 15 characters.
func linkName(id string) string {
	plain := strings.ReplaceAll(id, "-", "")

	return "vm" + plain[max(0, len(plain)-12):]
}

func (b *boot) options() Options { return b.machine.fleet.options }

// halt kills everything at once and returns when nothing of the system is left.
func (b *boot) halt() {
	b.Cut()
	b.cancelRollback()

	if api := b.server(); api != nil {
		api.stop()
	}

	b.etcd.kill()
	b.plane.kill()
	b.Wait()

	if err := b.namespace.Close(); err != nil {
		b.Log.Error("namespace not closed", "error", err)
	}
}

// run is the system from the boot loader to its end.
func (b *boot) run() {
	b.Go(b.shipLogs)

	if !b.Sleep(b.options().BootDelay) {
		return
	}

	b.setStage(runtime.MachineStageBooting)
	b.Go(b.watchCable)
	b.startPlatformNetwork()
	b.Go(b.publish)

	provider, err := b.initialConfig()
	if err != nil {
		b.Log.Error("the machine configuration is not usable, the machine waits in maintenance mode", "error", err)
	}

	b.services.running("machined", "apid", "containerd", "udevd")

	if provider == nil || !provider.CompleteForBoot() {
		b.setStage(runtime.MachineStageMaintenance)
		b.serve()

		if !b.Await(b.configured) {
			return
		}
	} else {
		b.activate(provider)
	}

	if !b.installed() {
		b.install()

		return
	}

	b.setStage(runtime.MachineStageBooting)
	b.serve()
	b.startEverything()
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

	if _, err = provider.Validate(vmwareMode{}); err != nil {
		return nil, err
	}

	return provider, b.machine.disk.SaveConfig(provider)
}

// activate makes a configuration the active one.
func (b *boot) activate(provider config.Provider) {
	b.mu.Lock()
	b.config = provider
	b.mu.Unlock()

	b.applyNetwork(provider)
	b.applyFirewall(provider)

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

// provider is the active configuration, nil in maintenance mode.
func (b *boot) provider() config.Provider {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.config
}

func (b *boot) inMaintenance() bool {
	provider := b.provider()

	return provider == nil || !provider.CompleteForBoot()
}

func (b *boot) isControlPlane() bool {
	provider := b.provider()

	return provider != nil && provider.Machine() != nil && provider.Machine().Type().IsControlPlane()
}

func (b *boot) setStage(stage runtime.MachineStage) {
	b.mu.Lock()
	b.stage = stage
	b.mu.Unlock()

	b.Log.Info("stage " + stage.String())
}

func (b *boot) currentStage() runtime.MachineStage {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.stage
}

func (b *boot) installed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.meta.Installed
}

func (b *boot) talosVersion() string {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.meta.TalosVersion
}

func (b *boot) changeMeta(change func(*disk.Installation)) error {
	b.mu.Lock()
	defer b.mu.Unlock()

	change(&b.meta)

	return b.machine.disk.SaveInstallation(b.meta)
}

// startPlatformNetwork configures eth0 as the hypervisor says. There is no DHCP server: a machine
// without an address stays unreachable.
func (b *boot) startPlatformNetwork() {
	if b.platformProblem != nil {
		b.Log.Error("guestinfo.metadata is not usable, the machine has no address", "error", b.platformProblem)
	} else if b.platform == nil || len(b.platform.Addresses) == 0 {
		b.Log.Warn("guestinfo.metadata gives no address and there is no DHCP server: the machine is unreachable")
	}

	b.applyNetwork(nil)
}

// applyNetwork gives eth0 the addresses and the default route of all configuration layers.
func (b *boot) applyNetwork(provider config.Provider) {
	wanted, gateway := wantedNetwork(b.platform, provider)

	b.mu.Lock()
	old := b.addresses
	b.addresses = wanted
	b.mu.Unlock()

	for _, address := range old {
		if !slices.Contains(wanted, address) {
			b.LogError("address not removed", b.namespace.RemoveAddress(address))
		}
	}

	for _, address := range wanted {
		b.LogError("address not added", b.namespace.AddAddress(address))
	}

	if gateway.IsValid() {
		b.LogError("default route not set", b.namespace.SetDefaultRoute(gateway))
	}
}

// wantedNetwork merges the platform's network with that of the machine configuration's link documents
// (LinkConfig, and the older machine.network.interfaces).
func wantedNetwork(platform *guestinfo.Network, provider config.Provider) (addresses []netip.Prefix, gateway netip.Addr) {
	if platform != nil {
		addresses, gateway = slices.Clone(platform.Addresses), platform.Gateway
	}

	if provider == nil {
		return addresses, gateway
	}

	for _, link := range provider.NetworkCommonLinkConfigs() {
		for _, address := range link.Addresses() {
			if !slices.Contains(addresses, address.Address()) {
				addresses = append(addresses, address.Address())
			}
		}

		for _, route := range link.Routes() {
			if _, specific := route.Destination().Get(); specific {
				continue
			}

			gateway = route.Gateway().ValueOr(gateway)
		}
	}

	for _, device := range devices(provider) {
		for _, text := range device.Addresses() {
			if address, err := netip.ParsePrefix(text); err == nil && !slices.Contains(addresses, address) {
				addresses = append(addresses, address)
			}
		}
	}

	return addresses, gateway
}

// devices are the network interfaces of the older machine.network.interfaces.
func devices(provider config.Provider) []talosconfig.Device {
	if provider.Machine() == nil || provider.Machine().Network() == nil {
		return nil
	}

	return provider.Machine().Network().Devices()
}

// address is the machine's first address; invalid when it has none.
func (b *boot) address() netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()

	if len(b.addresses) == 0 {
		return netip.Addr{}
	}

	return b.addresses[0].Addr()
}

// hostname follows Talos' layers: machine configuration, platform, and at last a stable one made from the identity.
func (b *boot) hostname() string {
	provider := b.provider()

	if provider != nil {
		if host := provider.NetworkHostnameConfig(); host != nil && host.Hostname() != "" {
			return host.Hostname()
		}
	}

	if b.platform != nil && b.platform.Hostname != "" {
		return b.platform.Hostname
	}

	if provider != nil {
		if host := provider.NetworkHostnameConfig(); host != nil && host.AutoHostname() == nethelpers.AutoHostnameKindAddr {
			return "talos-" + strings.NewReplacer(".", "-", ":", "").Replace(b.address().String())
		}
	}

	return "talos-" + linkName(b.hardware.ID)[2:]
}

// watchCable pulls and plugs the machine's cable as its fault file comes and goes.
func (b *boot) watchCable() {
	fault := filepath.Join(b.options().Dir, faultsFolder, b.hardware.Name)
	plugged := true

	for ; !b.IsOver(); b.Sleep(lifetime.Tick) {
		_, err := os.Stat(fault)
		if wanted := err != nil; wanted != plugged {
			b.Log.Warn("cable", "plugged", wanted, "fault", fault)
			b.LogError("cable", b.namespace.SetLink(wanted))
			plugged = wanted
		}
	}
}

func (b *boot) server() *apiServer {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.api
}

func (b *boot) String() string { return fmt.Sprintf("%s (%s)", b.hardware.Name, b.address()) }
