package talosapi

import (
	"log/slog"
	"testing"
	"time"

	"platform.lab/lab/internal/machine/blockdevices"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kubelet"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/resources"
	"platform.lab/lab/internal/machine/services"
)

// simple is a system that does nothing.
type simple struct{ System }

func (simple) TalosVersion() string { return "v1.13.9" }

// testMachine is a running machine without a network: what needs none of its parts can be tested on it.
func testMachine(t *testing.T, hostname string) *Machine {
	t.Helper()

	log := slog.New(slog.DiscardHandler)
	life, active, on, vm := lifetime.New(t.Context(), log), &configuration.Active{}, disk.Disk(t.TempDir()), hardware.VM{Name: hostname}
	t.Cleanup(life.Cut)

	network := guestnetwork.WithoutCard(life, active, vm)
	network.Platform = &guestinfo.Network{Hostname: hostname}

	return &Machine{
		Lifetime: life, Active: active, Hardware: vm, Now: func() hardware.VM { return vm }, Begun: time.Now(), Disk: on, Network: network,
		Services: services.New(life, active.IsControlPlane), System: simple{},
		Resources: &resources.Publisher{Machine: resources.Machine{Lifetime: life, Active: active, Devices: blockdevices.New(func() hardware.VM { return vm })}},
		Kubelet: kubelet.New(kubelet.Machine{
			Lifetime: life, Active: active, Now: func() hardware.VM { return vm }, Begun: time.Now(), Disk: on, Network: network, LabLog: log,
		}),
	}
}
