package world

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// slackOf is the slack of a process that start starts, as the kernel tells it.
func slackOf(t *testing.T, start func(cmd *exec.Cmd) error) int64 {
	t.Helper()

	var said strings.Builder

	// A child of that process tells it: what a program starts has its slack.
	cmd := exec.Command("sh", "-c", "sh -c 'cat /proc/self/timerslack_ns'; true")
	cmd.Stdout = &said

	if err := start(cmd); err != nil {
		t.Fatal(err)
	}

	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	found, err := strconv.ParseInt(strings.TrimSpace(said.String()), 10, 64)
	if err != nil {
		t.Fatal(err)
	}

	return found
}

func TestWhatTheServersStartWakesForSeveralTimersAtOnceAndNothingElseDoes(t *testing.T) {
	before := slackOf(t, (*exec.Cmd).Start)

	with := slackOf(t, func(cmd *exec.Cmd) error { return withTimerSlack(cmd.Start) })
	if with != timerSlack.Nanoseconds() {
		t.Errorf("slack of a server: %d ns, not %d", with, timerSlack.Nanoseconds())
	}

	if after := slackOf(t, (*exec.Cmd).Start); after != before {
		t.Errorf("slack of a process that is started afterwards: %d ns, not %d", after, before)
	}
}
