// Package programs builds the real programs of the lab (engine, etcd, Kubernetes, talosctl, Helm, KWOK, MetalLB)
// from their Go modules, or takes their vendors' releases. Their versions are those of the go.mod files, and of nothing else.
package programs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"platform.lab/lab/internal/progress"
)

// Program is one binary, built from a package of a module that a go.mod of ours requires.
type Program struct {
	Name    string
	Folder  string // where its go.mod lies, below lab/
	Package string
	Module  string // whose version the program carries
	Tags    string
	Stamps  []string // variables that take the module's version; "=major" and "=minor" a part of it
	Release *Release // what its vendor publishes of it, if that can be taken in its place
	Because string   // else why not
	// Added are files that the module's code embeds and the module has not: their paths in it, and what they hold.
	Added map[string]string
}

const (
	kubernetesVersion = "k8s.io/component-base/version.git"
	clientVersion     = "k8s.io/client-go/pkg/version.git"
)

// Kubernetes reports v0.0.0 unless stamped, and Helm then refuses charts.
var kubernetesStamps = []string{
	kubernetesVersion + "Version", kubernetesVersion + "Major=major", kubernetesVersion + "Minor=minor",
	clientVersion + "Version", clientVersion + "Major=major", clientVersion + "Minor=minor",
}

func kubernetes(name string) Program {
	return Program{
		Name: name, Folder: "tools/kubernetes", Package: "k8s.io/kubernetes/cmd/" + name,
		Module: "k8s.io/kubernetes", Stamps: kubernetesStamps, Release: kubernetesRelease(name),
	}
}

// furtherFolder begins the name of a folder with another Kubernetes than the world's own: of its go.mod below tools,
// and of its programs in Bin. Its minor version follows, as in kubernetes-1.35.
const furtherFolder = "kubernetes-"

// controlPlane are the programs of Kubernetes that a machine runs.
var controlPlane = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}

// FurtherKubernetes are the programs of the other Kubernetes releases, which a cluster is upgraded to. They are built
// only when somebody asks for them.
func FurtherKubernetes(lab string) ([]Program, error) {
	folders, err := filepath.Glob(filepath.Join(lab, "tools", furtherFolder+"*"))
	if err != nil {
		return nil, err
	}
	var list []Program
	for _, folder := range folders {
		for _, name := range controlPlane {
			p := kubernetes(name)
			p.Name, p.Folder = filepath.Join(filepath.Base(folder), name), filepath.Join("tools", filepath.Base(folder))
			list = append(list, p)
		}
	}
	return list, nil
}

// Kubernetes gives the folders with the control plane's programs that are built, by their version (with its v).
func Kubernetes(bin string) map[string]string {
	further, _ := filepath.Glob(filepath.Join(bin, furtherFolder+"*"))
	found := map[string]string{}
	for _, folder := range append(further, bin) {
		versions := map[string]bool{}
		for _, name := range controlPlane {
			versions[Version(folder, name)] = true
		}
		if version := Version(folder, controlPlane[0]); version != "" && len(versions) == 1 {
			found[version] = folder
		}
	}
	return found
}

// All is every program, the slowest first.
func All() []Program {
	return []Program{
		kubernetes("kube-apiserver"), kubernetes("kube-controller-manager"), kubernetes("kube-scheduler"), kubernetes("kubectl"),
		{
			Name: "etcd", Folder: "tools/kubernetes", Package: "go.etcd.io/etcd/server/v3", Module: "go.etcd.io/etcd/server/v3",
			Release: github("etcd-io/etcd", "{version}", "etcd-{version}-linux-{arch}.tar.gz", "SHA256SUMS", "etcd-{version}-linux-{arch}/etcd"),
		},
		{
			Name: "pulumi", Folder: ".", Package: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi", Module: "github.com/pulumi/pulumi/pkg/v3",
			Tags: "osusergo,grpcnotrace", Stamps: []string{"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"},
			Release: github("pulumi/pulumi", "{version}", "pulumi-{version}-linux-{x64}.tar.gz", "SHA512SUMS", "pulumi/pulumi"),
		},
		{
			Name: "talosctl", Folder: ".", Package: "github.com/siderolabs/talos/cmd/talosctl", Module: "github.com/siderolabs/talos",
			Stamps:  []string{"github.com/siderolabs/talos/pkg/machinery/version.Tag"},
			Release: github("siderolabs/talos", "{version}", "talosctl-linux-{arch}", "sha256sum.txt", ""),
		},
		{
			Name: "helm", Folder: ".", Package: "helm.sh/helm/v3/cmd/helm", Module: "helm.sh/helm/v3",
			Stamps: []string{"helm.sh/helm/v3/internal/version.version"},
			Release: &Release{
				Archive:   "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz",
				Checksums: "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz.sha256sum", Member: "linux-{arch}/helm",
			},
		},
		{
			Name: "metallb-controller", Folder: "tools/kubernetes", Package: "go.universe.tf/metallb/controller", Module: "go.universe.tf/metallb",
			Because: imagesOnly,
		},
		{
			Name: "kwok", Folder: ".", Package: "sigs.k8s.io/kwok/cmd/kwok", Module: "sigs.k8s.io/kwok",
			Because: "its vendor publishes no checksums",
		},
		{Name: "versitygw", Folder: "tools/versitygw", Package: ".", Module: "github.com/versity/versitygw", Because: ownProgram},
	}
}

