// Package disk is a machine's disk: a folder that holds what survives a power loss.
package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"

	"platform.lab/lab/internal/machine/hardware"
)

// Files of a machine's disk. STATE is the configuration, EPHEMERAL everything that a wipe of it loses.
const (
	ConfigFile    = "config.yaml"
	metaFile      = "meta.json"
	valuesFile    = "meta-values.json"
	EtcdFolder    = "etcd"
	SecretsFolder = "secrets"
	KubeletFolder = "kubelet"
	PodsFolder    = "pods"
	VolumesFolder = "volumes"
	RecoveryFile  = "etcd.snapshot"
	LogsFolder    = "logs"
)

// Ephemeral is what a wipe of EPHEMERAL loses.
var Ephemeral = []string{EtcdFolder, SecretsFolder, KubeletFolder, PodsFolder, VolumesFolder, RecoveryFile}

// Installation is what a machine's disk knows of its own installation (Talos' META partition and boot loader).
type Installation struct {
	// Installed is false only for a machine that booted from an ISO and has not got a configuration yet.
	Installed bool `json:"installed"`
	// Image is what the boot loader starts: the running one, or one that an upgrade has installed beside it.
	hardware.Image
	// Previous is the image in the other of the two places of the boot loader; empty before the first upgrade.
	Previous hardware.Image `json:"previous"`
	// Upgrading is the tag that an upgrade leaves: the first boot that does not succeed goes back.
	Upgrading bool `json:"upgrading,omitempty"`
}

// Install writes an image into the place that the boot loader does not start, and lets it start that one from now on. Like
// GRUB's, it looks at what it starts, not at what runs: a second installation before a reboot overwrites what runs.
func (i *Installation) Install(image hardware.Image) {
	i.Previous, i.Image, i.Upgrading = i.Image, image, true
}

// Revert lets the boot loader start the other image.
func (i *Installation) Revert() {
	i.Previous, i.Image, i.Upgrading = i.Image, i.Previous, false
}

// Disk is the folder.
type Disk string

// Path is that of a file or folder of the disk.
func (d Disk) Path(names ...string) string {
	return filepath.Join(append([]string{string(d)}, names...)...)
}

// OnMachine is what stands for a path of the machine's own file system, below the folders that it can write.
func (d Disk) OnMachine(path string) string { return d.Path(VolumesFolder, "host", path) }

// Log is the path of a program's or a service's log.
func (d Disk) Log(name string) string { return d.Path(LogsFolder, name+".log") }

// Installation reads the disk's META; fresh is that of a disk which has none yet.
func (d Disk) Installation(fresh Installation) (Installation, error) {
	data, err := os.ReadFile(d.Path(metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	} else if err != nil {
		return fresh, err
	}

	var stored Installation
	if err := json.Unmarshal(data, &stored); err != nil {
		return fresh, fmt.Errorf("%s: %w", metaFile, err)
	}

	return stored, nil
}

// SaveInstallation writes META.
func (d Disk) SaveInstallation(value Installation) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}

	return WriteFile(d.Path(metaFile), data)
}

// Meta are the values that somebody wrote into META, by their keys.
func (d Disk) Meta() (map[uint8]string, error) {
	values := map[uint8]string{}

	data, err := os.ReadFile(d.Path(valuesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return values, nil
	} else if err != nil {
		return values, err
	}

	if err := json.Unmarshal(data, &values); err != nil {
		return values, fmt.Errorf("%s: %w", valuesFile, err)
	}

	return values, nil
}

// SaveMeta writes the values of META.
func (d Disk) SaveMeta(values map[uint8]string) error {
	data, err := json.Marshal(values)
	if err != nil {
		return err
	}

	return WriteFile(d.Path(valuesFile), data)
}

// Config reads the persisted machine configuration; nil when there is none.
func (d Disk) Config() (config.Provider, error) {
	data, err := os.ReadFile(d.Path(ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}

	return configloader.NewFromBytes(data)
}

// SaveConfig persists a machine configuration.
func (d Disk) SaveConfig(provider config.Provider) error {
	data, err := provider.Bytes()
	if err != nil {
		return err
	}

	return WriteFile(d.Path(ConfigFile), data)
}

// Wipe empties partitions of the disk: no label means all of it.
func (d Disk) Wipe(labels ...string) error {
	names := map[string][]string{"STATE": {ConfigFile}, "EPHEMERAL": Ephemeral, "META": {valuesFile}, "": append([]string{ConfigFile, metaFile, valuesFile}, Ephemeral...)}

	if len(labels) == 0 {
		labels = []string{""}
	}

	var problems []error

	for _, label := range labels {
		for _, name := range names[label] {
			problems = append(problems, os.RemoveAll(d.Path(name)))
		}
	}

	return errors.Join(problems...)
}

// EphemeralUsed is what lies on EPHEMERAL, in bytes, by the sizes of its files: a sparse one counts whole.
func (d Disk) EphemeralUsed() uint64 {
	sum := FolderSize(d.Path(LogsFolder))
	for _, name := range Ephemeral {
		sum += FolderSize(d.Path(name))
	}

	return sum
}

// FolderSize is the sum of the sizes of all files in a folder, in bytes.
func FolderSize(folder string) uint64 {
	var sum uint64

	_ = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it went meanwhile
		}

		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			sum += uint64(info.Size()) //nolint:gosec // a size
		}

		return nil
	})

	return sum
}

// WriteFile replaces a file in one step.
func WriteFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}

	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}

	return os.Rename(path+".new", path)
}

// HasEntries says whether a folder exists and is not empty.
func HasEntries(path string) bool {
	entries, err := os.ReadDir(path)

	return err == nil && len(entries) > 0
}
