// Package lifetime is the time between a machine's power on and its next power off: what all parts of the
// running system wait by, end with, and log to.
package lifetime

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Tick is the pace of the loops that look after a machine.
const Tick = 250 * time.Millisecond

// Lifetime ends in two steps: StopServices asks the services to end in order, Cut takes the power away.
type Lifetime struct {
	// Log is that of machined, the system itself.
	Log *slog.Logger

	ctx    context.Context //nolint:containedctx // the life of the system is the context
	cancel context.CancelFunc
	wait   sync.WaitGroup

	// changed has room for one token.
	changed chan struct{}

	mu       sync.Mutex
	stopping chan struct{}
}

// New begins a life that ends with the context at the latest.
func New(ctx context.Context, log *slog.Logger) *Lifetime {
	ctx, cancel := context.WithCancel(ctx)

	return &Lifetime{Log: log, ctx: ctx, cancel: cancel, changed: make(chan struct{}, 1), stopping: make(chan struct{})}
}

// Context ends when the power goes.
func (l *Lifetime) Context() context.Context { return l.ctx }

// IsOver says whether the power is gone.
func (l *Lifetime) IsOver() bool { return l.ctx.Err() != nil }

// Cut takes the power away; Wait returns when nothing is left.
func (l *Lifetime) Cut() { l.cancel() }

// Wait returns when all parts begun with Go have ended.
func (l *Lifetime) Wait() { l.wait.Wait() }

// Go runs a part of the system; power off waits for its end.
func (l *Lifetime) Go(part func()) { l.wait.Go(part) }

// StopServices tells the services to end (reboot, reset, shutdown, upgrade).
func (l *Lifetime) StopServices() {
	l.mu.Lock()
	defer l.mu.Unlock()

	select {
	case <-l.stopping:
	default:
		close(l.stopping)
	}
}

// Stopping is closed when the services are to end.
func (l *Lifetime) Stopping() <-chan struct{} { return l.stopping }

// IsStopping says whether the services are to end, or the power is gone.
func (l *Lifetime) IsStopping() bool {
	select {
	case <-l.stopping:
		return true
	default:
		return l.IsOver()
	}
}

// Changed says that something of the machine is not as it was. Every part that its resources show calls it.
func (l *Lifetime) Changed() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Changes gives one token, however often Changed was called since the last one was taken.
func (l *Lifetime) Changes() <-chan struct{} { return l.changed }

// Sleep waits; false when the power goes first.
func (l *Lifetime) Sleep(duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()

	select {
	case <-l.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Await waits for a channel; false when the power goes first.
func (l *Lifetime) Await(ready <-chan struct{}) bool {
	select {
	case <-l.ctx.Done():
		return false
	case <-ready:
		return true
	}
}

// LogError logs what failed, unless the power went meanwhile.
func (l *Lifetime) LogError(what string, err error) {
	if err != nil && !l.IsOver() {
		l.Log.Error(what, "error", err)
	}
}
