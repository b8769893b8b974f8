// Package hardware describes a virtual machine as its guest sees it.
package hardware

import (
	"slices"

	"github.com/google/uuid"
)

// VM is a virtual machine as its machine sees it.
type VM struct {
	// ID is the VM's UUID: the identity of its disk.
	ID        string
	Name      string
	CPUs      int
	MemoryMiB int
	// Disks are those of its first SCSI controller, by unit; the first boots.
	Disks []Disk
	// Networks are the port groups of the network cards, the first one's among them.
	Networks []string
	// GuestInfo is the VM's extraConfig; only keys with the prefix "guestinfo." matter.
	GuestInfo map[string]string
	Image     Image
}

// SystemUUID is the VM's UUID as its guest reads it from SMBIOS: the same bytes as ID, of which the first three numbers are
// little-endian there. vCenter shows all of them big-endian, so the two differ (VMs of hardware version 13 and newer).
func (vm VM) SystemUUID() string {
	raw, err := uuid.Parse(vm.ID)
	if err != nil {
		return vm.ID
	}

	slices.Reverse(raw[0:4])
	slices.Reverse(raw[4:6])
	slices.Reverse(raw[6:8])

	return raw.String()
}

// Disk is a virtual disk.
type Disk struct {
	// Unit is its unit on the controller, of which number 7 is the controller's own.
	Unit int
	GiB  int
	// ID is the UUID of its file.
	ID string
}

// Image is what the VM's disk was made from, or what an upgrade installs on it.
type Image struct {
	// TalosVersion is the version as a tag: "v1.13.9".
	TalosVersion string `json:"talosVersion"`
	Schematic    string `json:"schematic"`
}
