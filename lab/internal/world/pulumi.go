package world

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"

	"platform.lab/lab/internal/stackfile"
)

// The engine keeps a stack's settings beside Pulumi.yaml, and many of its commands write them there.
// In a world Pulumi.yaml is one of the world's own, which differs in one line from the tree's: it
// says that the settings lie in the world's folder. So no command of the engine finds the operator's
// file, whatever its options are; and the tree is read-only (mounts.go).

const projectFile = "Pulumi.yaml"

// settingsCommands are the engine's commands that read the stack's settings.
var settingsCommands = []string{"up", "update", "preview", "pre", "destroy", "dn", "refresh", "import", "watch", "config"}

// stackCommands are further ones that need a project.
var stackCommands = []string{"stack", "state", "logs", "cancel", "console", "about", "policy", "env"}

// Pulumi replaces the process by the real engine, on the world's own project file and settings. These
// are recreated from the operator's file for each command, so that an edit of it counts at once.
func Pulumi(ctx context.Context, args []string) error {
	root := os.Getenv("LAB_WORLD")
	if root == "" {
		return errors.New("LAB_WORLD is not set: this `pulumi` runs inside a world only (`lab run -- pulumi ...`)")
	}
	l := Layout{Root: root}
	spec, err := l.readSpec()
	if err != nil {
		return err
	}
	command := commandOf(args)
	project, err := findProject(workingFolder(args))
	if err != nil {
		return err
	}
	if project == "" && (slices.Contains(settingsCommands, command) || slices.Contains(stackCommands, command)) {
		// Nobody stands in a project: the world's is meant.
		if args, err = absolutePaths(args); err != nil {
			return err
		}
		project = spec.Project
		if err := os.Chdir(project); err != nil {
			return err
		}
	}
	real := filepath.Join(spec.Bin, "pulumi")
	changes := changesSettings(args)
	if ours, err := isOurs(project); err != nil || !ours {
		if err != nil {
			return err
		}
		return syscall.Exec(real, append([]string{"pulumi"}, args...), os.Environ())
	}
	made, err := l.makeSettings()
	if err != nil && (made == nil || slices.Contains(settingsCommands, command)) {
		return err
	}
	spec = made
	if keys := spec.Own.Keys(); len(keys) > 0 && command != "config" && slices.Contains(settingsCommands, command) {
		fmt.Fprintf(os.Stderr, "lab: `pulumi config` has changed settings in this world, which are not as in %s: %s\n",
			spec.StackFile, strings.Join(keys, ", "))
	}
	// The namespace belongs to a thread; the engine is started from this one.
	runtime.LockOSThread()
	if err := hideProject(l, spec, project); err != nil {
		return fmt.Errorf("keeping the engine from the operator's files: %w", err)
	}
	if changes {
		return changeSettings(ctx, l, real, args)
	}
	return syscall.Exec(real, append([]string{"pulumi"}, args...), os.Environ())
}

// changeSettings runs a command that writes the stack's settings, and keeps what it wrote for this
// world's later commands.
func changeSettings(ctx context.Context, l Layout, real string, args []string) error {
	cmd := exec.CommandContext(ctx, real, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) && failed.Exited() {
			os.Exit(failed.ExitCode()) // the engine has said why
		}
		return err
	}
	spec, err := l.learnSettings(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("lab: kept in this world only; %s is not changed", spec.StackFile)
	if keys := spec.Own.Keys(); len(keys) > 0 {
		text += ". Not as in that file are: " + strings.Join(keys, ", ")
	}
	fmt.Fprintln(os.Stderr, text)
	return nil
}

// makeSettings makes the world's settings again from the operator's file, and gives the spec as it is
// then. When it fails the settings stay as they were.
func (l Layout) makeSettings() (*Spec, error) {
	return l.updateSpec(func(s *Spec) error {
		if err := stackfile.Copy(s.StackFile, l.madeSettings(), Namespace, s.Secrets, &s.Own); err != nil {
			return err
		}
		text, err := os.ReadFile(l.madeSettings())
		if err != nil {
			return err
		}
		return stackfile.WriteAtomically(l.settings(s.Stack), text)
	})
}

// learnSettings keeps what a command wrote into the world's settings.
func (l Layout) learnSettings(ctx context.Context) (*Spec, error) {
	return l.updateSpec(func(s *Spec) error {
		if _, err := os.Stat(l.settings(s.Stack)); errors.Is(err, os.ErrNotExist) {
			return nil // the command was about another stack, and this one's was never made
		}
		if err := s.Own.Learn(ctx, l.madeSettings(), l.settings(s.Stack), Namespace, s.Secrets); err != nil {
			return err
		}
		// What says the same as the operator's file is no change.
		return stackfile.Copy(s.StackFile, l.madeSettings(), Namespace, s.Secrets, &s.Own)
	})
}

