package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Launch starts a command in the pod's network namespace.
type Launch func(*exec.Cmd) error

// Process is the running program of a container.
type Process struct {
	spec    Spec
	launch  Launch
	cmd     *exec.Cmd
	started time.Time

	ended chan struct{}
	exit  Exit

	mu sync.Mutex
	// killed is why the lab killed it; "" when it did not.
	killed string
}

// Exit is how a program ended.
type Exit struct {
	// Code is the exit code, 128 and the signal's number when a signal ended it.
	Code int
	// Signal is 0 when it ended by itself.
	Signal int
	At     time.Time
}

// Start starts a container; self is the lab's program with what comes before Command, stdout and stderr get what the program
// writes. An error says why the program has not begun, in the words of a container's runtime.
func Start(self []string, spec Spec, launch Launch, stdout, stderr *os.File) (*Process, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}

	given, give, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer given.Close()

	problems, tell, err := os.Pipe()
	if err != nil {
		give.Close()

		return nil, err
	}
	defer problems.Close()

	cmd := exec.Command(self[0], append(self[1:len(self):len(self)], Command)...)
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.ExtraFiles = []*os.File{given, tell}
	cmd.SysProcAttr = attributes(spec)

	err = launch(cmd)

	tell.Close()

	if err != nil {
		give.Close()

		return nil, fmt.Errorf("failed to create containerd task: %w", err)
	}

	p := &Process{spec: spec, launch: launch, cmd: cmd, started: time.Now(), ended: make(chan struct{})}

	go p.wait()

	_, err = give.Write(text)
	give.Close()

	// The pipe is closed when the program has begun.
	said, _ := io.ReadAll(problems)
	if err != nil || len(said) > 0 {
		<-p.ended

		return nil, fmt.Errorf("failed to create containerd task: failed to create shim task: OCI runtime create failed: %s", said)
	}

	return p, nil
}

func attributes(spec Spec) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}

	if spec.nested() {
		attributes.Cloneflags |= syscall.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(spec.User), HostID: 0, Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(spec.Group), HostID: 0, Size: 1}}

		// For the lab's program, which makes the tree; what comes after it has none.
		if spec.User != 0 {
			for number := range lastCapability + 1 {
				if known(uintptr(number)) {
					attributes.AmbientCaps = append(attributes.AmbientCaps, uintptr(number))
				}
			}
		}
	}

	return attributes
}

// known says whether the running kernel has a capability.
func known(number uintptr) bool {
	_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, number, 0, 0, 0)

	return err == nil
}

func (p *Process) wait() {
	_ = p.cmd.Wait() // its state says more

	p.exit = Exit{Code: p.cmd.ProcessState.ExitCode(), At: time.Now()}

	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.exit.Signal = int(status.Signal())
		p.exit.Code = 128 + p.exit.Signal
	}

	close(p.ended)
}

// Ended is closed when the program and all that it started are gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Exit is how it ended, after Ended.
func (p *Process) Exit() Exit { return p.exit }

// Started is when it began.
func (p *Process) Started() time.Time { return p.started }

// PID is the process' number in the lab.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal asks the program; like the first process of every container it ignores what it does not handle.
func (p *Process) Signal(signal syscall.Signal) { _ = p.cmd.Process.Signal(signal) }

// Kill ends the program and all that it started.
func (p *Process) Kill() { _ = p.cmd.Process.Kill() }

// KillFor kills with a reason, which KilledFor gives from then on.
func (p *Process) KillFor(reason string) {
	p.mu.Lock()
	p.killed = reason
	p.mu.Unlock()
	p.Kill()
}

// KilledFor is why the lab killed it; "" when it did not.
func (p *Process) KilledFor() string {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.killed
}

