package world

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is how much later than asked for the kernel may wake what runs in a world (Linux' own default is 50 µs), so that
// it wakes once for several timers. Programs in Go wake their own watchdog every 20 µs while they have little to do: at rest
// that was a third of what three control planes need of a processor. What waits for a packet, a file or another process is
// woken at once, as ever, and the shortest interval of etcd and of Kubernetes' leases is ten times as long and more.
const timerSlack = 10 * time.Millisecond

// withTimerSlack runs start on a thread with the slack. Processes that it starts have it, and so has all that they start.
func withTimerSlack(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// A kernel that cannot do this wakes more often, and nothing else is different.
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) == nil {
		// 0 is what the thread had when it began.
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }()
	}

	return start()
}