// OfPods are the programs that pods run as processes, where a world does not play them, and the servers outside that only
// they ask. They are built only when somebody asks for them.
func OfPods() []Program {
	return []Program{
		{
			Name: "metrics-server", Folder: "tools/metrics-server", Package: "sigs.k8s.io/metrics-server/cmd/metrics-server", Module: "sigs.k8s.io/metrics-server",
			Stamps: []string{"k8s.io/client-go/pkg/version.gitVersion"}, Because: imagesOnly,
		},
		{
			Name: "cert-manager", Folder: "tools/cert-manager", Package: ".", Module: "github.com/cert-manager/cert-manager",
			Stamps: []string{"github.com/cert-manager/cert-manager/pkg/util.AppVersion"}, Because: imagesOnly,
		},
		{Name: "pebble", Folder: "tools/pebble", Package: ".", Module: "github.com/letsencrypt/pebble/v2", Because: ownProgram},
		{
			Name: "coredns", Folder: "tools/coredns", Package: ".", Module: "github.com/coredns/coredns",
			Release: github("coredns/coredns", "{version}", "coredns_{number}_linux_{arch}.tgz", "coredns_{number}_linux_{arch}.tgz.sha256", "coredns"),
		},
		{Name: "podinfo", Folder: "tools/podinfo", Package: ".", Module: "platform.lab/tools/podinfo", Because: ownProgram},
		{
			Name: "traefik", Folder: "tools/traefik", Package: ".", Module: "github.com/traefik/traefik/v3",
			Stamps:  []string{"github.com/traefik/traefik/v3/pkg/version.Version"},
			Release: github("traefik/traefik", "{version}", "traefik_{version}_linux_{arch}.tar.gz", "traefik_{version}_checksums.txt", "traefik"),
		},
		{
			Name: "metallb-speaker", Folder: "tools/kubernetes", Package: "go.universe.tf/metallb/speaker", Module: "go.universe.tf/metallb",
			Because: imagesOnly,
		},
		{
			Name: argoCDProgram, Folder: argoCDFolder, Package: ".", Module: argoCDModule, Stamps: []string{argoCDModule + "/common.version=number"},
			Release: github("argoproj/argo-cd", "{version}", "argocd-linux-{arch}", "cli_checksums.txt", ""),
		},
		{
			Name: "kustomize", Folder: argoCDFolder, Package: "sigs.k8s.io/kustomize/kustomize/v5", Module: "sigs.k8s.io/kustomize/kustomize/v5",
			Stamps:  []string{"sigs.k8s.io/kustomize/api/provenance.version"},
			Release: github("kubernetes-sigs/kustomize", "kustomize%2F{version}", "kustomize_{version}_linux_{arch}.tar.gz", "checksums.txt", "kustomize"),
		},
		{Name: "redis", Folder: "tools/redis", Package: ".", Module: "platform.lab/tools/redis", Because: ownProgram},
	}
}

// OfOmni are the programs that speak with Sidero Omni. They are built only when somebody asks for them.
func OfOmni() []Program {
	return []Program{
		{
			Name: "omnictl", Folder: "tools/omnictl", Package: ".", Module: "github.com/siderolabs/omni/client",
			Stamps:  []string{"github.com/siderolabs/omni/client/pkg/version.Tag"},
			Release: github("siderolabs/omni", "{version}", "omnictl-linux-{arch}", "sha256sum.txt", ""),
		},
	}
}

// Modules of the programs that watch the platform.
const (
	victoriaMetrics = "github.com/VictoriaMetrics/VictoriaMetrics"
	victoriaLogs    = "github.com/VictoriaMetrics/VictoriaLogs"
	alertmanager    = "github.com/prometheus/alertmanager"
)