// Stop asks the program to end, and kills it after the grace period, or when the context ends.
func (p *Process) Stop(ctx context.Context, grace time.Duration) {
	p.Signal(syscall.SIGTERM)

	timer := time.NewTimer(grace)
	defer timer.Stop()

	select {
	case <-p.ended:
		return
	case <-timer.C:
	case <-ctx.Done():
	}

	p.Kill()
	<-p.ended
}

// errNoEntry says that the program which enters namespaces is missing.
var errNoEntry = errors.New("missing tool: nsenter (package util-linux), which enters a pod")

// CommandFor is a command inside of the container, to be started with Launch. It ends with its process group.
func (p *Process) CommandFor(argv []string) (*exec.Cmd, error) {
	enter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, errNoEntry
	}

	arguments := []string{"--target", strconv.Itoa(p.PID()), "--mount", "--uts", "--ipc", "--pid"}
	if p.spec.nested() {
		arguments = append(arguments, "--user", "--preserve-credentials")
	}

	folder := p.spec.Folder
	if folder == "" {
		folder = "/"
	}

	// nsenter stands in the new root; its own option for the folder is older than what it needs here.
	script := `cd "$0" 2>/dev/null; exec "$@"`
	arguments = append(arguments, "--", "/bin/sh", "-c", script, folder)

	cmd := exec.Command(enter, append(arguments, argv...)...)
	cmd.Env = p.spec.Environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}

	return cmd, nil
}

// Run runs a command inside of the container until it or the context ends.
func (p *Process) Run(ctx context.Context, argv []string, output io.Writer) error {
	cmd, err := p.CommandFor(argv)
	if err != nil {
		return err
	}

	cmd.Stdout, cmd.Stderr = output, output

	return p.RunCommand(ctx, cmd)
}

// RunCommand starts a command of CommandFor and waits for its end; with the context it and its children are killed.
func (p *Process) RunCommand(ctx context.Context, cmd *exec.Cmd) error {
	cmd.WaitDelay = time.Second

	if err := p.launch(cmd); err != nil {
		return err
	}

	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer stop()

	return cmd.Wait()
}

// Usage is what the container's processes have used since it started: seconds of CPU, and bytes that are in memory now.
// Anonymous is the part of these that no file stands behind.
type Usage struct {
	Seconds          float64
	Bytes, Anonymous float64
}

// Usage reads the container's processes.
func (p *Process) Usage() Usage {
	select {
	case <-p.ended:
		return Usage{}
	default:
	}

	var sum Usage

	for _, pid := range tree(p.PID()) {
		seconds := cpuSeconds(pid)
		all, anonymous := resident(pid)
		sum.Seconds += seconds
		sum.Bytes += all
		sum.Anonymous += anonymous
	}

	return sum
}

// tree is a process with all that descend from it.
func tree(pid int) []int {
	all := []int{pid}

	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return all
	}

	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err == nil {
		for _, task := range tasks {
			if task.Name() == strconv.Itoa(pid) {
				continue
			}

			more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			children = append(append(children, ' '), more...)
		}
	}

	for _, field := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(field); err == nil {
			all = append(all, tree(child)...)
		}
	}

	return all
}

// clockTicks a second are what /proc counts CPU time in (USER_HZ, the same on every Linux platform).
const clockTicks = 100

// cpuSeconds are a process' own, and those of its children that have ended.
func cpuSeconds(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}

	// The name in parentheses may hold spaces: count from behind it. utime to cstime are fields 14 to 17.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 15 {
		return 0
	}

	var ticks float64

	for _, field := range fields[11:15] {
		value, _ := strconv.ParseFloat(field, 64)
		ticks += value
	}

	return ticks / clockTicks
}

// resident is a process' memory in bytes: all of it, and the anonymous part.
func resident(pid int) (all, anonymous float64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}

	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %g kB", &kib); err == nil {
			all = kib * 1024
		}

		if _, err := fmt.Sscanf(line, "RssAnon: %g kB", &kib); err == nil {
			anonymous = kib * 1024
		}
	}

	return all, anonymous
}
