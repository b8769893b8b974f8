package machine

import (
	"log/slog"
	"testing"
	"time"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/events"
	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/kubelet"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/resources"
	"platform.lab/lab/internal/machine/services"
)

// testBoot is a running system without a network: what needs none of its parts can be tested on it.
func testBoot(t *testing.T, hostname string) *boot {
	t.Helper()

	fleet := NewFleet(Options{Dir: t.TempDir()})
	m := newMachine(fleet, t.TempDir(), Hardware{Name: hostname})

	b := &boot{
		Lifetime: lifetime.New(t.Context(), slog.New(slog.DiscardHandler)), Active: &configuration.Active{}, machine: m, begun: time.Now(),
		configured: make(chan struct{}),
	}
	t.Cleanup(b.Cut)
	b.network = guestnetwork.WithoutCard(b.Lifetime, b.Active, m.vm())
	b.network.Platform = &guestinfo.Network{Hostname: hostname}
	b.events, b.services, b.plane, b.secrets = events.New(b.Log), services.New(b.Log, b.IsControlPlane), controlplane.New(controlplane.Machine{Lifetime: b.Lifetime, Active: b.Active, Disk: m.disk, Network: b.network}), certificates.NewSecrets(b.machine.disk, b.network)
	b.node = kubelet.New(kubelet.Machine{
		Lifetime: b.Lifetime, Active: b.Active, Now: m.vm, Begun: b.begun, Disk: m.disk, Network: b.network, StaticPods: b.plane.Snapshot, LabLog: b.Log,
	})

	b.resources = &resources.Publisher{Machine: resources.Machine{Lifetime: b.Lifetime, Active: b.Active}}

	return b
}
