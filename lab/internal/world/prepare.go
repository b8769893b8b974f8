package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"platform.lab/lab/internal/charts"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/simulated"
	"platform.lab/lab/internal/stackfile"
	"platform.lab/lab/internal/storage"
)

// Namespace of the program's settings in a stack file: the project's name.
const Namespace = "platform"

// Request is what the operator asked for; Prepare turns it into a Spec.
type Request struct {
	Project, StackFile, Bin string
	Out                     string // folder for what the command leaves; "" is the world's own
	Options                 Options
}

// Prepare reads and checks the stack file, and lays out a fresh folder for the world.
//
// The folder is claimed (Claim). What an earlier world left in it is removed: its vCenter is gone, so
// its state is of no use.
func Prepare(ctx context.Context, l Layout, r Request, warn func(string, ...any)) (*Spec, error) {
	stack, err := stackfile.StackName(r.StackFile)
	if err != nil {
		return nil, err
	}
	if err := checkPrograms(r.Bin); err != nil {
		return nil, err
	}
	if err := checkImages(r.Bin, r.Options.images()); err != nil {
		return nil, err
	}
	settings, err := readSettings(r.Project, r.StackFile)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkGit(*settings), checkOmnictl(r.Bin, *settings)); err != nil {
		return nil, err
	}
	if err := checkRoom(l, *settings, warn); err != nil {
		return nil, err
	}
	made, err := settings.madeSecrets()
	if err != nil {
		return nil, err
	}
	secrets, err := stackfile.NewSecrets(ctx, settings.secretKeys(), made)
	if err != nil {
		return nil, err
	}
	spec := &Spec{
		Project: r.Project, StackFile: r.StackFile, Stack: stack, Bin: r.Bin,
		Settings: *settings, Secrets: secrets, Out: r.Out, Options: r.Options, Versions: map[string]string{},
	}
	for _, p := range programs.All() {
		spec.Versions[p.Name] = programs.Described(r.Bin, p.Name)
	}
	if wants, built := "v"+settings.Kubernetes.Version, programs.Kubernetes(r.Bin); built[wants] == "" {
		return nil, fmt.Errorf("platform:kubernetes.version is %s, and the lab's Kubernetes is %s: "+
			"set that version in lab/tools/kubernetes/go.mod and build again", wants[1:], strings.Join(slices.Sorted(maps.Keys(built)), ", "))
	}
	if err := l.empty(); err != nil {
		return nil, err
	}
	if err := l.writeSpec(spec); err != nil {
		return nil, err
	}
	for _, folder := range []string{l.Root, l.Machines(), l.Tools(), l.Settings(), l.Private(), l.Out(), filepath.Join(r.Project, outFolder)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(Layout, *Spec) error{writeBackend, linkPlugins, linkTools} {
		if err := step(l, spec); err != nil {
			return nil, err
		}
	}
	return spec, writeHosts(l.Hosts(), spec.names())
}

// required are the programs without which no world can be entered.
var required = []string{
	"pulumi", "pulumi-language-python", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "metallb-controller",
	"kubectl", "talosctl", "helm", storage.Program,
}

func checkPrograms(bin string) error {
	for _, name := range required {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("missing tool: %s is not in %s; build it with `make build`", name, bin)
		}
	}
	_, err := charts.Index(bin)
	return err
}

// readSettings asks the program's own configuration layer, so that there is one model only.
func readSettings(project, stackFile string) (*Settings, error) {
	module := "ops"
	if _, err := os.Stat(filepath.Join(project, module)); err != nil {
		module = "config" // its former name: `make review` builds what an older program describes
	}
	cmd := exec.Command(filepath.Join(project, ".venv", "bin", "python"), "-m", module, "show", stackFile, "--json")
	cmd.Dir = project
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, fmt.Errorf("the settings of %s are refused:\n%s", stackFile, stderr.String())
	}
	if err != nil {
		return nil, fmt.Errorf("missing tool: the virtual environment's Python could not run (%w); make it with `make setup`", err)
	}
	settings := &Settings{}
	if err := json.Unmarshal(out, settings); err != nil {
		return nil, fmt.Errorf("settings of %s: %w", stackFile, err)
	}
	return settings, nil
}

// writeBackend makes an empty stack, as `pulumi stack init` would.
func writeBackend(l Layout, s *Spec) error {
	folder := filepath.Join(l.Backend(), ".pulumi", "stacks", Namespace)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.Backend(), ".pulumi", "meta.yaml"), []byte("version: 1\n"), 0o600); err != nil {
		return err
	}
	checkpoint := fmt.Sprintf(`{"version":3,"checkpoint":{"stack":"organization/%s/%s"}}`, Namespace, s.Stack)
	return os.WriteFile(filepath.Join(folder, s.Stack+".json"), []byte(checkpoint), 0o600)
}

// linkTools puts the names of the multi-call binary on the world's PATH, and those of programs that people know and the
// lab has not. `pulumi` there gives the world's own settings to the real one.
func linkTools(l Layout, s *Spec) error {
	for _, name := range append([]string{"pulumi", "govc", "lab"}, simulated.Tools()...) {
		if err := os.Symlink(filepath.Join(s.Bin, "lab"), filepath.Join(l.Tools(), name)); err != nil {
			return err
		}
	}
	script := simulated.Talosctl(filepath.Join(s.Bin, "talosctl"))
	return os.WriteFile(filepath.Join(l.Tools(), "talosctl"), []byte(script), 0o755) //nolint:gosec // a program
}
