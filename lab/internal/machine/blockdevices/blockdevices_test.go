package blockdevices

import (
	"fmt"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/hardware"
)

// machine is one whose disks a test changes.
type machine struct {
	*testing.T

	vm   hardware.VM
	disk disk.Disk
}

func newMachine(t *testing.T, disks ...hardware.Disk) *machine {
	return &machine{T: t, vm: hardware.VM{Disks: append([]hardware.Disk{{Unit: 0, GiB: 10, ID: "system"}}, disks...)}, disk: disk.Disk(t.TempDir())}
}

func (m *machine) boot() *Volumes {
	return &Volumes{Devices: New(func() hardware.VM { return m.vm }), Disk: m.disk}
}

func (m *machine) volume(name string, target int, more string) config.UserVolumeConfig {
	m.Helper()

	provider, err := configloader.NewFromBytes(fmt.Appendf(nil, `apiVersion: v1alpha1
kind: UserVolumeConfig
name: %s
provisioning:
  diskSelector:
    match: disk.bus_path.endsWith(":0:%d:0") && !system_disk
  minSize: 512MiB
  grow: true
%s`, name, target, more))
	if err != nil {
		m.Fatal(err)
	}

	if _, err = provider.Validate(mode{}); err != nil {
		m.Fatal(err)
	}

	return provider.UserVolumeConfigs()[0]
}

type mode struct{}

func (mode) String() string        { return "cloud" }
func (mode) RequiresInstall() bool { return false }
func (mode) InContainer() bool     { return false }

func (m *machine) status(v *Volumes, configs ...config.UserVolumeConfig) map[string]block.VolumeStatusSpec {
	m.Helper()

	found, err := v.Status(configs)
	if err != nil {
		m.Fatal(err)
	}

	return found
}

func TestAVolumeIsKnownByItsLabelOnceItIsThere(t *testing.T) {
	m := newMachine(t, hardware.Disk{Unit: 5, GiB: 20, ID: "data"})
	boot := m.boot()

	found := m.status(boot, m.volume("data", 5, ""))["u-data"]
	if found.Phase != block.VolumePhaseReady || found.Location != "/dev/sdb1" || found.Size != 20<<30-tableSize || found.Filesystem != block.FilesystemTypeXFS {
		t.Fatalf("%+v", found)
	}

	// A further disk is found at once, under the next name; after a boot it comes first.
	m.vm.Disks = []hardware.Disk{m.vm.Disks[0], {Unit: 2, GiB: 30, ID: "logs"}, m.vm.Disks[1]}

	all := m.status(boot, m.volume("data", 5, ""), m.volume("logs", 2, ""))
	if all["u-data"].Location != "/dev/sdb1" || all["u-logs"].Location != "/dev/sdc1" {
		t.Errorf("%+v", all)
	}

	all = m.status(m.boot(), m.volume("data", 2, ""), m.volume("logs", 2, ""))
	if all["u-logs"].Location != "/dev/sdb1" || all["u-data"].Location != "/dev/sdc1" {
		t.Errorf("%+v", all)
	}
}

func TestADiskThatNobodyMatchesIsToldInTalosWords(t *testing.T) {
	m := newMachine(t, hardware.Disk{Unit: 1, GiB: 1, ID: "small"})

	for _, one := range []struct {
		volume config.UserVolumeConfig
		says   string
	}{
		{m.volume("data", 5, ""), "no disks matched selector for volume"},
		{m.volume("data", 0, ""), "no disks matched selector for volume"}, // the system disk
		{m.volume("data", 1, "  maxSize: 4GiB\n"), ""},
	} {
		found := m.status(m.boot(), one.volume)["u-data"]
		if failed := found.Phase == block.VolumePhaseFailed; failed != (one.says != "") || found.ErrorMessage != one.says {
			t.Errorf("%+v", found)
		}
	}

	full := m.status(m.boot(), m.volume("data", 1, ""), m.volume("more", 1, ""))["u-more"]
	if full.ErrorMessage != "no disks matched for volume (1 matched selector): 1 have not enough space, 0 have wrong format, 0 have other issues" {
		t.Errorf("%+v", full)
	}
}

func TestALargerDiskIsTakenUpAtABoot(t *testing.T) {
	m := newMachine(t, hardware.Disk{Unit: 1, GiB: 20, ID: "data"})
	boot := m.boot()
	m.status(boot, m.volume("data", 1, ""))

	m.vm.Disks[1].GiB = 30
	if got := m.status(boot, m.volume("data", 1, ""))["u-data"].Size; got != 20<<30-tableSize {
		t.Errorf("it grew while it ran, to %d", got)
	}

	if got := m.status(m.boot(), m.volume("data", 1, ""))["u-data"].Size; got != 30<<30-tableSize {
		t.Errorf("after a boot it has %d", got)
	}
}

func TestAVolumeIsNotFormattedAgain(t *testing.T) {
	m := newMachine(t, hardware.Disk{Unit: 1, GiB: 20, ID: "data"})
	m.status(m.boot(), m.volume("data", 1, ""))

	found := m.status(m.boot(), m.volume("data", 1, "filesystem: { type: ext4 }\n"))["u-data"]
	if found.Phase != block.VolumePhaseFailed || found.ErrorMessage != "filesystem type mismatch: xfs != ext4" {
		t.Errorf("%+v", found)
	}
}

func TestWhatADiskHeldIsGoneWithIt(t *testing.T) {
	m := newMachine(t, hardware.Disk{Unit: 1, GiB: 20, ID: "data"})
	boot := m.boot()
	m.status(boot, m.volume("data", 1, "filesystem: { type: ext4 }\n"))

	m.vm.Disks = m.vm.Disks[:1]
	if got := m.status(boot, m.volume("data", 1, "")); got["u-data"].Phase != block.VolumePhaseFailed {
		t.Errorf("%+v", got)
	}

	m.vm.Disks = append(m.vm.Disks, hardware.Disk{Unit: 1, GiB: 20, ID: "data"})
	if got := m.status(boot, m.volume("data", 1, "")); got["u-data"].Phase != block.VolumePhaseReady {
		t.Errorf("%+v", got)
	}
}
