package world

import (
	"platform.lab/lab/internal/machine"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/vcenter"
)

// guests lets vCenter drive the machines: the seam between the two simulations.
type guests struct{ fleet *machine.Fleet }

func machinesOf(fleet *machine.Fleet) vcenter.Machines { return guests{fleet} }

func (g guests) PowerOn(h vcenter.Hardware)     { g.fleet.PowerOn(asGuest(h)) }
func (g guests) PowerOff(id string)             { g.fleet.PowerOff(id) }
func (g guests) Reconfigure(h vcenter.Hardware) { g.fleet.Reconfigure(asGuest(h)) }
func (g guests) Destroy(id string)              { g.fleet.Destroy(id) }

func asGuest(h vcenter.Hardware) machine.Hardware {
	image := machine.Image(h.Image)
	if image.TalosVersion != "" {
		image.TalosVersion = "v" + image.TalosVersion // a machine names its version as a tag
	}
	disks := make([]hardware.Disk, len(h.Disks))
	for i, disk := range h.Disks {
		disks[i] = hardware.Disk(disk)
	}
	return machine.Hardware{
		ID: h.ID, Name: h.Name, CPUs: h.CPUs, MemoryMiB: h.MemoryMiB, Disks: disks, Networks: h.Networks, GuestInfo: h.GuestInfo,
		Image: image,
	}
}
