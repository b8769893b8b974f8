package machine

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	logsFolder = "logs"

	// restartDelay is the pause before a crashed program is started again; Talos waits 5 s, the kubelet 10 s
	// and more: shortened here.
	restartDelay    = time.Second
	maxRestartDelay = 10 * time.Second

	// logTailBytes of a program's log are read when the end of the log is shown.
	logTailBytes  = 4096
	crashLogLines = 5
)

// process is a supervised program of a boot: started again whenever it ends, until it is stopped.
type process struct {
	name    string
	logPath string
	stopped chan struct{}
	done    chan struct{}

	mu       sync.Mutex
	cmd      *exec.Cmd
	started  time.Time
	restarts int
}

// program is what a process runs and where.
type program struct {
	path        string
	arguments   []string
	environment []string
	// launch starts it: inside a machine's namespace, or in the lab's own.
	launch func(*exec.Cmd) error
	log    *slog.Logger
}

// startProcess starts a program of the lab's Bin folder inside the machine.
func (b *boot) startProcess(name string, arguments, environment []string) *process {
	return supervise(b.machine.path(logsFolder, name+".log"), program{
		path:        filepath.Join(b.options().Bin, name),
		arguments:   arguments,
		environment: append(slices.Clone(b.options().Environment), environment...),
		launch:      b.namespace.Start,
		log:         b.Log,
	})
}

// supervise runs a program until the process is stopped.
func supervise(logPath string, what program) *process {
	p := &process{
		name:    filepath.Base(what.path),
		logPath: logPath,
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}

	go p.keepRunning(what)

	return p
}

func (p *process) keepRunning(what program) {
	defer close(p.done)

	delay := restartDelay

	for {
		begun := time.Now()

		err := p.runOnce(what)

		if p.isStopped() {
			return
		}

		what.log.Warn(p.name+" ended, it is started again", "error", err, "log", p.logPath, "end", tail(p.logPath, crashLogLines))

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

func (p *process) isStopped() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

func (p *process) runOnce(what program) error {
	logFile, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()

	cmd := exec.Command(what.path, what.arguments...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = append(os.Environ(), what.environment...)

	if started, err := p.begin(cmd, what.launch); !started {
		return err
	}

	err = cmd.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()

	p.cmd = nil

	return err
}

// begin starts the program unless the process was stopped before.
func (p *process) begin(cmd *exec.Cmd, launch func(*exec.Cmd) error) (bool, error) {
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

// stop asks the program to end and kills it after the grace period; with no grace it is killed at once.
func (p *process) stop(grace time.Duration) {
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

// pid is the process' number, 0 while it does not run.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.cmd == nil {
		return 0
	}

	return p.cmd.Process.Pid
}

func (p *process) startTime() (time.Time, int) {
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

// residentKiB reads a process' resident memory from /proc.
func residentKiB(pid int) int {
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

// restart ends the program; its supervision starts it again.
func (p *process) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
}
