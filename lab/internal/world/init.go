package world

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"platform.lab/lab/internal/progress"
)

// Names of the hidden commands by which the lab calls itself.
const (
	initCommand   = "init-world"
	serveCommand  = "serve-world"
	insideCommand = "inside-world"
)

// stopTime is what the servers get to end by themselves.
const stopTime = 10 * time.Second

// Init is the first process of the namespaces: it prepares them, keeps the servers and runs the
// command. The answer is the command's exit code.
func Init(l Layout, folder string, command []string) (int, error) {
	display := progress.New(os.Stderr)
	spec, err := l.readSpec()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(isolate(l, spec), protectTree(l, spec)); err != nil {
		return 0, fmt.Errorf("preparing the namespaces: %w", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)

	children := newReaper()
	servers, err := startServers(l, children, display)
	if err != nil {
		return 0, err
	}
	defer servers.stop()
	go watchRoom(l, display.Line)
	if len(command) == 0 {
		display.Line("the world is up: enter it with `lab run --join -- COMMAND` or `lab shell --join`; Ctrl-C ends it")
		select {
		case <-signals:
			return 0, nil
		case <-servers.process.ended:
			return 1, servers.crash(l)
		}
	}
	select {
	case s := <-signals: // before there was a command to answer it
		return 128 + int(s.(syscall.Signal)), nil //nolint:forcetypeassert // the only kind on Linux
	default:
	}
	env := environment(l, spec)
	program, err := lookPath(command[0], env)
	if err != nil {
		return 127, err
	}
	child, err := children.start(program, command, &os.ProcAttr{Dir: folder, Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 127, err
	}
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGINT { // that one came to the command from the terminal as well
				_ = child.handle.Signal(s)
			}
		case <-servers.process.ended:
			_ = child.handle.Kill()
			return 1, servers.crash(l)
		case <-child.ended:
			return child.code(), nil
		}
	}
}

// isolate gives the namespaces their own /proc and name resolution, and for SideroLink their own /var/run.
func isolate(l Layout, s *Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	if s.Settings.Omni != nil {
		if err := ownRun(l); err != nil {
			return err
		}
	}
	empty := l.path("resolv.conf")
	if err := os.WriteFile(empty, []byte("# no way out\n"), 0o644); err != nil {
		return err
	}
	for target, source := range map[string]string{"/etc/hosts": l.Hosts(), "/etc/resolv.conf": empty} {
		real, err := filepath.EvalSymlinks(target)
		if errors.Is(err, os.ErrNotExist) {
			continue // nothing there that could resolve a name
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(source, real, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	return nil
}

// serverProcess is the process of the lab's servers.
type serverProcess struct{ process *child }

// startServers starts the servers and shows their progress until they are ready.
func startServers(l Layout, children *reaper, display *progress.Display) (*serverProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(l.Log(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// A group of their own: Ctrl-C is for the command, and the servers must outlive it.
	var process *child
	err = withTimerSlack(func() error {
		var err error
		process, err = children.start(self, []string{self, serveCommand, l.Root}, &os.ProcAttr{
			Env:   append(os.Environ(), "SSL_CERT_FILE="+l.Authority(), "SSL_CERT_DIR="+l.path("no-certificates")),
			Files: []*os.File{null, log, log, writer},
			Sys:   &syscall.SysProcAttr{Setpgid: true},
		})
		return err
	})
	writer.Close()
	if err != nil {
		return nil, err
	}
	s := &serverProcess{process: process}
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		if lines.Text() == readyLine {
			return s, nil
		}
		display.Line("%s", lines.Text())
	}
	<-process.ended
	return nil, s.crash(l)
}

// stop ends the servers, first by asking.
func (s *serverProcess) stop() {
	_ = s.process.handle.Signal(syscall.SIGTERM)
	select {
	case <-s.process.ended:
	case <-time.After(stopTime):
		_ = s.process.handle.Kill()
	}
}

// crash names the end of the servers and shows what they said last.
func (s *serverProcess) crash(l Layout) error {
	return fmt.Errorf("the lab's servers ended (%s)%s; the end of %s:\n%s", s.process.how(), shortage(l), l.Log(), tail(l.Log(), 25))
}

// tail is the end of a log, or what follows the first line of a Go program's crash in it.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	crash := slices.IndexFunc(all, func(line string) bool {
		return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "SIG")
	})
	if crash >= 0 {
		return strings.Join(all[crash:min(crash+lines, len(all))], "\n")
	}
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// reaper waits for every process of the namespace, those included that lost their parent.
type reaper struct {
	mu       sync.Mutex
	children map[int]*child
}

type child struct {
	handle *os.Process
	ended  chan struct{}
	status unix.WaitStatus
}

// how tells in words how a process ended.
func (c *child) how() string {
	if c.status.Signaled() {
		return c.status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", c.status.ExitStatus())
}

func (c *child) code() int {
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}

func newReaper() *reaper {
	r := &reaper{children: map[int]*child{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			r.collect()
		}
	}()
	return r
}

func (r *reaper) start(program string, argv []string, attributes *os.ProcAttr) (*child, error) {
	r.mu.Lock() // the child must be known before it is collected
	defer r.mu.Unlock()
	handle, err := os.StartProcess(program, argv, attributes)
	if err != nil {
		return nil, err
	}
	c := &child{handle: handle, ended: make(chan struct{})}
	r.children[handle.Pid] = c
	return c, nil
}

func (r *reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c := r.children[pid]; c != nil {
			c.status = status
			delete(r.children, pid)
			close(c.ended)
		}
	}
}

// lookPath finds a program on the PATH of env, not on this process' own.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, pair := range env {
		path, ok := strings.CutPrefix(pair, "PATH=")
		if !ok {
			continue
		}
		for _, folder := range filepath.SplitList(path) {
			if found, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
				return found, nil
			}
		}
	}
	return "", fmt.Errorf("missing tool: %s is not on the world's PATH", name)
}
