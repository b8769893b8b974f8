// The seam between the hypervisor and the machines that run on it.

package vcenter

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"platform.lab/lab/internal/factory"
)

// guestInfoPrefix marks the extra configuration that a guest can read.
const guestInfoPrefix = "guestinfo."

// Hardware is what a machine sees of its virtual machine.
type Hardware struct {
	ID        string // the VM's BIOS UUID, new for every VM
	Name      string
	CPUs      int
	MemoryMiB int
	Disks     []Disk            // in the order of controller and unit; the first boots
	Networks  []string          // the port groups of the network cards
	GuestInfo map[string]string // extra configuration under guestinfo., full keys
	Image     Image
}

// Image is what the OVA said of itself that the VM was deployed from; empty for another VM.
type Image struct {
	TalosVersion string // without a leading v
	Schematic    string // identifier
}

// Disk is a virtual disk; its size is rounded up.
type Disk struct {
	Unit int // on its controller
	GiB  int
	ID   string // the UUID of its file
}

// Machines run behind the VMs. Calls come one after the other in the order of the events, from a
// goroutine of their own: a call may use the VCenter, and returns when the machine has reached the
// state (PowerOff: stopped) or started on its way (PowerOn: booting), which ends the task that asked
// for it. A reset is PowerOff, PowerOn.
type Machines interface {
	PowerOn(hardware Hardware)
	PowerOff(id string)
	Reconfigure(hardware Hardware) // only while powered on
	Destroy(id string)             // only while powered off; also when a VM is unregistered
}

// hardwareOf reads a VM's hardware. The VM must be locked.
func hardwareOf(vm *mo.VirtualMachine) Hardware {
	hardware := Hardware{
		ID: vm.Config.Uuid, Name: vm.Config.Name,
		CPUs: int(vm.Config.Hardware.NumCPU), MemoryMiB: int(vm.Config.Hardware.MemoryMB),
		Disks: disks(vm.Config.Hardware.Device), GuestInfo: map[string]string{},
	}
	for _, option := range vm.Config.ExtraConfig {
		key, value := option.GetOptionValue().Key, fmt.Sprint(option.GetOptionValue().Value)
		switch {
		case strings.HasPrefix(key, guestInfoPrefix):
			hardware.GuestInfo[key] = value
		case key == factory.ExtraConfigVersion:
			hardware.Image.TalosVersion = value
		case key == factory.ExtraConfigSchematic:
			hardware.Image.Schematic = value
		}
	}
	return hardware
}

// disks gives the disks by controller and unit.
func disks(devices object.VirtualDeviceList) []Disk {
	const kibibytesPerGiB = 1 << 20
	list := devices.SelectByType((*types.VirtualDisk)(nil))
	slices.SortStableFunc(list, func(a, b types.BaseVirtualDevice) int { return position(a) - position(b) })
	found := make([]Disk, 0, len(list))
	for _, device := range list {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		one := Disk{GiB: int((disk.CapacityInKB + kibibytesPerGiB - 1) / kibibytesPerGiB)}
		if disk.UnitNumber != nil {
			one.Unit = int(*disk.UnitNumber)
		}
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			one.ID = backing.Uuid
		}
		found = append(found, one)
	}
	return found
}

// networks gives the port groups of the network cards by name, in their order.
func (v *VCenter) networks(devices object.VirtualDeviceList) []string {
	var names []string
	for _, device := range devices.SelectByType((*types.VirtualEthernetCard)(nil)) {
		card, ok := device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		name := ""
		switch backing := card.GetVirtualEthernetCard().Backing.(type) {
		case *types.VirtualEthernetCardNetworkBackingInfo:
			name = backing.DeviceName
		case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
			reference := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: backing.Port.PortgroupKey}
			if group, ok := v.registry().Get(reference).(*simulator.DistributedVirtualPortgroup); ok {
				name = group.Name
			}
		}
		names = append(names, name)
	}
	return names
}

func position(device types.BaseVirtualDevice) int {
	const unitsPerController = 64
	base := device.GetVirtualDevice()
	unit := 0
	if base.UnitNumber != nil {
		unit = int(*base.UnitNumber)
	}
	return int(base.ControllerKey)*unitsPerController + unit
}

func (h Hardware) equal(other Hardware) bool {
	return h.ID == other.ID && h.Name == other.Name && h.CPUs == other.CPUs && h.MemoryMiB == other.MemoryMiB &&
		slices.Equal(h.Disks, other.Disks) && slices.Equal(h.Networks, other.Networks) && maps.Equal(h.GuestInfo, other.GuestInfo) && h.Image == other.Image
}

// queue runs functions one after the other. It has no bound: who adds to it holds a VM's lock and
// must never wait.
type queue struct {
	mu     sync.Mutex
	wake   *sync.Cond
	work   []func()
	closed bool
	done   chan struct{}
}

func newQueue() *queue {
	q := &queue{done: make(chan struct{})}
	q.wake = sync.NewCond(&q.mu)
	go q.run()
	return q
}

func (q *queue) add(work func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.work = append(q.work, work)
	q.wake.Signal()
}

func (q *queue) run() {
	defer close(q.done)
	for {
		q.mu.Lock()
		for len(q.work) == 0 && !q.closed {
			q.wake.Wait()
		}
		if q.closed {
			q.mu.Unlock()
			return
		}
		next := q.work[0]
		q.work = q.work[1:]
		q.mu.Unlock()
		next()
	}
}

// settle returns when all that was added before is done, or the queue is closed, or after at most
// `longest`. Who calls it must hold no lock of a VM.
func (q *queue) settle(longest time.Duration) (settled bool) {
	reached := make(chan struct{})
	q.add(func() { close(reached) })
	select {
	case <-reached:
		return true
	case <-q.done:
		return true
	case <-time.After(longest):
		return false
	}
}

// close drops what waits and returns when what runs has ended.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.wake.Signal()
	q.mu.Unlock()
	<-q.done
}
