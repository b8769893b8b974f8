// Package controlplane runs the static pods of a control plane: the real API server, controller manager and scheduler.
package controlplane

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"

	"platform.lab/lab/internal/machine/arguments"
	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/machine/services"
)

// The programs of a control plane.
const (
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"

	probeTimeout = 2 * time.Second

	// Grace is the kubelet's 30 s, shortened: the API server closes its port at once, and then only waits
	// for watches that nobody ends.
	Grace = time.Second
)

// Component is a program of the control plane as the machine configuration wants it.
type Component struct {
	Name        string
	Image       string
	Arguments   arguments.Arguments
	environment []string
	// files are the configuration files that the arguments name, by their name.
	files map[string][]byte
	// probe is the URL of the program's readiness, seen from inside the machine.
	probe string
	// version is that of Talos' resource with the component's configuration.
	version string
}

// ConfigVersion is the version of Talos' resource that the component was made from.
func (c Component) ConfigVersion() string { return c.version }

// identity changes exactly when the program must be started again. Certificates are no part of it:
// the programs read them again by themselves.
func (c Component) identity() string {
	hash := sha256.New()
	fmt.Fprintln(hash, c.version, c.Name, c.Image, c.Arguments.Lines(), c.environment)

	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		fmt.Fprintf(hash, "%s %x\n", name, sha256.Sum256(c.files[name]))
	}

	return fmt.Sprintf("%x", hash.Sum(nil))
}

// StaticPod is a component that runs.
type StaticPod struct {
	Component
	Hash    string
	Process *process.Process
	Problem error
	Since   time.Time
	// Unpulled says why the component's image is not there.
	Unpulled error
}

// Machine is what a control plane needs of the machine that it runs on.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Disk     disk.Disk
	Network  *guestnetwork.Network
	Programs process.Programs
	Services *services.Services
	Secrets  *certificates.Secrets
	// Pull gives the folder of an image's programs; it fails when there is no such image.
	Pull func(image string) (string, error)
	// Publish shows what the configuration wants of a component as Talos' resource of it, and gives that one's version.
	Publish func(c Component) string
	// Serves is told of the cluster when its API server answers for the first time.
	Serves func(provider config.Provider)
}

// Plane runs a control plane's static pods as child processes.
type Plane struct {
	Machine

	mu   sync.Mutex
	pods map[string]*StaticPod
}

// New makes the control plane of a machine that has just begun to boot.
func New(on Machine) *Plane {
	return &Plane{Machine: on, pods: map[string]*StaticPod{}}
}

// Run starts the static pods once etcd is up and follows the machine configuration.
func (p *Plane) Run() {
	for !p.Services.IsUp("etcd") {
		if !p.Sleep(lifetime.Tick) || p.IsStopping() {
			return
		}
	}

	p.Go(p.probe)
	p.Go(p.serveCluster)

	var (
		done config.Provider
		// named is the address at SideroLink that the certificates name.
		named netip.Prefix
	)

	for ; !p.IsStopping(); p.Sleep(lifetime.Tick) {
		provider := p.Provider()

		joined, _ := p.Network.SideroLink()
		if provider == done && joined == named {
			continue
		}

		err := p.reconcile(provider)
		if err == nil {
			done, named = provider, joined
		} else if !errors.Is(err, errNotYet) {
			p.LogError("control plane", err)
			p.Sleep(time.Second)
		}
	}
}

// reconcile starts, replaces and stops static pods until they are what the configuration wants.
func (p *Plane) reconcile(provider config.Provider) error {
	if err := p.Secrets.Write(provider); err != nil {
		return err
	}

	wanted, err := p.components(provider)
	if err != nil {
		return err
	}

	for _, running := range p.Snapshot() {
		if !slices.ContainsFunc(wanted, func(c Component) bool { return c.Name == running.Name }) {
			running.Process.Stop(Grace)
			p.remove(running.Name)
		}
	}

	for i := range wanted {
		wanted[i].version = p.Publish(wanted[i])
	}

	for _, c := range wanted {
		if err := p.ensure(c); err != nil {
			return err
		}
	}

	return nil
}

// errNotYet says that a static pod waits for another one.
var errNotYet = errors.New("not yet")

// ensure starts a static pod, in place of the one that runs if that is another one.
func (p *Plane) ensure(c Component) error {
	hash := c.identity()
	old := p.get(c.Name)

	// On Talos these two crash until the API server has made its roles; here they wait for it.
	if old == nil && c.Name != APIServer && !p.IsReady(APIServer) {
		return errNotYet
	}

	if old != nil {
		if old.Hash == hash {
			return nil
		}

		p.Log.Info("static pod changes", "pod", c.Name)
		old.Process.Stop(Grace)
	}

	for name, data := range c.files {
		if err := disk.WriteFile(p.podFile(c.Name, name), data); err != nil {
			return err
		}
	}

	programs := p.Programs

	var unpulled error
	if programs.Folder, unpulled = p.Pull(c.Image); unpulled != nil {
		p.Log.Warn("static pod waits for its image", "pod", c.Name, "error", unpulled)
		programs.Launch = func(*exec.Cmd) error { return unpulled }
	}

	p.mu.Lock()
	defer p.mu.Unlock()

	if p.IsStopping() {
		return nil
	}

	p.pods[c.Name] = &StaticPod{
		Component: c, Hash: hash, Since: time.Now(), Problem: errors.New("starting"), Unpulled: unpulled,
		Process: programs.Start(c.Name, c.Arguments.Lines(), c.environment),
	}
	p.Changed()

	return nil
}

