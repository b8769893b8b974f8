package world

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"platform.lab/lab/internal/stackfile"
)

//go:embed shell
var shellFiles embed.FS

// shellTargets are where the shells look for their files, below a world's folder.
var shellTargets = map[string]string{
	"bashrc": "shell/bashrc", "prompt.sh": "shell/prompt.sh", "shrc": "shell/shrc",
	"zshenv": "shell/zsh/.zshenv", "zshrc": "shell/zsh/.zshrc",
}

// Shell replaces the process by the operator's shell, in the world that it runs in: whatever the
// operator's own files say, the world's PATH, variables and prompt win.
func Shell(joined bool) error {
	l := Layout{Root: os.Getenv("LAB_WORLD")}
	spec, err := l.readSpec()
	if err != nil {
		return fmt.Errorf("this runs inside a world only: %w", err)
	}
	if err := writeShellFiles(l, spec); err != nil {
		return err
	}
	argv, env, err := shellCommand(l, os.Getenv("SHELL"), os.Environ())
	if err != nil {
		return err
	}
	greet(os.Stderr, l, spec, joined)
	return syscall.Exec(argv[0], argv, env)
}

// shellCommand is the command line of a shell that reads the world's files, and its environment.
func shellCommand(l Layout, shell string, env []string) ([]string, []string, error) {
	find := func(name string) string {
		if path, err := lookPath(name, env); err == nil {
			return path
		}
		return ""
	}
	value := func(name string) string {
		for _, pair := range env {
			if v, ok := strings.CutPrefix(pair, name+"="); ok {
				return v
			}
		}
		return ""
	}
	sh := find("sh")
	switch filepath.Base(shell) {
	case "zsh":
		return []string{shell, "-i"}, replace(env, map[string]string{
			"LAB_OPERATORS_ZDOTDIR": value("ZDOTDIR"), "ZDOTDIR": l.path("shell", "zsh"),
		}), nil
	case "sh", "dash", "ash", "ksh", "mksh":
		sh = shell
	default: // bash, and those whose files the lab does not know
		if filepath.Base(shell) != "bash" {
			shell = find("bash")
		}
		if shell != "" {
			return []string{shell, "--rcfile", l.path("shell", "bashrc"), "-i"}, env, nil
		}
	}
	if sh == "" {
		return nil, nil, errors.New("missing tool: sh is not on PATH")
	}
	return []string{sh, "-i"}, replace(env, map[string]string{
		"LAB_OPERATORS_ENV": value("ENV"), "ENV": l.path("shell", "shrc"),
	}), nil
}

func replace(env []string, set map[string]string) []string {
	var out []string
	for _, pair := range env {
		name, _, _ := strings.Cut(pair, "=")
		if _, ours := set[name]; !ours {
			out = append(out, pair)
		}
	}
	for name, value := range set {
		out = append(out, name+"="+value)
	}
	return out
}

// writeShellFiles writes what the shells of a world read.
func writeShellFiles(l Layout, s *Spec) error {
	for name, target := range shellTargets {
		text, err := shellFiles.ReadFile("shell/" + name)
		if err != nil {
			return err
		}
		if err := stackfile.WriteAtomically(l.path(target), text); err != nil {
			return err
		}
	}
	return stackfile.WriteAtomically(l.path("shell", "environment.sh"), []byte(shellEnvironment(l, s)))
}

// shellEnvironment sets the world's variables again, after the operator's files: a KUBECONFIG or
// a PULUMI_BACKEND_URL of those is for another place.
func shellEnvironment(l Layout, s *Spec) string {
	var b strings.Builder
	for _, name := range outside {
		fmt.Fprintf(&b, "unset %s\n", name)
	}
	for name, value := range ownEnvironment(l, s) {
		if name != "PATH" {
			fmt.Fprintf(&b, "export %s=%s\n", name, quoted(value))
		}
	}
	fmt.Fprintf(&b, "LAB_MARK=%s\n", quoted(l.mark(s)))
	return b.String()
}

// quoted is a text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// mark begins every prompt in a world.
func (l Layout) mark(s *Spec) string {
	if name := filepath.Base(l.Root); name != "world" {
		return fmt.Sprintf("(lab %s, %s) ", s.Stack, name)
	}
	return fmt.Sprintf("(lab %s) ", s.Stack)
}

// greetedClients are the client of whoever manages the machines, and what to type first with it: Omni's machines answer
// Omni alone, and the lab's Omni passes nothing of talosctl on.
func greetedClients(s Settings) (client, first string) {
	if s.Omni != nil {
		return "omnictl", "omnictl get machines    Omni's view of the machines, as its administrator; talosctl is not answered here"
	}
	return "talosctl", `pulumi stack output --show-secrets talosconfig > "$TALOSCONFIG"`
}

// greet says what is there, what to try first and how to leave.
func greet(out io.Writer, l Layout, s *Spec, joined bool) {
	clients, credentials := greetedClients(s.Settings)
	leave := "`exit` or Ctrl-D; the world ends then, with all that was built in it"
	if joined {
		leave = "`exit` or Ctrl-D; the world keeps running, since another command started it"
	}
	fmt.Fprintf(out, `
A world of the lab, cut off from all networks: %s rehearsed as stack %s.
  here        vCenter, image factory, chart and Git repositories, the network of %d machines: simulated
  try first   pulumi preview      what would be built
              pulumi up           builds it, in minutes; then, to look around with kubectl and %s:
              pulumi stack output --show-secrets kubeconfig > "$KUBECONFIG"
              %s
  commands    pulumi, %s, kubectl, govc, make and python, as in production (docs/procedures)
  files       this tree is read-only here: edit it in another terminal; the next command sees it.
              private/ and .lab/out are the world's own; `+"`pulumi config set`"+` changes this world only
  look into   %s: every part of the world writes what it does into world.log and machines/
%s  leave       %s
`, s.StackFile, s.Stack, len(s.Settings.Machines), clients, credentials, clients, l.Root, howToBrowse(l, s.Settings), leave)
	fmt.Fprintln(out)
}
