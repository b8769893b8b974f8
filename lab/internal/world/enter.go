package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Run makes a world, runs command in it and takes the world down again. Without a command the
// world stays until the process gets SIGINT or SIGTERM. The answer is the command's exit code.
func Run(l Layout, command []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	folder, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	// The kernel ends the world when this thread ends (Pdeathsig), so keep it.
	runtime.LockOSThread()
	cmd := exec.Command(self, append([]string{initCommand, l.Root, folder}, command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		// Root inside is the operator outside: no privilege is gained.
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	// The terminal sends SIGINT to the whole group: the command or the init answers to it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("entering new namespaces: %w; the kernel must allow user namespaces "+
			"(sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)", err)
	}
	if err := writeAlive(l, cmd.Process.Pid); err != nil {
		return 0, errors.Join(err, cmd.Process.Kill())
	}
	defer os.Remove(l.Alive())
	go func() {
		for s := range signals {
			if s != syscall.SIGINT {
				_ = cmd.Process.Signal(s) // it may have ended just now
			}
		}
	}()
	return exitCode(cmd.Wait())
}

func writeAlive(l Layout, pid int) error {
	text, err := json.Marshal(alive{PID: pid, Since: time.Now()})
	if err != nil {
		return err
	}
	return os.WriteFile(l.Alive(), text, 0o600)
}

func exitCode(err error) (int, error) {
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return failed.ExitCode(), nil
	}
	return 0, err
}

// untilTheCommandEnds is what stays outside of the world while a command runs in it. A Ctrl-C reaches the command
// too, which may need a while to end well; nsenter itself would end at once, and leave it behind.
const untilTheCommandEnds = `trap : INT; "$@"; exit $?`

// Join runs command in a world that is already there, in the caller's place, and ends with it.
func Join(l Layout, command []string) error {
	pid := l.Running()
	if pid == 0 {
		return fmt.Errorf("world %s is not running; start it with `lab up`", l.Root)
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return errors.New("missing tool: nsenter (package util-linux), which enters a running world")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	folder, err := os.Getwd()
	if err != nil {
		return err
	}
	argv := []string{
		"nsenter", "--target", strconv.Itoa(pid), "--user", "--preserve-credentials", "--mount", "--net", "--pid",
		"--no-fork", "--", "/bin/sh", "-c", untilTheCommandEnds, "lab",
		self, insideCommand, l.Root, folder,
	}
	return syscall.Exec(nsenter, append(argv, command...), os.Environ())
}

// Inside replaces the process by command, in folder and with the world's environment.
func Inside(l Layout, folder string, command []string) error {
	spec, err := l.readSpec()
	if err != nil {
		return err
	}
	env := environment(l, spec)
	program, err := lookPath(command[0], env)
	if err != nil {
		return err
	}
	if err := os.Chdir(folder); err != nil {
		return err
	}
	return syscall.Exec(program, command, env)
}
