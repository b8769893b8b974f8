package blockdevices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/siderolabs/talos/pkg/machinery/cel/celenv"
	"github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"

	"platform.lab/lab/internal/machine/disk"
)

const (
	// partitionsFile holds the partitions of the data disks: it stands for their content.
	partitionsFile = "data-disks.json"
	mebibyte       = 1 << 20
	// tableSize is what partition tables and alignment take at a disk's begin and end.
	tableSize = 2 * mebibyte
	// leastVolume is Talos' least size of a user volume (volumeconfig.MinUserVolumeSize).
	leastVolume = 100 * mebibyte
	// leastGrowth is what Talos does not grow a partition for.
	leastGrowth = mebibyte
)

// Partition is one on a data disk.
type Partition struct {
	Label      string `json:"label"`
	UUID       string `json:"uuid"`
	Bytes      uint64 `json:"bytes"`
	Filesystem string `json:"filesystem"`
}

// Volumes are the user volumes of a machine. Talos' rules and words: internal/app/machined/pkg/controllers/block,
// volume_manager.go with internal/volumes, as of 1.13.9. Of the kinds of volumes partitions are simulated, which is
// what a document has that names no kind.
type Volumes struct {
	Devices *Devices
	Disk    disk.Disk
	// ready are those that are done with in this boot: Talos looks at them no more.
	ready map[string]block.VolumeStatusSpec
}

// Status brings the volumes of a configuration as far as it can, and gives the status of each by its ID. Where two want
// one disk, the first by name has it.
func (v *Volumes) Status(configs []config.UserVolumeConfig) (map[string]block.VolumeStatusSpec, error) {
	kept, err := v.load()
	if err != nil {
		return nil, err
	}

	devices := v.Devices.List()
	before := len(kept)

	for id := range kept { // a disk that is gone is gone with what it held
		if !slices.ContainsFunc(devices, func(one Device) bool { return one.ID == id }) {
			delete(kept, id)
		}
	}

	changed := len(kept) != before
	found, old := map[string]block.VolumeStatusSpec{}, v.ready
	v.ready = map[string]block.VolumeStatusSpec{}

	for _, wanted := range configs {
		id := constants.UserVolumePrefix + wanted.Name()

		if status, ok := old[id]; ok && slices.ContainsFunc(devices, func(one Device) bool { return one.Path() == status.ParentLocation }) {
			found[id], v.ready[id] = status, status

			continue
		}

		work := volume{config: wanted, id: id, devices: devices, kept: kept}

		status, err := work.progress()
		if err != nil {
			status.Phase, status.ErrorMessage = block.VolumePhaseFailed, err.Error()
		} else {
			v.ready[id] = status
		}

		found[id] = status
		changed = changed || work.changed
	}

	if changed {
		err = v.save(kept)
	}

	return found, err
}

func (v *Volumes) load() (map[string][]Partition, error) {
	kept := map[string][]Partition{}

	data, err := os.ReadFile(v.Disk.Path(partitionsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	} else if err != nil {
		return nil, err
	}

	if err = json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("%s: %w", partitionsFile, err)
	}

	return kept, nil
}

func (v *Volumes) save(kept map[string][]Partition) error {
	data, err := json.Marshal(kept)
	if err != nil {
		return err
	}

	return disk.WriteFile(v.Disk.Path(partitionsFile), data)
}

// volume is one on its way.
type volume struct {
	config  config.UserVolumeConfig
	id      string
	devices []Device
	// kept are the partitions of each disk by the disk's ID.
	kept    map[string][]Partition
	changed bool
}

