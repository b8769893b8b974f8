package machine

import (
	"log/slog"
	"testing"
	"time"

	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/lifetime"
)

// testBoot is a running system without a network: what needs none of its parts can be tested on it.
func testBoot(t *testing.T, hostname string) *boot {
	t.Helper()

	fleet := NewFleet(Options{Dir: t.TempDir()})
	m := newMachine(fleet, t.TempDir(), Hardware{Name: hostname})

	b := &boot{
		Lifetime: lifetime.New(t.Context(), slog.New(slog.DiscardHandler)), machine: m, begun: time.Now(),
		platform: &guestinfo.Network{Hostname: hostname}, configured: make(chan struct{}),
	}
	t.Cleanup(b.Cut)
	b.services, b.plane, b.secrets, b.node = newServices(b), newPlane(b), newSecrets(b), newNode(b)

	return b
}