// hideProject gives this thread, and the engine that it becomes, a mount namespace in which the
// project file is the world's and the project is read-only.
func hideProject(l Layout, spec *Spec, project string) error {
	folder, err := os.Getwd()
	if err != nil {
		return err
	}
	own, err := writeProjectFile(l, project)
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := protect(project, filepath.Join(project, labFolder), filepath.Join(project, privateFolder), l.Root); err != nil {
		return err
	}
	if err := protect(spec.StackFile); err != nil {
		return err
	}
	target := filepath.Join(project, projectFile)
	if err := bind(own, target); err != nil {
		return err
	}
	if err := protect(target); err != nil {
		return err
	}
	// The folder that the process stands in is below the new mounts.
	return os.Chdir(folder)
}

// writeProjectFile writes the project file that the engine gets in the place of the tree's.
func writeProjectFile(l Layout, project string) (string, error) {
	path := filepath.Join(project, projectFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	// The engine joins it to the project's folder even when it is absolute.
	settings, err := filepath.Rel(project, l.Settings())
	if err != nil {
		return "", err
	}
	root := document.Content[0]
	root.Content = append(without(root.Content, "stackConfigDir"),
		&yaml.Node{Kind: yaml.ScalarNode, Value: "stackConfigDir"}, &yaml.Node{Kind: yaml.ScalarNode, Value: settings})
	out, err := yaml.Marshal(&document)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(out)
	own := l.path("projects", hex.EncodeToString(sum[:8]), projectFile)
	if _, err := os.Stat(own); err == nil {
		return own, nil // it may be mounted for a command that runs
	}
	return own, stackfile.WriteAtomically(own, out)
}

func without(content []*yaml.Node, key string) []*yaml.Node {
	var kept []*yaml.Node
	for i := 0; i+1 < len(content); i += 2 {
		if content[i].Value != key {
			kept = append(kept, content[i], content[i+1])
		}
	}
	return kept
}

// isOurs says whether a project is the program that this world is for: its own tree, or another one.
func isOurs(project string) (bool, error) {
	if project == "" {
		return false, nil
	}
	path := filepath.Join(project, projectFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	var file struct {
		Name string `yaml:"name"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return file.Name == Namespace, nil
}

// findProject is the folder of the nearest project file at folder or above it, or "".
func findProject(folder string) (string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	if folder, err = filepath.EvalSymlinks(folder); err != nil {
		return "", err
	}
	for ; ; folder = filepath.Dir(folder) {
		if info, err := os.Stat(filepath.Join(folder, projectFile)); err == nil && info.Mode().IsRegular() {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", nil
		}
	}
}

// workingFolder is where the engine will look for its project.
func workingFolder(args []string) string {
	for i, a := range args {
		if value, ok := strings.CutPrefix(a, "--cwd="); ok {
			return value
		}
		if (a == "--cwd" || a == "-C") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return "."
}

// commandOf is the first argument that is one of the engine's commands that matter here: a flag's
// value may stand before it.
func commandOf(args []string) string {
	for _, a := range args {
		if slices.Contains(settingsCommands, a) || slices.Contains(stackCommands, a) {
			return a
		}
	}
	return ""
}

// changesSettings says whether a command's purpose is to write the stack's settings.
func changesSettings(args []string) bool {
	var words []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			words = append(words, a)
		}
	}
	after := func(command string, subcommands ...string) bool {
		at := slices.Index(words, command)
		return at >= 0 && slices.ContainsFunc(words[at+1:], func(w string) bool { return slices.Contains(subcommands, w) })
	}
	return after("config", "set", "set-all", "rm", "rm-all", "cp", "refresh", "env") ||
		after("stack", "change-secrets-provider")
}

// pathFlags are the engine's options that name a file or folder.
var pathFlags = []string{
	"--config-file", "--event-log", "--file", "--import-file", "--out", "--plan", "--policy-pack",
	"--policy-pack-config", "--save-plan",
}

// absolutePaths makes the options that name files independent of the folder.
func absolutePaths(args []string) ([]string, error) {
	out := slices.Clone(args)
	for i, a := range out {
		name, value, inline := strings.Cut(a, "=")
		if len(name) > 2 && isShortPathFlag(args, name[:2]) { // as in `-ofile`
			name, value, inline = name[:2], a[2:], true
		}
		if !slices.Contains(pathFlags, name) && !isShortPathFlag(args, name) {
			continue
		}
		at := i
		if !inline {
			if at++; at == len(out) {
				break
			}
			value = out[at]
		}
		absolute, err := filepath.Abs(value)
		if err != nil {
			return nil, err
		}
		if inline {
			absolute = name + "=" + absolute
		}
		out[at] = absolute
	}
	return out, nil
}

// isShortPathFlag says whether it names a file with this command: `-f` of `pulumi up` does not.
func isShortPathFlag(args []string, flag string) bool {
	return len(args) > 0 && args[0] == "import" && (flag == "-f" || flag == "-o")
}
