// Package process supervises the real programs of a machine: what crashes is started again.
package process

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"platform.lab/lab/internal/machine/disk"
)

const (
	// restartDelay is the pause before a crashed program is started again; Talos waits 5 s, the kubelet 10 s
	// and more: shortened here.
	restartDelay    = time.Second
	maxRestartDelay = 10 * time.Second

	// logTailBytes of a program's log are read when the end of the log is shown.
	logTailBytes  = 4096
	crashLogLines = 5
)

// Process is a supervised program of a boot: started again whenever it ends, until it is stopped.
type Process struct {
	Name    string
	LogPath string

	stopped chan struct{}
	done    chan struct{}

	mu       sync.Mutex
	cmd      *exec.Cmd
	started  time.Time
	restarts int
}

// Program is what a process runs and where.
type Program struct {
	Path        string
	Arguments   []string
	Environment []string
	// Launch starts it: inside a machine's namespace, or in the lab's own.
	Launch func(*exec.Cmd) error
	Log    *slog.Logger
}

// Programs are those of a folder, started inside a machine.
type Programs struct {
	Folder      string
	Environment []string
	Disk        disk.Disk
	// Launch starts a command inside the machine.
	Launch func(*exec.Cmd) error
	Log    *slog.Logger
}

// Start starts a program by its name and keeps it running.
func (p Programs) Start(name string, arguments, environment []string) *Process {
	return Supervise(p.Disk.Log(name), Program{
		Path:        filepath.Join(p.Folder, name),
		Arguments:   arguments,
		Environment: append(slices.Clone(p.Environment), environment...),
		Launch:      p.Launch,
		Log:         p.Log,
	})
}

// Supervise runs a program until the process is stopped.
func Supervise(logPath string, what Program) *Process {
	p := &Process{
		Name:    filepath.Base(what.Path),
		LogPath: logPath,
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}

	go p.keepRunning(what)

	return p
}

func (p *Process) keepRunning(what Program) {
	defer close(p.done)

	delay := restartDelay

	for {
		begun := time.Now()

		err := p.runOnce(what)

		if p.isStopped() {
			return
		}

		what.Log.Warn(p.Name+" ended, it is started again", "error", err, "log", p.LogPath, "end", tail(p.LogPath, crashLogLines))

		if time.Since(begun) > time.Minute {
			delay = restartDelay
		}

		select {
		case <-p.stopped:
			return
		case <-time.After(delay):
		}

		delay = min(delay*2, maxRestartDelay)
	}
}

func (p *Process) isStopped() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

func (p *Process) runOnce(what Program) error {
	logFile, err := os.OpenFile(p.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()

	cmd := exec.Command(what.Path, what.Arguments...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = append(os.Environ(), what.Environment...)

	if started, err := p.begin(cmd, what.Launch); !started {
		return err
	}

	err = cmd.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()

	p.cmd = nil

	return err
}

// begin starts the program unless the process was stopped before.
func (p *Process) begin(cmd *exec.Cmd, launch func(*exec.Cmd) error) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.isStopped() {
		return false, nil
	}

	if err := launch(cmd); err != nil {
		return false, err
	}

	if !p.started.IsZero() {
		p.restarts++
	}

	p.cmd, p.started = cmd, time.Now()

	return true, nil
}

// Stop asks the program to end and kills it after the grace period; with no grace it is killed at once.
func (p *Process) Stop(grace time.Duration) {
	p.mu.Lock()

	if !p.isStopped() {
		close(p.stopped)
	}

	cmd := p.cmd
	p.mu.Unlock()

	if cmd != nil {
		if grace > 0 {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		} else {
			_ = cmd.Process.Kill()
		}

		select {
		case <-p.done:
		case <-time.After(grace):
			_ = cmd.Process.Kill()
		}
	}

	<-p.done
}

// PID is the process' number, 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.cmd == nil {
		return 0
	}

	return p.cmd.Process.Pid
}

// StartTime is when the program was started last, and how often it was started again.
func (p *Process) StartTime() (time.Time, int) {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.started, p.restarts
}

// tail is the end of a file, at most the given number of lines.
func tail(path string, lines int) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()

	if info, err := file.Stat(); err == nil && info.Size() > logTailBytes {
		_, _ = file.Seek(-logTailBytes, io.SeekEnd)
	}

	data, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}

	all := strings.Split(string(bytes.TrimSpace(data)), "\n")

	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ResidentKiB reads a process' resident memory from /proc.
func ResidentKiB(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}

	for line := range strings.Lines(string(status)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}

	return 0
}

// Restart ends the program; its supervision starts it again.
func (p *Process) Restart() {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// clockTicks a second are what /proc counts CPU time in (USER_HZ, the same on every Linux platform).
const clockTicks = 100

// Seconds reads a process' CPU time from /proc, in seconds.
func Seconds(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}

	// The name in parentheses may hold spaces: count from behind it. utime and stime are fields 14 and 15.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 13 {
		return 0
	}

	var ticks float64

	for _, field := range fields[11:13] {
		value, err := strconv.ParseFloat(string(field), 64)
		if err != nil {
			return 0
		}

		ticks += value
	}

	return ticks / clockTicks
}
