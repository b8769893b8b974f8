package machine

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"

	"platform.lab/lab/internal/machine/arguments"
	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/machine/services"
)

const (
	kubeAPIServer     = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"

	probeTimeout = 2 * time.Second

	// podGrace is the kubelet's 30 s, shortened: the API server closes its port at once, and then only waits
	// for watches that nobody ends.
	podGrace = time.Second
)

// component is a program of the control plane as the machine configuration wants it.
type component struct {
	name        string
	image       string
	arguments   arguments.Arguments
	environment []string
	// files are the configuration files that the arguments name, by their name.
	files map[string][]byte
	// probe is the URL of the program's readiness, seen from inside the machine.
	probe string
}

// identity changes exactly when the program must be started anew. Certificates are no part of it:
// the programs read them again by themselves.
func (c component) identity() string {
	hash := sha256.New()
	fmt.Fprintln(hash, c.name, c.image, c.arguments.Lines(), c.environment)

	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		fmt.Fprintf(hash, "%s %x\n", name, sha256.Sum256(c.files[name]))
	}

	return fmt.Sprintf("%x", hash.Sum(nil))
}

// staticPod is a component that runs.
type staticPod struct {
	component
	hash    string
	process *process.Process
	problem error
	since   time.Time
}

// planeMachine is what a control plane needs of the machine that it runs on.
type planeMachine struct {
	*lifetime.Lifetime
	*configuration.Active

	Disk     disk.Disk
	Network  *guestnetwork.Network
	Programs process.Programs
	Services *services.Services
	Secrets  *certificates.Secrets
	// Serves is told of the cluster when its API server answers for the first time.
	Serves func(provider config.Provider)
}

// plane runs a control plane's static pods as child processes.
type plane struct {
	planeMachine

	mu   sync.Mutex
	pods map[string]*staticPod
}

// newPlane makes the control plane of a machine that has just begun to boot.
func newPlane(on planeMachine) *plane {
	return &plane{planeMachine: on, pods: map[string]*staticPod{}}
}

// run starts the static pods once etcd is up and follows the machine configuration.
func (p *plane) run() {
	for !p.Services.IsUp("etcd") {
		if !p.Sleep(lifetime.Tick) || p.IsStopping() {
			return
		}
	}

	p.Go(p.probe)
	p.Go(p.serveCluster)

	var done config.Provider

	for ; !p.IsStopping(); p.Sleep(lifetime.Tick) {
		provider := p.Provider()
		if provider == done {
			continue
		}

		err := p.reconcile(provider)
		if err == nil {
			done = provider
		} else if !errors.Is(err, errNotYet) {
			p.LogError("control plane", err)
			p.Sleep(time.Second)
		}
	}
}

// reconcile starts, replaces and stops static pods until they are what the configuration wants.
func (p *plane) reconcile(provider config.Provider) error {
	if err := p.Secrets.Write(provider); err != nil {
		return err
	}

	wanted, err := p.components(provider)
	if err != nil {
		return err
	}

	for _, running := range p.snapshot() {
		if !slices.ContainsFunc(wanted, func(c component) bool { return c.name == running.name }) {
			running.process.Stop(podGrace)
			p.remove(running.name)
		}
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
func (p *plane) ensure(c component) error {
	hash := c.identity()
	old := p.get(c.name)

	// On Talos these two crash until the API server has made its roles; here they wait for it.
	if old == nil && c.name != kubeAPIServer && !p.isReady(kubeAPIServer) {
		return errNotYet
	}

	if old != nil {
		if old.hash == hash {
			return nil
		}

		p.Log.Info("static pod changes", "pod", c.name)
		old.process.Stop(podGrace)
	}

	for name, data := range c.files {
		if err := disk.WriteFile(p.podFile(c.name, name), data); err != nil {
			return err
		}
	}

	p.mu.Lock()
	defer p.mu.Unlock()

	if p.IsStopping() {
		return nil
	}

	p.pods[c.name] = &staticPod{
		component: c, hash: hash, since: time.Now(), problem: errors.New("starting"),
		process: p.Programs.Start(c.name, c.arguments.Lines(), c.environment),
	}

	return nil
}

func (p *plane) get(name string) *staticPod {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.pods[name]
}

func (p *plane) remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()

	delete(p.pods, name)
}

// snapshot are copies of the static pods in the order of their names.
func (p *plane) snapshot() []staticPod {
	p.mu.Lock()
	defer p.mu.Unlock()

	var list []staticPod
	for _, name := range slices.Sorted(maps.Keys(p.pods)) {
		list = append(list, *p.pods[name])
	}

	return list
}

func (p *plane) stop(grace time.Duration) {
	var wait sync.WaitGroup
	for _, pod := range p.snapshot() {
		wait.Go(func() { pod.process.Stop(grace) })
	}

	wait.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()

	clear(p.pods)
}

func (p *plane) kill() { p.stop(0) }

// probe asks every static pod for its readiness.
func (p *plane) probe() {
	client := p.probeClient()
	defer client.CloseIdleConnections()

	var problems error

	for ; !p.IsStopping(); p.Sleep(services.ProbeInterval(problems)) {
		pods := p.snapshot()
		if problems = nil; len(pods) == 0 {
			problems = errNotYet
		}

		for _, pod := range pods {
			err := p.probeOnce(client, pod)
			problems = errors.Join(problems, err)

			p.mu.Lock()
			if current := p.pods[pod.name]; current != nil && current.process == pod.process {
				current.problem = err
			}
			p.mu.Unlock()
		}
	}
}

func (p *plane) probeOnce(client *http.Client, pod staticPod) error {
	if pod.process.PID() == 0 {
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
func (p *plane) probeClient() *http.Client {
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

// isReady says whether a static pod runs and answers its probe.
func (p *plane) isReady(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.pods[name] != nil && p.pods[name].problem == nil
}

// serveCluster does what a control plane does for the whole cluster once its API server answers:
// Talos' bootstrap manifests, and the lab's pods.
func (p *plane) serveCluster() {
	for !p.isReady(kubeAPIServer) {
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
func (p *plane) podFile(pod, name string) string {
	return p.Disk.Path(disk.PodsFolder, pod, name)
}

// summary is a static pod's status as the kubelet reports it to Talos.
func (p *staticPod) summary() map[string]any {
	ready := "False"
	if p.problem == nil {
		ready = "True"
	}

	return map[string]any{
		"phase":      "Running",
		"conditions": []any{map[string]any{"type": "Ready", "status": ready}},
	}
}
