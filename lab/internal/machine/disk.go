package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
)

// Files of a machine's disk. STATE is the configuration, EPHEMERAL everything that a wipe of it loses.
const (
	configFile    = "config.yaml"
	metaFile      = "meta.json"
	etcdFolder    = "etcd"
	secretsFolder = "secrets"
	kubeletFolder = "kubelet"
	podsFolder    = "pods"
	recoveryFile  = "etcd.snapshot"
)

var ephemeral = []string{etcdFolder, secretsFolder, kubeletFolder, podsFolder, recoveryFile}

// installation is what a machine's disk knows of its own installation (Talos' META partition and boot loader).
type installation struct {
	// Installed is false only for a machine that booted from an ISO and has not got a configuration yet.
	Installed    bool   `json:"installed"`
	TalosVersion string `json:"talosVersion"`
	Schematic    string `json:"schematic"`
	// Previous is the version that a rollback returns to.
	Previous string `json:"previous,omitempty"`
}

func (m *machine) path(names ...string) string {
	return filepath.Join(append([]string{m.dir}, names...)...)
}

// loadMeta reads the disk's META, or makes that of a disk fresh from the OVA.
func (m *machine) loadMeta() (installation, error) {
	image := m.vm().Image
	fresh := installation{Installed: m.fleet.options.InstallDelay == 0, TalosVersion: image.TalosVersion, Schematic: image.Schematic}

	data, err := os.ReadFile(m.path(metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	} else if err != nil {
		return fresh, err
	}

	var stored installation
	if err := json.Unmarshal(data, &stored); err != nil {
		return fresh, fmt.Errorf("%s: %w", metaFile, err)
	}

	return stored, nil
}

func (m *machine) saveMeta(value installation) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}

	return writeFile(m.path(metaFile), data)
}

// loadConfig reads the persisted machine configuration; nil when there is none.
func (m *machine) loadConfig() (config.Provider, error) {
	data, err := os.ReadFile(m.path(configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}

	return configloader.NewFromBytes(data)
}

func (m *machine) saveConfig(provider config.Provider) error {
	data, err := provider.Bytes()
	if err != nil {
		return err
	}

	return writeFile(m.path(configFile), data)
}

// wipe empties partitions of the disk: no label means all of it.
func (m *machine) wipe(labels ...string) error {
	names := map[string][]string{"STATE": {configFile}, "EPHEMERAL": ephemeral, "META": {}, "": append([]string{configFile, metaFile}, ephemeral...)}

	if len(labels) == 0 {
		labels = []string{""}
	}

	var problems []error

	for _, label := range labels {
		for _, name := range names[label] {
			problems = append(problems, os.RemoveAll(m.path(name)))
		}
	}

	return errors.Join(problems...)
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}

	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}

	return os.Rename(path+".new", path)
}

// hasEntries says whether a folder exists and is not empty.
func hasEntries(path string) bool {
	entries, err := os.ReadDir(path)

	return err == nil && len(entries) > 0
}
