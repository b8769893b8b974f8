package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"platform.lab/lab/internal/stackfile"
)

// takesConfigFile are the engine's commands that read a stack file.
var takesConfigFile = []string{"up", "update", "preview", "pre", "destroy", "dn", "refresh", "import", "watch", "config"}

// takesNone are commands with a subcommand that is called like one of those.
var takesNone = []string{"stack", "state", "policy", "plugin", "org", "schema"}

// Pulumi replaces the process by the real engine. Commands that read the stack file get the lab's
// copy of it, made anew each time, so that an edit of the operator's file counts at once.
func Pulumi(args []string) error {
	root := os.Getenv("LAB_WORLD")
	if root == "" {
		return errors.New("LAB_WORLD is not set: this `pulumi` runs inside a world only (`lab run -- pulumi ...`)")
	}
	l := Layout{Root: root}
	spec, err := l.readSpec()
	if err != nil {
		return err
	}
	if needsConfigFile(args) {
		if err := stackfile.Copy(spec.StackFile, l.StackCopy(), Namespace, spec.Secrets); err != nil {
			return err
		}
		args = append(slices.Clone(args), "--config-file", l.StackCopy())
	}
	real := filepath.Join(spec.Bin, "pulumi")
	if setsSecret(args) {
		return setSecret(l, spec, real, args)
	}
	return syscall.Exec(real, append([]string{"pulumi"}, args...), os.Environ())
}

// setSecret runs `pulumi config set --secret` and keeps the new value for all later copies: the
// operator's own file is never written.
func setSecret(l Layout, spec *Spec, real string, args []string) error {
	cmd := exec.Command(real, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("config set: %w", err)
	}
	if err := spec.Secrets.Learn(l.StackCopy(), Namespace); err != nil {
		return err
	}
	return writeSpec(l, spec)
}

func setsSecret(args []string) bool {
	return slices.Contains(args, "config") && slices.Contains(args, "set") && slices.Contains(args, "--secret")
}

func needsConfigFile(args []string) bool {
	for _, a := range args {
		if a == "--config-file" || strings.HasPrefix(a, "--config-file=") {
			return false
		}
	}
	for _, a := range args { // the first that is a command: a flag's value may stand before it
		if slices.Contains(takesConfigFile, a) {
			return true
		}
		if slices.Contains(takesNone, a) {
			return false
		}
	}
	return false
}
