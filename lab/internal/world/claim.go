package world

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTaken is the error of a folder that another world has.
var ErrTaken = errors.New("taken")

// Claim takes a world's folder for this process: no other world can begin there until it ends. The
// error is ErrTaken, with what is known of the other one, when it is too late.
func Claim(l Layout) error {
	if err := os.MkdirAll(l.Root, 0o700); err != nil {
		return err
	}
	lock, err := claimFolder(l.Root)
	if err == nil && l.Running() != 0 { // its owner was killed, and it is about to end
		lock.Close()
		err = unix.EWOULDBLOCK
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("world %s is %w: %s", l.Root, ErrTaken, l.Describe())
	}
	if err != nil {
		return err
	}
	claimed = append(claimed, lock)
	return l.checkOurs()
}

// claimed are the locks of this process, which end with it: a file that nobody holds would be closed.
var claimed []*os.File

// claimFolder locks a folder until the file is closed; the kernel closes it with this process.
func claimFolder(folder string) (*os.File, error) {
	lock, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// checkOurs refuses a folder that holds something else: a world begins by emptying its folder.
func (l Layout) checkOurs() error {
	entries, err := os.ReadDir(l.Root)
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Stat(l.Spec()); err != nil {
		return fmt.Errorf("--state %s: this folder holds something else than a world (%s, ...), and a world empties its folder; "+
			"name a folder of its own", l.Root, entries[0].Name())
	}
	return nil
}

// Describe says what a running world is for.
func (l Layout) Describe() string {
	since := l.readAlive().Since
	spec, err := l.readSpec()
	if err != nil || since.IsZero() {
		return "it is about to start"
	}
	faults := "no faults"
	if len(spec.Options.Faults) > 0 {
		faults = "faults " + strings.Join(spec.Options.Faults, ", ")
	}
	return fmt.Sprintf("it runs since %s (%s) on %s, with %s and a boot delay of %s",
		since.Format(time.TimeOnly), time.Since(since).Round(time.Second), spec.StackFile, faults, spec.Options.BootDelay)
}

// HasPlugins says whether a world runs with these provider plugins; see PublishedPlugins.
func (l Layout) HasPlugins(published map[string]bool) bool {
	spec, err := l.readSpec()
	return err == nil && maps.Equal(spec.Options.PublishedPlugins, published)
}

// Beside is the n-th world's folder beside the first one's; n counts from 1.
func (l Layout) Beside(n int) Layout { return Layout{Root: beside(l.Root, n)} }

func beside(path string, n int) string {
	if n == 1 {
		return path
	}
	return fmt.Sprintf("%s-%d", path, n)
}

// RunningBeside are the worlds that run in a folder and beside it.
func (l Layout) RunningBeside() []Layout {
	found, _ := filepath.Glob(l.Root + "-*") // the pattern is well-formed
	var running []Layout
	for _, root := range append([]string{l.Root}, found...) {
		if one := (Layout{Root: root}); one.Running() != 0 {
			running = append(running, one)
		}
	}
	return running
}

// ClaimOut takes a folder for what a command leaves until this process ends: the named one, or when
// another world writes to it one beside it.
func ClaimOut(folder string) (string, error) {
	for n := 1; ; n++ {
		path := beside(folder, n)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return "", err
		}
		lock, err := claimFolder(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		claimed = append(claimed, lock)
		return path, err
	}
}

// InWorld says whether this process is in a world already.
func InWorld() bool {
	command, err := os.ReadFile("/proc/1/cmdline")
	return err == nil && containsArgument(command, initCommand)
}

// empty removes what an earlier world left in its folder, which stays locked.
func (l Layout) empty() error {
	entries, err := os.ReadDir(l.Root)
	if err != nil {
		return err
	}
	var failed error
	for _, entry := range entries {
		if entry.Name() != filepath.Base(l.Spec()) { // by which the folder is known as a world's
			failed = errors.Join(failed, os.RemoveAll(l.path(entry.Name())))
		}
	}
	return failed
}
