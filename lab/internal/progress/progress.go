// Package progress tells the operator what the lab is doing, with elapsed times.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Display prints one line when a step begins and one when it ends; it never rewrites a line, so
// that a log keeps what a terminal shows.
type Display struct {
	mu    sync.Mutex
	out   io.Writer
	begin time.Time
}

// New starts the clock of a display that writes to out.
func New(out io.Writer) *Display { return &Display{out: out, begin: time.Now()} }

// Step runs f under a name and reports how long it took, or that it failed.
func (d *Display) Step(name string, f func() error) error {
	begin := time.Now()
	d.Line("%s ...", name)
	if err := f(); err != nil {
		d.Line("%s failed after %s", name, round(time.Since(begin)))
		return fmt.Errorf("%s: %w", name, err)
	}
	d.Line("%s: done in %s", name, round(time.Since(begin)))
	return nil
}

// Line prints one line behind the time since the display began.
func (d *Display) Line(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, "[%7s] %s\n", round(time.Since(d.begin)), fmt.Sprintf(format, args...))
}

func round(d time.Duration) time.Duration {
	if d < time.Minute {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
