// Package talosapi serves the machine API: what talosctl, the stack's plugin and other machines call.
package talosapi

import (
	"context"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/events"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kubelet"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/meta"
	"platform.lab/lab/internal/machine/resources"
	"platform.lab/lab/internal/machine/services"
)

// ReplyTime lets an API call's answer leave before its connection goes.
const ReplyTime = 200 * time.Millisecond

// System is what the machine API makes the running system do.
type System interface {
	TalosVersion() string
	Installed() bool
	IsRebooting() bool

	Activate(provider config.Provider)
	Reboot(actor string)
	Shutdown(actor string)
	Reset(actor string, graceful, reboot bool, labels []string)
	Upgrade(actor string, image hardware.Image, staged bool)
	// Install makes the next boot run another image.
	Install(image hardware.Image) error
	// Rollback reboots into the image from before the last upgrade.
	Rollback() error
}

// Machine is a machine as its API sees it.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	// Hardware is what the system found when it booted, Now what the VM has by now.
	Hardware hardware.VM
	Now      func() hardware.VM
	// BootID is /proc/sys/kernel/random/boot_id.
	BootID       string
	Begun        time.Time
	InstallDelay time.Duration
	Disk         disk.Disk
	Network      *guestnetwork.Network
	Discovery    *discovery.Service
	Events       *events.Stream
	Services     *services.Services
	Etcd         *etcd.Service
	ControlPlane *controlplane.Plane
	Kubelet      *kubelet.Kubelet
	Resources    *resources.Publisher
	System       System
	// Fetch finds the image behind the name of an installer, as the registry does that the machine would ask; nil takes
	// what the name says.
	Fetch func(ctx context.Context, name string) (hardware.Image, error)
	// Pull fails when there is no such image of Kubernetes.
	Pull func(image string) (string, error)
	// All are the machines that run, this one among them.
	All  func() []*Machine
	Meta *meta.Partition

	applying   sync.Mutex
	installing sync.Mutex

	mu       sync.Mutex
	rollback *time.Timer
	server   *server
}

// Stop ends the API at once.
func (b *Machine) Stop() {
	b.cancelRollback()

	b.mu.Lock()
	server := b.server
	b.mu.Unlock()

	if server != nil {
		server.stop()
	}
}

// canReach says whether another machine's API can be reached from this one.
func (b *Machine) canReach(other *Machine) bool {
	return b == other || other.Network.Address().IsValid() && b.Network.Answers(other.Network.Address(), Port)
}