// OfWatching are the programs that watch the platform: metrics, rules, alerts, logs. They are built only when somebody asks for
// them; until then their pods are simulated.
func OfWatching() []Program {
	return []Program{
		victoria("victoria-metrics", "tools/victoria-metrics", victoriaMetrics, "victoria-metrics"),
		victoria("vmalert", "tools/victoria-metrics", victoriaMetrics, "vmutils"),
		victoria("victoria-logs", "tools/victoria-logs", victoriaLogs, "victoria-logs"),
		victoria("vlagent", "tools/victoria-logs", victoriaLogs, "vlutils"),
		{
			Name: "alertmanager", Folder: "tools/alertmanager", Package: alertmanager + "/cmd/alertmanager", Module: alertmanager,
			Stamps: []string{"github.com/prometheus/common/version.Version=number"},
			// Its pages are made by npm, and are no part of the module; the program does not compile without their folder.
			Added: map[string]string{"ui/app/dist/README.txt": "The pages of Alertmanager are not in its module.\n"},
			Release: github("prometheus/alertmanager", "{version}", "alertmanager-{number}.linux-{arch}.tar.gz", "sha256sums.txt",
				"alertmanager-{number}.linux-{arch}/alertmanager"),
		},
	}
}

// victoria is a program of a module of VictoriaMetrics' makers, and archive the one of their releases that has it.
func victoria(name, folder, module, archive string) Program {
	archive += "-linux-{arch}-{version}"

	return Program{
		Name: name, Folder: folder, Package: module + "/app/" + name, Module: module, Stamps: []string{victoriaMetrics + "/lib/buildinfo.Version"},
		Release: github(strings.TrimPrefix(module, "github.com/"), "{version}", archive+".tar.gz", archive+"_checksums.txt", name+"-prod"),
	}
}

// Why a program is compiled wherever the others come from.
const (
	imagesOnly = "its vendor publishes images only"
	ownProgram = "a program of the lab's own"
)

// Selection says which programs are wanted beside those that every world needs.
type Selection struct {
	Pods, Upgrades, Omni, Watching bool
}

// Selected are the programs of a selection, of the source tree lab.
func Selected(lab string, chosen Selection) ([]Program, error) {
	wanted := All()
	if chosen.Upgrades {
		further, err := FurtherKubernetes(lab)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, further...)
	}
	if chosen.Omni {
		wanted = append(wanted, OfOmni()...)
	}
	if chosen.Watching {
		wanted = append(wanted, OfWatching()...)
	}
	if chosen.Pods {
		wanted = append(wanted, OfPods()...)
	}
	return wanted, nil
}

const (
	argoCDProgram = "argocd"
	argoCDFolder  = "tools/argocd"
	argoCDModule  = "github.com/argoproj/argo-cd/v3"
)

// argoScripts lie in the folder hack of Argo CD's module, and in its image on PATH.
var argoScripts = []string{"git-verify-wrapper.sh", "gpg-wrapper.sh"}

// Builder builds programs of the source tree Lab into Bin, with the Go toolchain Go. Source says what else may be there.
type Builder struct {
	Lab, Bin, Go, Source string
	Display              *progress.Display
}

type task struct {
	Program
	recipe recipe
}

// missing are the programs that are not there, or out of date, or come from elsewhere than Source says.
func (b *Builder) missing(ctx context.Context, wanted []Program) ([]task, error) {
	var missing []task
	for _, p := range wanted {
		recipe, err := b.recipe(ctx, p)
		if err != nil {
			return nil, err
		}
		compiled := b.upToDate(p.Name, recipe.hash) && (b.Source != Releases || p.Release == nil)
		fetched := b.Source != Compiled && isRelease(b.Bin, p, recipe.version, runtime.GOARCH)
		if !compiled && !fetched {
			missing = append(missing, task{p, recipe})
		}
	}
	return missing, nil
}

// ToFetch are those of the missing programs that have a release, with their versions.
func (b *Builder) ToFetch(ctx context.Context, wanted []Program) (list []Program, versions []string, err error) {
	missing, err := b.missing(ctx, wanted)
	for _, t := range missing {
		if t.Release != nil {
			list, versions = append(list, t.Program), append(versions, t.recipe.version)
		}
	}
	return list, versions, err
}

