package machine

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// testBoot is a running system without a network: what needs none of its parts can be tested on it.
func testBoot(t *testing.T, hostname string) *boot {
	t.Helper()

	fleet := NewFleet(Options{Dir: t.TempDir()})
	m := newMachine(fleet, t.TempDir(), Hardware{Name: hostname})

	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)

	b := &boot{
		machine: m, log: slog.New(slog.DiscardHandler), ctx: ctx, cancel: cancel, begun: time.Now(),
		platform: &platformNetwork{Hostname: hostname}, stopping: make(chan struct{}), configured: make(chan struct{}),
	}
	b.services, b.plane, b.secrets, b.node = newServices(b), newPlane(b), newSecrets(b), newNode(b)

	return b
}
