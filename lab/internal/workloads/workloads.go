// Package workloads is what runs "on" a cluster of the lab beside the pods that KWOK only simulates: KWOK gives a
// pod its address and says that it is ready, and this package answers for those pods that something else needs.
//
// It lives in the lab's own network namespace, where the machines' default route ends: addresses of Services
// and of the pods it answers for are added there, so that API servers reach webhooks and aggregated APIs, and
// the operator reaches LoadBalancer addresses. All of it but MetalLB's controller is a simulation, see Parts.
package workloads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"platform.lab/lab/internal/certapprover"
	"platform.lab/lab/internal/datapath"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/talosbackup"
)

// Cluster is a running cluster as its machines tell of it.
type Cluster struct {
	ID, Name string
	// Kubeconfig is an administrator's.
	Kubeconfig []byte
	// ForwardsDNS says whether CoreDNS asks the machines' own name servers now; nil is no.
	ForwardsDNS func() bool
	// ServiceRanges are the addresses of its Services.
	ServiceRanges []netip.Prefix
}

// Options say where the workloads find and leave their things.
type Options struct {
	// Bin is the folder of metallb-controller, and of crds/cilium/*.yaml.
	Bin string
	// Dir gets a folder per cluster: logs, and files that pods would mount.
	Dir string
	// Images are those whose pods run as processes; nothing is answered for them.
	Images []programs.Image
	// DataPath is that of the machines, and Flows what is seen there; both are needed where Images are.
	DataPath *datapath.Machines
	Flows    *Flows
	// Links carry the addresses.
	Links Links
	// Forward gives the machine with an address what it forwards of LoadBalancer addresses.
	Forward func(machine netip.Addr, services []network.Balanced) error
	// Authority is the one that the world trusts; it vouches for the simulated ACME authority.
	Authority *pki.Authority
	// Resolve gives the address of a name outside the cluster, as the site's name servers know it; nil knows none.
	Resolve func(name string) (netip.Addr, bool)
	Log     *slog.Logger
}

// Part is one piece of the simulation, for a run's summary.
type Part struct {
	Name string `json:"name"`
	// Kind is "real", "stand-in" or "simulated".
	Kind string `json:"kind"`
	Says string `json:"says"`
}

// part is a Part that can run.
type part struct {
	Part
	run func(context.Context, *cluster) error
}

// parts are all that answer for pods; none for pods that run as processes.
func parts(images []programs.Image) []part {
	all := []part{
		{Part{"service-proxy", "simulated", proxied(images)}, runProxy},
		{Part{"cilium-operator", "simulated", "registers the operator's own CRDs and accepts its GatewayClass"}, runCiliumOperator},
		{Part{certapprover.Name, "simulated", "approves kubelets' serving certificates by the real one's rules, for the node's own names and addresses only"}, runApprover},
		{Part{"metallb-controller", "real", "the controller built from its module, with its webhooks and the rights of its ServiceAccount"}, runMetalLB},
		{Part{"cert-manager-controller", "simulated", "issuers, certificates and caBundles; ACME certificates come from an authority of the lab"}, runCertManager},
		{Part{"cert-manager-webhook", "simulated", "answers on the pods' addresses and admits everything"}, runCertManagerWebhook},
		{Part{"metrics-server", "simulated", "serves metrics.k8s.io/v1beta1 from the kubelets, verified and authorized; its numbers are as real as the kubelets'"}, runMetricsServer},
		{Part{talosbackup.Name, "simulated", "does what talos-backup 0.1.0-beta.3 does: a real snapshot through the Talos API, real age, Amazon's real library"}, runBackups},
		{Part{"traefik", "simulated", "an HTTPS responder with the default TLSStore's certificate; it routes nothing"}, runTraefik},
	}

	if len(images) > 0 {
		all = append(all, part{Part{
			networkPolicies, "simulated",
			"Cilium's data path by the kernel's packet filter: each connection of a pod that runs as processes needs a policy; policies of Cilium's own kinds allow nothing here",
		}, runNetworkPolicies})
	}

	if isReal(images, speakerName) {
		all = append(all, part{Part{
			balancerName, "simulated",
			"Cilium's data path of LoadBalancer addresses: every machine's kernel forwards to ready endpoints, by externalTrafficPolicy",
		}, runBalancer})
	}

	return slices.DeleteFunc(all, func(p part) bool { return isReal(images, p.Name) })
}

