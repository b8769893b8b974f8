package blockdevices

import (
	"fmt"

	"platform.lab/lab/internal/machine/hardware"
)

// Ephemeral is the label of the partition that all data is on.
const Ephemeral = "EPHEMERAL"

// SystemVolume is a partition of the system disk; its size is in bytes.
type SystemVolume struct {
	Name string
	Size uint64
}

// SystemVolumes are the partitions that Talos makes: META, STATE, and EPHEMERAL with what is left.
func SystemVolumes(vm hardware.VM) []SystemVolume {
	const stateSize, bootSize = 100 << 20, 2 << 30

	var disk uint64
	if len(vm.Disks) > 0 {
		disk = uint64(vm.Disks[0].GiB) << 30 //nolint:gosec // a size
	}

	return []SystemVolume{{"META", mebibyte}, {"STATE", stateSize}, {Ephemeral, max(disk, bootSize) - bootSize}}
}

// SystemPartition is the device of one of them, by its place in the list.
func SystemPartition(place int) string {
	return fmt.Sprintf("/dev/%s%d", SystemDisk, place+firstVolume)
}

// firstVolume is the number of the first of them: what boots is before it.
const firstVolume = 4
