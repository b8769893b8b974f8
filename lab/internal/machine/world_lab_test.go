//go:build lab

// The end-to-end tests of the simulated machines: real etcd and Kubernetes programs, and talosctl and kubectl
// as the clients that prove them. They need these programs in one folder:
//
//	LAB_BIN=FOLDER go test -tags lab ./internal/machine
package machine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"

	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kwok"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// binFolder has etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok with its stages, talosctl and kubectl.
var binFolder = os.Getenv("LAB_BIN")

const (
	talosVersion = "v1.13.9"
	vipAddress   = "172.16.20.250"
	endpoint     = "https://" + vipAddress + ":6443"
)

// world is a port group with machines, and an operator with talosctl and kubectl.
type world struct {
	*testing.T
	fleet  *Fleet
	input  *generate.Input
	folder string
	begun  time.Time
	// beside and ended count the calls of Options.OnCluster and their ends.
	beside, ended atomic.Int32
}

func newWorld(t *testing.T) *world {
	t.Helper()

	bridge, err := network.NewBridge("lab0", netip.MustParsePrefix("172.16.20.1/24"))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { bridge.Close() })

	return newWorldOn(t, bridge)
}

// newWorldOn is a world whose port group is there already.
func newWorldOn(t *testing.T, bridge *network.Bridge) *world {
	t.Helper()

	if binFolder == "" {
		t.Fatal("LAB_BIN is not set: name the folder of the programs, as `make go-lab-test` does")
	}

	kubernetes := strings.TrimPrefix(programs.Version(binFolder, "kube-apiserver"), "v")
	input, err := generate.NewInput("prod", endpoint, kubernetes, generate.WithInstallImage("factory.example/vmware-installer/0000:"+talosVersion))
	if err != nil {
		t.Fatal(err)
	}

	w := &world{T: t, input: input, folder: t.TempDir(), begun: time.Now()}

	level := slog.LevelInfo
	if testing.Verbose() {
		level = slog.LevelDebug
	}

	w.fleet = NewFleet(t.Context(), Options{
		Bridge: bridge, Dir: filepath.Join(w.folder, "machines"), Bin: binFolder, KWOKStages: filepath.Join(binFolder, "kwok-stages", "pod", "fast"),
		BootDelay: 300 * time.Millisecond,
		OnCluster: func(ctx context.Context, cluster kwok.Cluster) {
			w.beside.Add(1)
			<-ctx.Done()
			w.ended.Add(1)
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})

	t.Cleanup(w.fleet.Close)

	talosconfig, err := input.Talosconfig()
	if err != nil {
		t.Fatal(err)
	}

	if err := talosconfig.Save(filepath.Join(w.folder, "talosconfig")); err != nil {
		t.Fatal(err)
	}

	return w
}

// step says what happens and when.
func (w *world) step(format string, values ...any) {
	w.Helper()
	w.Logf("%6.1f s  %s", time.Since(w.begun).Seconds(), fmt.Sprintf(format, values...))
}

// chapter is a part of a story, which needs the parts before it.
type chapter struct {
	name string
	play func(*world)
}

// tell plays the chapters one after the other; the first that fails ends the story.
func (w *world) tell(chapters ...chapter) {
	t := w.T
	for _, one := range chapters {
		begun := time.Now()

		w.step("%s", one.name)

		if !t.Run(one.name, func(t *testing.T) {
			w.T = t
			one.play(w)
		}) {
			t.Fatalf("the story ends here:\n%s", w.describe())
		}

		w.T = t
		w.step("done in %.1f s", time.Since(begun).Seconds())
	}
}

func address(number int) string { return fmt.Sprintf("172.16.20.%d", 50+number) }

func name(number int) string { return fmt.Sprintf("node%02d", number) }

func (w *world) hardware(number int) Hardware {
	metadata := fmt.Sprintf("local-hostname: %s\nnetwork:\n  version: 2\n  ethernets:\n    eth0:\n      addresses: [%s/24]\n      gateway4: 172.16.20.1\n"+
		"      nameservers: {addresses: [172.16.20.1]}\n", name(number), address(number))

	return Hardware{
		ID: fmt.Sprintf("42000000-0000-4000-8000-%012d", number), Name: name(number), CPUs: 4, MemoryMiB: 8192, Disks: []hardware.Disk{{GiB: 100}},
		GuestInfo: map[string]string{"guestinfo.metadata": base64.StdEncoding.EncodeToString([]byte(metadata)), "guestinfo.metadata.encoding": "base64"},
		Image:     Image{TalosVersion: talosVersion, Schematic: "0000"},
	}
}

const commonPatch = `machine:
  kubelet:
    nodeIP: {validSubnets: [172.16.20.0/24]}
cluster:
  allowSchedulingOnControlPlanes: true
  network: {cni: {name: none}}
  proxy: {disabled: true}
`

const controlPlanePatch = `cluster:
  etcd:
    advertisedSubnets: [172.16.20.0/24]
---
apiVersion: v1alpha1
kind: Layer2VIPConfig
name: ` + vipAddress + `
link: eth0
`

// config writes a machine's configuration with patches and gives the file.
func (w *world) config(number int, kind machinetype.Type, patches ...string) string {
	w.Helper()

	provider, err := w.input.Config(kind)
	if err != nil {
		w.Fatal(err)
	}

	patches = append([]string{commonPatch, fmt.Sprintf("apiVersion: v1alpha1\nkind: HostnameConfig\nauto: off\nhostname: %s\n", name(number))}, patches...)
	if kind.IsControlPlane() {
		patches = append(patches, controlPlanePatch)
	}

	loaded, err := configpatcher.LoadPatches(patches)
	if err != nil {
		w.Fatal(err)
	}

	patched, err := configpatcher.Apply(configpatcher.WithConfig(provider), loaded)
	if err != nil {
		w.Fatal(err)
	}

	data, err := patched.Bytes()
	if err != nil {
		w.Fatal(err)
	}

	path := filepath.Join(w.folder, name(number)+".yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.Fatal(err)
	}

	return path
}

// try runs a program of the bin folder and gives its output.
func (w *world) try(program string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()

	cmd := exec.CommandContext(ctx, filepath.Join(binFolder, program), arguments...)
	cmd.Env = append(os.Environ(), "TALOSCONFIG="+filepath.Join(w.folder, "talosconfig"), "KUBECONFIG="+filepath.Join(w.folder, "kubeconfig"), "HOME="+w.folder)

	output, err := cmd.CombinedOutput()

	return string(output), err
}

func (w *world) must(program string, arguments ...string) string {
	w.Helper()

	output, err := w.try(program, arguments...)
	if err != nil {
		w.Fatalf("%s %s: %v\n%s", program, strings.Join(arguments, " "), err, output)
	}

	return output
}

// talosctl asks one machine directly.
func (w *world) talosctl(number int, arguments ...string) string {
	w.Helper()

	return w.must("talosctl", append([]string{"-e", address(number), "-n", address(number)}, arguments...)...)
}

func (w *world) tryTalosctl(number int, arguments ...string) (string, error) {
	return w.try("talosctl", append([]string{"-e", address(number), "-n", address(number)}, arguments...)...)
}

func (w *world) kubectl(arguments ...string) string {
	w.Helper()

	return w.must("kubectl", arguments...)
}

// kubectlSays is for what is waited for: a call that fails says something else.
func (w *world) kubectlSays(arguments ...string) string {
	output, _ := w.try("kubectl", arguments...)

	return output
}

// patience is how long a test waits for what must come; it measures nothing, and ends a test that is broken.
const patience = 4 * time.Minute

// until waits for a condition.
func (w *world) until(what string, condition func() bool) {
	w.Helper()

	begun := time.Now()
	for !condition() {
		if time.Since(begun) > patience {
			w.Fatalf("not within %s: %s\n%s", patience, what, w.describe())
		}

		time.Sleep(100 * time.Millisecond)
	}

	w.step("%s (after %.1f s)", what, time.Since(begun).Seconds())
}

func (w *world) describe() string {
	data, err := json.MarshalIndent(w.fleet.Status(), "", " ")
	if err != nil {
		return err.Error()
	}

	return string(data)
}

func (w *world) status(number int) Status {
	for _, s := range w.fleet.Status() {
		if s.Name == name(number) {
			return s
		}
	}

	return Status{}
}

// startup powers a machine on and waits for maintenance mode.
func (w *world) startup(number int) {
	w.Helper()
	w.fleet.PowerOn(w.hardware(number))
	w.until(name(number)+" is in maintenance mode", func() bool {
		_, err := w.tryTalosctl(number, "get", "disks", "--insecure")

		return err == nil
	})
}

func (w *world) apply(number int, kind machinetype.Type, patches ...string) {
	w.Helper()
	w.talosctl(number, "apply-config", "--insecure", "-f", w.config(number, kind, patches...))
}

// voters counts the etcd members that are no learners.
func (w *world) voters(number int) int {
	output, err := w.tryTalosctl(number, "etcd", "members")
	if err != nil {
		return 0
	}

	return strings.Count(output, "false")
}

func (w *world) planeReady(number int) bool {
	s := w.status(number)

	return s.Stage == "running" && len(s.Processes) == 4 && !strings.Contains(strings.Join(s.Unmet, " "), "staticPods")
}

// pids are the processes of a machine by name.
func (w *world) pids(number int) map[string]int {
	pids := map[string]int{}
	for _, p := range w.status(number).Processes {
		pids[p.Name] = p.PID
	}

	return pids
}
