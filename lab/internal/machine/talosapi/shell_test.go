package talosapi

import (
	"errors"
	"strings"
	"testing"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/machine/blockdevices"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/simulated"
)

func TestAMethodThatNobodyWroteSaysSo(t *testing.T) {
	_, err := machineapi.UnimplementedMachineServiceServer{}.Restart(t.Context(), nil)
	if err = explained("/machine.MachineService/Restart", err); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), simulated.Mark) {
		t.Error(err)
	}

	own := status.Error(codes.Unimplemented, "kubeconfig is only available on control plane nodes")
	if got := explained("/machine.MachineService/Kubeconfig", own); !errors.Is(got, own) {
		t.Error(got)
	}

	if got := explained("/machine.MachineService/Version", nil); got != nil {
		t.Error(got)
	}
}

func TestTheSimulatedFilesAreThoseOfTheMachine(t *testing.T) {
	b := testMachine(t, "node01")
	b.BootID = "the-boot"
	b.Hardware = hardware.VM{Name: "node01", MemoryMiB: 1024, Disks: []hardware.Disk{{GiB: 10}, {Unit: 1, GiB: 20}}}
	b.Resources.Devices = blockdevices.New(func() hardware.VM { return b.Hardware })
	b.Now = func() hardware.VM { return hardware.VM{Name: "node01", MemoryMiB: 2048} } // it has grown while it runs

	for name, content := range map[string]string{disk.EtcdFolder + "/member/wal": "12345", disk.LogsFolder + "/machined.log": "{}\n"} {
		if err := disk.WriteFile(b.Disk.Path(name), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}

	all := b.files()

	for name, wanted := range map[string]string{
		bootIDPath: "the-boot\n", "/proc/sys/kernel/hostname": "node01\n", "/var/lib/etcd/member/wal": "12345", "/var/log/machined.log": "{}\n",
		"/proc/meminfo": "MemTotal:        2097152 kB",
	} {
		data, err := all.all[name].read()
		if err != nil || !strings.HasPrefix(string(data), wanted) {
			t.Errorf("%s: %q %v", name, data, err)
		}
	}

	for _, name := range []string{"/dev/sda", "/dev/sdb", "/etc/os-release", "/var/lib"} {
		if _, ok := all.all[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}

	if _, err := all.under("/nowhere"); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func TestAFolderIsAsLargeAsWhatLiesInIt(t *testing.T) {
	b := testMachine(t, "node01")
	if err := disk.WriteFile(b.Disk.Path(disk.EtcdFolder, "member", "wal"), make([]byte, 100)); err != nil {
		t.Fatal(err)
	}

	found, err := b.files().under("/var/lib/etcd")
	if err != nil {
		t.Fatal(err)
	}

	last := sized(found)[len(found)-1]
	if last.path != "/var/lib/etcd" || last.size != 100 {
		t.Errorf("%+v", last)
	}
}

func TestOnlyAKernelsOwnFilesAreSaidToBeSimulated(t *testing.T) {
	if err := missing("stat", "/sys/fs/cgroup"); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), simulated.Mark) {
		t.Error(err)
	}

	if err := missing("stat", "/etc/nothing"); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "stat /etc/nothing: no such file or directory") {
		t.Error(err)
	}
}