// AllReleases are those of every program and processor, of this tree's versions.
func (b *Builder) AllReleases(ctx context.Context) ([]Release, error) {
	all, err := Selected(b.Lab, Selection{Pods: true, Upgrades: true, Omni: true, Watching: true})
	if err != nil {
		return nil, err
	}
	var list []Release
	for _, p := range all {
		if p.Release == nil {
			continue
		}
		version, err := b.version(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, arch := range Architectures() {
			list = append(list, p.Release.Of(version, arch))
		}
	}
	return list, nil
}

// Build compiles what is missing or out of date. A compiled program is up to date when the stamp beside it
// equals the hash of all that it is made from.
func (b *Builder) Build(ctx context.Context, wanted []Program) error {
	if err := os.MkdirAll(b.Bin, 0o755); err != nil {
		return err
	}
	missing, err := b.missing(ctx, wanted)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := b.explain(missing); err != nil {
			return err
		}
		if err := b.checkDisk(ctx); err != nil {
			return err
		}
	}
	// What the later ones are made from comes while the first ones are compiled.
	var ahead sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer ahead.Wait()
	defer cancel()
	ahead.Go(func() {
		for _, t := range missing {
			b.prefetch(ctx, t.Program)
		}
	})
	for _, t := range missing {
		if err := b.Display.Step("build "+t.Name+" "+t.recipe.version, func() error { return b.build(ctx, t.Program, t.recipe) }); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(wanted, func(p Program) bool { return p.Name == argoCDProgram }) {
		if err := b.copyScripts(ctx); err != nil {
			return err
		}
	}
	return b.dataFiles(ctx)
}

// explain says why programs are compiled. A release that is to be there and is not ends the build.
func (b *Builder) explain(missing []task) error {
	if b.Source == Compiled {
		b.Display.Line("programs are compiled; LAB_BUILD=%s takes their vendors' releases instead, where there is internet", Releases)
		return nil
	}
	var absent []string
	for _, t := range missing {
		if t.Release == nil {
			b.Display.Line("%s %s is compiled: %s", t.Name, t.recipe.version, t.Because)
		} else {
			absent = append(absent, t.Name+" "+t.recipe.version)
		}
	}
	if b.Source == Releases && len(absent) > 0 {
		return fmt.Errorf("LAB_BUILD=%s, and these are not there: %s; `make build` fetches them, and with LAB_BUILD=%s they are compiled",
			Releases, strings.Join(absent, ", "), Compiled)
	}
	return nil
}

// copyScripts takes those that Argo CD's image has beside the program. Where that was fetched, nothing of the module is here yet.
func (b *Builder) copyScripts(ctx context.Context) error {
	folder, _, err := b.Module(ctx, argoCDFolder, argoCDModule)
	if err != nil {
		return err
	}
	for _, name := range argoScripts {
		if err := copyFile(filepath.Join(folder, "hack", name), filepath.Join(b.Bin, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// prefetch downloads the modules of a program. What goes wrong is not told: the build finds it again.
func (b *Builder) prefetch(ctx context.Context, p Program) {
	_ = b.command(ctx, filepath.Join(b.Lab, p.Folder), "list", "-deps", "-tags", p.Tags, p.Package).Run()
}

// dataFiles takes what programs read at run time out of the modules' own folders.
func (b *Builder) dataFiles(ctx context.Context) error {
	sdk, err := b.moduleFolder(ctx, ".", "github.com/pulumi/pulumi/sdk/v3")
	if err != nil {
		return err
	}
	script := "pulumi-language-python-exec"
	if err := copyFile(filepath.Join(sdk, "python", "cmd", script), filepath.Join(b.Bin, script), 0o755); err != nil {
		return err
	}
	kwok, err := b.moduleFolder(ctx, ".", "sigs.k8s.io/kwok")
	if err != nil {
		return err
	}
	stages := filepath.Join(b.Bin, "kwok-stages")
	if err := os.RemoveAll(stages); err != nil {
		return err
	}
	return os.CopyFS(stages, os.DirFS(filepath.Join(kwok, "kustomize", "stage")))
}

type recipe struct {
	version string // with its v
	argv    []string
	hash    string
}

// version is that of a program's module; "" for the lab's own.
func (b *Builder) version(ctx context.Context, p Program) (string, error) {
	return b.goCommand(ctx, filepath.Join(b.Lab, p.Folder), "list", "-m", "-f", "{{.Version}}", p.Module)
}

func (b *Builder) recipe(ctx context.Context, p Program) (recipe, error) {
	folder := filepath.Join(b.Lab, p.Folder)
	version, err := b.version(ctx, p)
	if err != nil {
		return recipe{}, err
	}
	if version == "" {
		version = "of this tree" // a program of our own
	}
	flags := []string{"-s", "-w"}
	for _, s := range p.Stamps {
		flags = append(flags, "-X "+stamp(s, version))
	}
	// The same flags for all: programs of one go.mod share their compiled packages.
	argv := []string{"build", "-gcflags=all=-dwarf=false", "-ldflags", strings.Join(flags, " ")}
	if p.Tags != "" {
		argv = append(argv, "-tags", p.Tags)
	}
	toolchain, err := b.goCommand(ctx, folder, "env", "GOVERSION")
	if err != nil {
		return recipe{}, err
	}
	hash := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return recipe{}, err
		}
		hash.Write(content)
	}
	if p.Package == "." { // ours, over the module's packages
		if err := hashSources(hash, folder); err != nil {
			return recipe{}, err
		}
	}
	fmt.Fprint(hash, toolchain, p.Package, argv)
	if len(p.Added) > 0 {
		fmt.Fprint(hash, p.Added)
	}
	return recipe{version: version, argv: argv, hash: hex.EncodeToString(hash.Sum(nil))}, nil
}

// hashSources takes a folder's own code, and that of modules in it which stand in for others.
func hashSources(hash io.Writer, folder string) error {
	return filepath.WalkDir(folder, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" && filepath.Base(file) != "go.mod" {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(hash, "%s %d\n%s", file[len(folder):], len(content), content)
		return err
	})
}

// stamp renders one -X value: the whole version, or the part that the variable's suffix names.
func stamp(variable, version string) string {
	name, part, _ := strings.Cut(variable, "=")
	numbers := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	switch part {
	case "major":
		return name + "=" + numbers[0]
	case "minor":
		return name + "=" + numbers[1]
	case "number":
		return name + "=" + strings.TrimPrefix(version, "v")
	}
	return name + "=" + version
}

func (b *Builder) build(ctx context.Context, p Program, r recipe) error {
	target := filepath.Join(b.Bin, p.Name)
	// Until it is built, no stamp vouches for what is there, which may be a release.
	if err := Distrust(b.Bin, p.Name); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	argv := slices.Clone(r.argv)
	if len(p.Added) > 0 {
		flags, err := b.withAdded(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: files that its module has not: %w", p.Name, err)
		}
		argv = append(argv, flags...)
	}
	argv = append(argv, "-o", target, p.Package)
	if _, err := b.goCommand(ctx, filepath.Join(b.Lab, p.Folder), argv...); err != nil {
		return errors.Join(err, b.checkDisk(ctx))
	}
	if err := os.WriteFile(target+".version", []byte(r.version), 0o644); err != nil {
		return err
	}
	return os.WriteFile(target+".stamp", []byte(r.hash), 0o644)
}

// Version is that of a program built into bin, or "" when none is there.
func Version(bin, name string) string {
	version, err := os.ReadFile(filepath.Join(bin, name+".version"))
	if err != nil {
		return ""
	}
	return string(version)
}

func (b *Builder) upToDate(name, hash string) bool {
	if _, err := os.Stat(filepath.Join(b.Bin, name)); err != nil {
		return false
	}
	old, err := os.ReadFile(filepath.Join(b.Bin, name+".stamp"))
	return err == nil && string(old) == hash
}

func (b *Builder) moduleFolder(ctx context.Context, folder, module string) (string, error) {
	return b.goCommand(ctx, filepath.Join(b.Lab, folder), "list", "-m", "-f", "{{.Dir}}", module)
}

// Module downloads a module that the go.mod in a folder below Lab requires, checks it against go.sum,
// and gives its folder and its version (with its v). Nothing of it is built.
func (b *Builder) Module(ctx context.Context, folder, module string) (dir, version string, err error) {
	out, err := b.goCommand(ctx, filepath.Join(b.Lab, folder), "mod", "download", "-json", module)
	if err != nil {
		return "", "", fmt.Errorf("module %s: %w", module, err)
	}
	var answer struct{ Dir, Version string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return "", "", fmt.Errorf("module %s: %w", module, err)
	}
	return answer.Dir, answer.Version, nil
}

func (b *Builder) command(ctx context.Context, folder string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.Go, argv...)
	cmd.Dir = folder
	// Go's compiler collects less garbage: a sixth of its processor time (docs/figures.md).
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOGC=400")
	return cmd
}

// goCommand runs the toolchain and answers with its output; a failure carries what it said.
func (b *Builder) goCommand(ctx context.Context, folder string, argv ...string) (string, error) {
	out, err := b.command(ctx, folder, argv...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("go %s in %s: %w\n%s", argv[0], folder, err, failed.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("go %s in %s: %w", argv[0], folder, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// The old file may be in use: replace it, never write into it.
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