func (p *Plane) get(name string) *StaticPod {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.pods[name]
}

func (p *Plane) remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()

	delete(p.pods, name)
	p.Changed()
}

// Snapshot are copies of the static pods in the order of their names.
func (p *Plane) Snapshot() []StaticPod {
	p.mu.Lock()
	defer p.mu.Unlock()

	var list []StaticPod
	for _, name := range slices.Sorted(maps.Keys(p.pods)) {
		list = append(list, *p.pods[name])
	}

	return list
}

// Stop ends the static pods in order.
func (p *Plane) Stop(grace time.Duration) {
	var wait sync.WaitGroup
	for _, pod := range p.Snapshot() {
		wait.Go(func() { pod.Process.Stop(grace) })
	}

	wait.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()

	clear(p.pods)
	p.Changed()
}

// Kill ends them at once.
func (p *Plane) Kill() { p.Stop(0) }

// probe asks every static pod for its readiness.
func (p *Plane) probe() {
	client := p.probeClient()
	defer client.CloseIdleConnections()

	var problems error

	for ; !p.IsStopping(); p.Sleep(services.ProbeInterval(problems)) {
		pods := p.Snapshot()
		if problems = nil; len(pods) == 0 {
			problems = errNotYet
		}

		for _, pod := range pods {
			err := p.probeOnce(client, pod)
			problems = errors.Join(problems, err)

			p.judge(pod, err)
		}
	}
}

// judge keeps what the probe of a static pod said, unless another one has taken its place.
func (p *Plane) judge(pod StaticPod, problem error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	current := p.pods[pod.Name]
	if current == nil || current.Process != pod.Process {
		return
	}

	if (current.Problem == nil) != (problem == nil) {
		p.Changed()
	}

	current.Problem = problem
}

func (p *Plane) probeOnce(client *http.Client, pod StaticPod) error {
	if pod.Process.PID() == 0 {
		return errors.New("not running")
	}

	ctx, cancel := context.WithTimeout(p.Context(), probeTimeout)
	defer cancel()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, pod.probe, nil)
	if err != nil {
		return err
	}

	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()

	_, _ = io.Copy(io.Discard, answer.Body)

	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", pod.probe, answer.Status)
	}

	return nil
}

// probeClient speaks HTTPS inside the machine, as the kubelet's probes do without verification; the API
// server, which knows no anonymous caller, gets the certificate that it gives to the kubelet.
func (p *Plane) probeClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: p.Network.Dial,
		TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // a probe of the machine's own loopback
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				name := p.Secrets.Path("kube-apiserver/apiserver-kubelet-client")
				pair, err := tls.LoadX509KeyPair(name+".crt", name+".key")

				return &pair, err
			},
		},
	}}
}

// IsReady says whether a static pod runs and answers its probe.
func (p *Plane) IsReady(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.pods[name] != nil && p.pods[name].Problem == nil
}

// serveCluster does what a control plane does for the whole cluster once its API server answers:
// Talos' bootstrap manifests, and the lab's pods.
func (p *Plane) serveCluster() {
	for !p.IsReady(APIServer) {
		if !p.Sleep(lifetime.Tick) || p.IsStopping() {
			return
		}
	}

	for !p.IsStopping() {
		err := p.applyManifests()
		if err == nil {
			break
		}

		p.LogError("bootstrap manifests", err)
		p.Sleep(time.Second)
	}

	p.Serves(p.Provider())
}

// podFile is the path of a static pod's configuration file.
func (p *Plane) podFile(pod, name string) string {
	return p.Disk.Path(disk.PodsFolder, pod, name)
}

// Summary is a static pod's status as the kubelet reports it to Talos.
func (p *StaticPod) Summary() map[string]any {
	ready := "False"
	if p.Problem == nil {
		ready = "True"
	}

	return map[string]any{
		"phase":      "Running",
		"conditions": []any{map[string]any{"type": "Ready", "status": ready}},
	}
}

// Object is the static pod as Talos' resource of it shows it.
func (p *StaticPod) Object() map[string]any {
	command := []any{"/usr/local/bin/" + p.Name}
	for _, line := range p.Arguments.Lines() {
		command = append(command, line)
	}

	return map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": p.Name, "namespace": kubeapi.SystemNamespace},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": p.Name, "image": p.Image, "command": command}}},
	}
}
