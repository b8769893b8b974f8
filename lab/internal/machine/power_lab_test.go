//go:build lab

package machine

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
)

// otherProcesses are the command lines of all processes of the test's namespace but the test's own.
func otherProcesses(t *testing.T) []string {
	t.Helper()

	folders, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}

	var list []string

	for _, folder := range folders {
		if filepath.Base(filepath.Dir(folder)) == strconv.Itoa(os.Getpid()) {
			continue
		}

		if data, err := os.ReadFile(folder); err == nil && len(data) > 0 {
			list = append(list, strings.ReplaceAll(string(data), "\x00", " "))
		}
	}

	return list
}

func TestACrashedProgramIsStartedAgainAndPowerOffLeavesNone(t *testing.T) {
	w := newWorld(t)
	w.startup(1)
	w.apply(1, machinetype.TypeControlPlane)
	w.bootstrap(1)
	w.until("the control plane runs", func() bool { return w.planeReady(1) })

	before := w.pids(1)["kube-apiserver"]
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}

	w.until("the crash is seen", func() bool {
		return strings.Contains(strings.Join(w.status(1).Unmet, " "), "staticPods: kube-system/kube-apiserver-node01 not ready")
	})
	w.until("another API server runs", func() bool { return w.planeReady(1) && w.pids(1)["kube-apiserver"] != before })

	w.fleet.PowerOff(w.hardware(1).ID)

	if w.status(1).PoweredOn {
		t.Error("the machine is still on when its power has been cut")
	}

	w.fleet.Close()

	if left := otherProcesses(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	w.fleet.Destroy(w.hardware(1).ID)

	if left := w.fleet.Status(); len(left) > 0 {
		t.Errorf("a destroyed machine is still there: %v", left)
	}
}

func TestAMachineWithoutAnAddressIsUnreachable(t *testing.T) {
	w := newWorld(t)
	hardware := w.hardware(1)
	hardware.GuestInfo = nil
	w.fleet.PowerOn(hardware)
	w.until("the machine waits in maintenance mode", func() bool { return w.status(1).Stage == "maintenance" })

	if s := w.status(1); s.Address != "" {
		t.Errorf("it has an address: %s", s.Address)
	}
}

func TestAMachineFromAnISOInstallsFirst(t *testing.T) {
	w := newWorld(t)
	w.fleet.options.InstallDelay = 3 * time.Second // long enough to be seen
	w.startup(1)

	before := w.bootOf(1)
	w.apply(1, machinetype.TypeControlPlane)
	w.until("it installs", func() bool { return w.status(1).Stage == "installing" })
	w.until("it has booted from its disk", func() bool {
		after := w.bootID(1)

		return after != "" && strings.TrimSpace(after) != before
	})
}

func (w *world) bootOf(number int) string {
	return w.fleet.find(w.hardware(number).ID).current().id
}