// progress locates the volume or makes it, lets it grow, and formats it.
func (v *volume) progress() (block.VolumeStatusSpec, error) {
	status := block.VolumeStatusSpec{
		Phase: block.VolumePhaseWaiting, Type: v.config.Type().ValueOr(block.VolumeTypePartition),
		MountSpec: block.MountSpec{
			TargetPath: v.config.Name(), ParentID: constants.UserVolumeMountPoint, SelinuxLabel: constants.EphemeralSelinuxLabel, FileMode: 0o755,
		},
	}

	if status.Type != block.VolumeTypePartition {
		return status, fmt.Errorf("simulated: a machine of the lab makes volumes of partitions only, none of type %s", status.Type)
	}

	device, number, ok := v.locate()
	if ok {
		v.grow(device, number)
	} else {
		var err error
		if device, number, err = v.provision(); err != nil {
			return status, err
		}
	}

	partition := &v.kept[device.ID][number]
	status.Location = device.Path() + strconv.Itoa(number+1)
	status.MountLocation, status.PartitionIndex, status.ParentLocation = status.Location, number+1, device.Path()
	status.PartitionUUID = partition.UUID
	status.SetSize(partition.Bytes)

	if encryption := v.config.Encryption(); encryption != nil {
		status.EncryptionProvider, status.MountLocation = encryption.Provider(), "/dev/mapper/luks2-"+v.id
	}

	filesystem := v.config.Filesystem().Type()
	if partition.Filesystem == "" {
		partition.Filesystem, v.changed = filesystem.String(), true
	}

	if partition.Filesystem != filesystem.String() {
		return status, fmt.Errorf("filesystem type mismatch: %s != %s", partition.Filesystem, filesystem)
	}

	status.Filesystem, status.Phase = filesystem, block.VolumePhaseReady

	return status, nil
}

// locate finds the volume's partition by its label, on whatever disk it is.
func (v *volume) locate() (Device, int, bool) {
	for _, device := range v.devices {
		number := slices.IndexFunc(v.kept[device.ID], func(one Partition) bool { return one.Label == v.id })
		if number >= 0 {
			return device, number, true
		}
	}

	return Device{}, 0, false
}

// grow makes the last partition of a disk larger, as far as the disk and the configuration let it.
func (v *volume) grow(device Device, number int) {
	if !v.config.Provisioning().Grow().ValueOrZero() || number != len(v.kept[device.ID])-1 {
		return
	}

	partition := &v.kept[device.ID][number]

	growth := v.free(device)
	if most := v.config.Provisioning().MaxSize().ValueOrZero(); most > 0 {
		growth = min(growth, max(most, partition.Bytes)-partition.Bytes)
	}

	if growth > leastGrowth {
		partition.Bytes, v.changed = partition.Bytes+growth, true
	}
}

// provision makes the volume's partition on the first disk that its expression matches and that has the space.
func (v *volume) provision() (Device, int, error) {
	matched, full := 0, 0

	for _, device := range v.devices {
		matches, err := v.matches(device)
		if err != nil {
			return device, 0, err
		}

		if !matches {
			continue
		}

		matched++

		free := v.free(device)
		if free < max(v.config.Provisioning().MinSize().ValueOrZero(), leastVolume) {
			full++

			continue
		}

		if most := v.config.Provisioning().MaxSize().ValueOrZero(); most > 0 {
			free = min(free, most)
		}

		v.kept[device.ID] = append(v.kept[device.ID], Partition{Label: v.id, UUID: uuid.NewString(), Bytes: free})
		v.changed = true

		return device, len(v.kept[device.ID]) - 1, nil
	}

	if matched == 0 {
		return Device{}, 0, errors.New("no disks matched selector for volume")
	}

	return Device{}, 0, fmt.Errorf("no disks matched for volume (%d matched selector): %d have not enough space, %d have wrong format, %d have other issues",
		matched, full, 0, 0)
}

func (v *volume) matches(device Device) (bool, error) {
	selector, ok := v.config.Provisioning().DiskSelector().Get()
	if !ok {
		return false, nil
	}

	matches, err := selector.EvalBool(celenv.DiskLocator(), map[string]any{"disk": device.Spec(), "system_disk": device.Name == SystemDisk})
	if err != nil {
		return false, fmt.Errorf("error evaluating disk locator: %w", err)
	}

	return matches, nil
}

// free is what a disk has beside its partitions. The system disk has nothing: EPHEMERAL takes what is left.
func (v *volume) free(device Device) uint64 {
	if device.Name == SystemDisk {
		return 0
	}

	used := uint64(tableSize)
	for _, one := range v.kept[device.ID] {
		used += one.Bytes
	}

	return max(device.Bytes(), used) - used
}
