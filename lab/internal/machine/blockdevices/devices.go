// Package blockdevices is what a machine's system knows of its disks, and of the volumes that it makes on them.
package blockdevices

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	blockpb "github.com/siderolabs/talos/pkg/machinery/api/resource/definitions/block"

	"platform.lab/lab/internal/machine/hardware"
)

// SystemDisk is the device that Talos is on.
const SystemDisk = "sda"

// Device is a disk as the kernel found it.
type Device struct {
	// Name is sda, sdb, ...: by the order in which the kernel finds the disks, so another one after the next boot.
	Name string

	hardware.Disk
}

// Path is the device's file.
func (d Device) Path() string { return "/dev/" + d.Name }

// Bytes is the size that the kernel knows.
func (d Device) Bytes() uint64 { return uint64(d.GiB) << 30 } //nolint:gosec // a size

// BusPath is the device's place in sysfs. A virtual disk's SCSI target is its unit on the controller.
func (d Device) BusPath() string {
	return fmt.Sprintf("/pci0000:00/0000:00:15.0/0000:03:00.0/host0/target0:0:%d/0:0:%d:0", d.Unit, d.Unit)
}

// WWID is the disk's identity as the guest sees it; the image has disk.EnableUUID.
func (d Device) WWID() string {
	if d.ID == "" {
		return ""
	}

	return "naa." + strings.ToLower(strings.ReplaceAll(d.ID, "-", ""))
}

// Spec is the device as the expressions of a configuration see it.
func (d Device) Spec() *blockpb.DiskSpec {
	return &blockpb.DiskSpec{
		DevPath: d.Path(), Size: d.Bytes(), PrettySize: fmt.Sprintf("%d GiB", d.GiB), IoSize: 512, SectorSize: 512,
		Model: "Virtual disk", Transport: "sas", Wwid: d.WWID(), BusPath: d.BusPath(), SubSystem: "/sys/class/block",
	}
}

// Devices are the disks that the kernel of one boot has found. A disk that comes while the machine runs is found at
// once; how large a disk is the kernel asks when it finds it, and not again.
type Devices struct {
	vm func() hardware.VM

	mu    sync.Mutex
	found []Device
	names int
}

// New gives the devices of a boot; vm is what the virtual machine has by now.
func New(vm func() hardware.VM) *Devices {
	d := &Devices{vm: vm}
	d.List()

	return d
}

// List gives the disks that are there, the system disk first.
func (d *Devices) List() []Device {
	d.mu.Lock()
	defer d.mu.Unlock()

	now := d.vm().Disks
	d.found = slices.DeleteFunc(d.found, func(one Device) bool { return !slices.ContainsFunc(now, one.same) })

	for _, disk := range now {
		if !slices.ContainsFunc(d.found, func(one Device) bool { return one.same(disk) }) {
			d.found = append(d.found, Device{Name: "sd" + string(rune('a'+d.names)), Disk: disk}) //nolint:gosec // a controller has 15 disks
			d.names++
		}
	}

	return slices.Clone(d.found)
}

// same says whether it is this disk, however large it is by now.
func (d Device) same(other hardware.Disk) bool { return d.Unit == other.Unit && d.ID == other.ID }