// balancerName is the part that gives machines what they forward.
const balancerName = "load-balancer"

// isReal says whether pods of a part are processes.
func isReal(images []programs.Image, part string) bool {
	return slices.ContainsFunc(images, func(image programs.Image) bool { return image.Name() == part })
}

// proxied says what the Services' proxies do.
func proxied(images []programs.Image) string {
	if isReal(images, speakerName) {
		return "refuses connections to Services without endpoints, as Cilium does; the machines' kernels translate the others. With kube-proxy in " +
			"its place ClusterIPs are TCP and UDP proxies to ready endpoints"
	}

	return "ClusterIPs (Cilium's data path) and LoadBalancer addresses (MetalLB's speaker) are proxies to ready endpoints"
}

// Parts are all pieces, and the programs that pods run as processes, with one line on what each is.
func Parts(images []programs.Image) []Part {
	var list []Part
	for _, p := range parts(images) {
		list = append(list, p.Part)
	}

	for _, image := range images {
		list = append(list, Part{image.Name(), image.Kind, "its pods run as processes; " + image.Says})
	}

	return append(list, Part{"all other pods", "simulated", "KWOK says that they run; no program does"})
}

// Run works for one cluster until the context ends, and returns when nothing of it is left: no listener,
// no address, no process. A part that fails is logged by its name and started again.
func Run(ctx context.Context, given Cluster, options Options) error {
	config, err := clientcmd.RESTConfigFromKubeConfig(given.Kubeconfig)
	if err != nil {
		return fmt.Errorf("workloads of cluster %s: %w", given.Name, err)
	}

	config.QPS, config.UserAgent, config.WarningHandler = -1, "lab-workloads", rest.NoWarnings{}

	c, err := newCluster(given, options, config)
	if err != nil {
		return fmt.Errorf("workloads of cluster %s: %w", given.Name, err)
	}

	return c.run(ctx, parts(options.Images))
}

func newCluster(given Cluster, options Options, config *rest.Config) (*cluster, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}

	custom, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}

	return makeCluster(given, options, config, client, custom), nil
}

// run starts the informers and every part, and waits for their end.
func (c *cluster) run(ctx context.Context, all []part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	defer c.factoriesDown(cancel)

	if err := c.startInformers(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // the cluster ended before it had begun
		}

		return err
	}

	done := make(chan struct{})

	for _, p := range all {
		go func() {
			defer func() { done <- struct{}{} }()

			c.keepRunning(ctx, p)
		}()
	}

	for range all {
		<-done
	}

	return c.addresses.releaseAll()
}

// longestPause is the most that a failing part waits before its next try.
const longestPause = 30 * time.Second

func (c *cluster) keepRunning(ctx context.Context, p part) {
	c.retry(ctx, p.Name, func(ctx context.Context) error { return p.run(ctx, c) })
}

// retry runs a job until it returns nil or the context ends; each failure is logged, and the pause after it doubles.
func (c *cluster) retry(ctx context.Context, what string, job func(context.Context) error) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		begun := time.Now()

		err := job(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}

		if time.Since(begun) > time.Minute {
			pause = time.Second
		}

		c.log.Warn("a workload failed, it is tried again", "part", what, "error", err, "after", pause)
		sleep(ctx, pause)
	}
}

// together runs jobs at the same time until the first of them ends, and returns when all have.
func together(ctx context.Context, jobs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	ended := make(chan error, len(jobs))

	for _, job := range jobs {
		go func() { ended <- job(ctx) }()
	}

	var problems []error

	for range jobs {
		problems = append(problems, <-ended)

		cancel()
	}

	return errors.Join(problems...)
}

// sleep says whether the whole pause went by before the context's end.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()

	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

var errNotYet = errors.New("not yet")
