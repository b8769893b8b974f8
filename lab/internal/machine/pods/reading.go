package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/creack/pty"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"platform.lab/lab/internal/machine/container"
)

// LogFile is the log of a container as its runtime writes it (see Plain), or of its last start but one; "" of a container that is
// none of ours or that has not run so often.
func (r *Runtime) LogFile(pod *corev1.Pod, name string, previous bool) string {
	if !r.Owns(pod) {
		return ""
	}

	number := int32(0)

	if w := r.worker(pod.Namespace, pod.Name); w != nil {
		w.mu.Lock()

		if one := w.member(name); one != nil {
			number = one.restarts
		}
		w.mu.Unlock()
	} else {
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.Name == name {
				number = status.RestartCount
			}
		}
	}

	if previous {
		number--
	}

	path := r.logPath(pod, name, number)
	if _, err := os.Stat(path); err != nil {
		return ""
	}

	return path
}

// member finds a container; the caller holds mu.
func (w *worker) member(name string) *member {
	at := slices.IndexFunc(w.members, func(one *member) bool { return one.spec.Name == name })
	if at < 0 {
		return nil
	}

	return w.members[at]
}

// Use is what a running container has used since it started.
type Use struct {
	container.Usage

	Started time.Time
	PID     int
}

// Used are the running containers of all pods, by pod and name.
func (r *Runtime) Used() map[types.UID]map[string]Use {
	found := map[types.UID]map[string]Use{}

	for _, w := range r.all() {
		pod := w.podNow()
		found[pod.UID] = map[string]Use{}

		for _, one := range w.members {
			if process := w.processOf(one); process != nil {
				found[pod.UID][one.spec.Name] = Use{Usage: process.Usage(), Started: process.Started(), PID: process.PID()}
			}
		}
	}

	return found
}

// find gives the running process of a container.
func (r *Runtime) find(namespace, name, containerName string) (*container.Process, error) {
	w := r.worker(namespace, name)
	if w == nil {
		return nil, fmt.Errorf("pod %q does not run here", name)
	}

	w.mu.Lock()
	defer w.mu.Unlock()

	one := w.member(containerName)
	if one == nil {
		return nil, fmt.Errorf("container not found (%q)", containerName)
	}

	if one.process == nil {
		return nil, fmt.Errorf("container %q is not running", containerName)
	}

	return one.process, nil
}

// Executor runs commands in the pods of a namespace, for the streaming server of a container's runtime.
func (r *Runtime) Executor(namespace string) remotecommand.Executor { return executor{r, namespace} }

type executor struct {
	r         *Runtime
	namespace string
}

// ExecInContainer runs a command until it ends or the caller goes.
func (e executor) ExecInContainer(
	ctx context.Context, pod, _, name string, argv []string, in io.Reader, out, errors io.WriteCloser, tty bool,
	resize <-chan remotecommand.TerminalSize, timeout time.Duration,
) error {
	process, err := e.r.find(e.namespace, pod, name)
	if err != nil {
		return err
	}

	if timeout > 0 {
		var cancel context.CancelFunc

		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}

	cmd, err := process.CommandFor(argv)
	if err != nil {
		return err
	}

	if tty {
		err = runInTerminal(ctx, process, cmd, in, out, resize)
	} else {
		err = runPlain(ctx, process, cmd, in, out, errors)
	}

	var failed *exec.ExitError
	if asExit(err, &failed) {
		return &utilexec.ExitErrorWrapper{ExitError: failed}
	}

	return err
}

func asExit(err error, failed **exec.ExitError) bool { return errors.As(err, failed) }

func runPlain(ctx context.Context, process *container.Process, cmd *exec.Cmd, in io.Reader, out, problems io.Writer) error {
	cmd.Stdout, cmd.Stderr = out, problems

	if in != nil {
		// Not by the command itself: it would wait for a reader that never ends.
		input, err := cmd.StdinPipe()
		if err != nil {
			return err
		}

		go func() {
			_, _ = io.Copy(input, in)
			input.Close()
		}()
	}

	return process.RunCommand(ctx, cmd)
}

func runInTerminal(ctx context.Context, process *container.Process, cmd *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	master, terminal, err := pty.Open()
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer master.Close()

	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr.Setctty = true
	cmd.Env = append(slices.Clone(cmd.Env), "TERM=xterm")

	go func() {
		for size := range resize {
			_ = pty.Setsize(master, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()

	if in != nil {
		go func() { _, _ = io.Copy(master, in) }()
	}

	shown := make(chan struct{})

	go func() {
		defer close(shown)

		_, _ = io.Copy(out, master) // ends with an error when the terminal's last user has gone
	}()

	err = process.RunCommand(ctx, cmd)

	terminal.Close()
	<-shown

	return err
}

// Forwarder reaches ports of the pods of a namespace, from inside of them.
func (r *Runtime) Forwarder(namespace string) Forwarder { return Forwarder{r, namespace} }

// Forwarder is what kubectl port-forward talks to.
type Forwarder struct {
	r         *Runtime
	namespace string
}

// PortForward copies between a stream and a port until one of them ends.
func (f Forwarder) PortForward(ctx context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()

	w := f.r.worker(f.namespace, name)
	if w == nil {
		return fmt.Errorf("pod %q does not run here", name)
	}

	w.mu.Lock()
	sandbox := w.sandbox
	w.mu.Unlock()

	if sandbox == nil {
		return fmt.Errorf("pod %q has no network", name)
	}

	conn, err := sandbox.dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()

	ended := make(chan error, 1)

	go func() {
		_, err := io.Copy(conn, stream)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}

		ended <- err
	}()

	_, err = io.Copy(stream, conn)
	stream.Close()

	return errors.Join(err, <-ended)
}
