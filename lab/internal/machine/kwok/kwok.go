// Package kwok runs KWOK, which simulates the pods of a cluster, and what else the lab runs beside a cluster.
package kwok

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/kubeprism"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// noNodeStage keeps KWOK away from the nodes, whose lease and conditions are their machine's business: with
// no stage for nodes at all KWOK would not watch their pods either.
const noNodeStage = `apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: node-never
spec:
  resourceRef:
    apiGroup: v1
    kind: Node
  selector:
    matchLabels:
      never.platform.lab/matches: "true"
  next: {}
`

// Cluster is what OnCluster gets to know of a cluster whose pods have begun to run.
type Cluster struct {
	// ID changes with the machine secrets; a cluster that begins again with the same ones keeps it.
	ID   string
	Name string
	// Kubeconfig is an administrator's, for the lab's own namespace; it reaches all API servers.
	Kubeconfig []byte
	// ForwardsDNS says whether a machine of the cluster has CoreDNS ask the machine's own name server now
	// (machine.features.hostDNS.forwardKubeDNSToHost).
	ForwardsDNS func() bool
	// ServiceRanges are the addresses of its Services.
	ServiceRanges []netip.Prefix
}

// Settings say what a KWOK is run with.
type Settings struct {
	// Dir holds a folder per cluster, Bin the program.
	Dir, Bin string
	// Stages is KWOK's folder of pod stages. Empty: no pod ever runs.
	Stages string
	// Images are those whose pods the machines run as processes: KWOK leaves them alone.
	Images      []programs.Image
	Environment []string
	Discovery   *discovery.Service
	// Configurations are those of all machines that run.
	Configurations func() []config.Provider
	// OnCluster runs beside KWOK, until its context ends; nil: nothing does.
	OnCluster func(ctx context.Context, cluster Cluster)
	Log       *slog.Logger
}

// Runner runs one KWOK per cluster: it simulates the pods that the scheduler puts on the nodes.
type Runner struct {
	Settings

	mu       sync.Mutex
	clusters map[string]*instance
	// planes are the control planes' machines, and the cluster that each is one of.
	planes map[string]string
	closed bool
}

type instance struct {
	process *process.Process
	cancel  context.CancelFunc
	// beside is what runs in the lab itself: the balancer and OnCluster.
	beside sync.WaitGroup
}

// NewRunner runs nothing before a cluster begins.
func NewRunner(settings Settings) *Runner {
	return &Runner{Settings: settings, clusters: map[string]*instance{}, planes: map[string]string{}}
}

// Ensure starts KWOK for the cluster that a machine is a control plane of, unless it runs. It ends with the context at the
// latest.
func (k *Runner) Ensure(ctx context.Context, machineID string, provider config.Provider) {
	k.mu.Lock()
	defer k.mu.Unlock()

	id := provider.Cluster().ID()
	if before := k.planes[machineID]; before != id {
		k.planes[machineID] = id
		k.endWithout(before)
	}

	if k.closed || k.clusters[id] != nil || k.Stages == "" {
		return
	}

	started, err := k.start(ctx, provider)
	if err != nil {
		k.Log.Error("KWOK does not run: no pod of the cluster will start", "cluster", provider.Cluster().Name(), "error", err)

		return
	}

	k.clusters[id] = started
}

// Restart ends a cluster's KWOK; a cluster that begins again, or from a snapshot, gets another one.
func (k *Runner) Restart(clusterID string) {
	k.mu.Lock()
	defer k.mu.Unlock()

	k.end(clusterID)
}

// Gone is told of a machine that is no more; with its last control plane a cluster has ended.
func (k *Runner) Gone(machineID string) {
	k.mu.Lock()
	defer k.mu.Unlock()

	before := k.planes[machineID]
	delete(k.planes, machineID)
	k.endWithout(before)
}

// endWithout ends a cluster's KWOK when no machine is a control plane of it any more.
func (k *Runner) endWithout(clusterID string) {
	for _, id := range k.planes {
		if id == clusterID {
			return
		}
	}

	k.end(clusterID)
}

func (k *Runner) end(clusterID string) {
	if running := k.clusters[clusterID]; running != nil {
		running.stop()
		delete(k.clusters, clusterID)
	}
}

// Close ends the KWOK of every cluster; no other one begins.
func (k *Runner) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()

	k.closed = true

	for _, running := range k.clusters {
		running.stop()
	}

	clear(k.clusters)
}

func (k *instance) stop() {
	k.process.Stop(0)
	k.cancel()
	k.beside.Wait()
}

func (k *Runner) start(ctx context.Context, provider config.Provider) (*instance, error) {
	folder := filepath.Join(k.Dir, "kwok-"+provider.Cluster().Name())

	stages, err := podStages(k.Stages, k.Images)
	if err != nil {
		return nil, err
	}

	listener, err := net.Listen("tcp", net.JoinHostPort(guestnetwork.Loopback.String(), "0"))
	if err != nil {
		return nil, err
	}

	credentials, err := certificates.Kubeconfig(provider.Cluster(), "https://"+listener.Addr().String(), certificates.Request{
		CommonName: "kwok", Organizations: []string{constants.KubernetesAdminCertOrganization}, Usage: certificates.ForClient,
	})
	if err != nil {
		listener.Close()

		return nil, err
	}

	for name, data := range map[string][]byte{"kubeconfig": credentials, "stages.yaml": stages} {
		if err := disk.WriteFile(filepath.Join(folder, name), data); err != nil {
			listener.Close()

			return nil, err
		}
	}

	started := &instance{}
	ctx, started.cancel = context.WithCancel(ctx)
	balance := &kubeprism.Balancer{Dial: asPod(provider).DialContext, Targets: func() []string { return k.apiServers(provider) }}

	started.beside.Go(func() { balance.Serve(ctx, listener) })

	if k.OnCluster != nil {
		started.beside.Go(func() {
			k.OnCluster(ctx, Cluster{
				ID: provider.Cluster().ID(), Name: provider.Cluster().Name(), Kubeconfig: credentials,
				ForwardsDNS:   func() bool { return k.forwardsDNS(provider.Cluster().ID()) },
				ServiceRanges: prefixes(provider.Cluster().Network().ServiceCIDRs()),
			})
		})
	}

	started.process = process.Supervise(filepath.Join(folder, "kwok.log"), process.Program{
		Path: filepath.Join(k.Bin, "kwok"),
		Arguments: []string{
			"--kubeconfig=" + filepath.Join(folder, "kubeconfig"), "--config=" + filepath.Join(folder, "stages.yaml"),
			"--manage-all-nodes=true", "--node-lease-duration-seconds=0",
		},
		Environment: k.Environment,
		Launch:      network.Start,
		Log:         k.Log,
	})

	return started, nil
}

// prefixes are those of a configuration, which was checked before.
func prefixes(texts []string) []netip.Prefix {
	var all []netip.Prefix

	for _, text := range texts {
		if one, err := netip.ParsePrefix(text); err == nil {
			all = append(all, one)
		}
	}

	return all
}

func (k *Runner) forwardsDNS(clusterID string) bool {
	return slices.ContainsFunc(k.Configurations(), func(provider config.Provider) bool {
		if provider == nil || provider.Machine() == nil || provider.Cluster() == nil || provider.Cluster().ID() != clusterID {
			return false
		}

		dns := provider.Machine().Features().HostDNS()

		return dns.Enabled() && dns.ForwardKubeDNSToHost()
	})
}

// asPod dials as the cluster's pods do, from their network: a machine's firewall tells by the address who it is. All that
// runs in the lab's own namespace are controllers of pods.
func asPod(provider config.Provider) *net.Dialer {
	for _, text := range provider.Cluster().Network().PodCIDRs() {
		pods, err := netip.ParsePrefix(text)
		if err != nil || !pods.Addr().Is4() {
			continue
		}

		// The last address but one: machines are given their parts of that network from its beginning.
		first := pods.Masked().Addr().As4()
		last := binary.BigEndian.Uint32(first[:]) | (1<<(pods.Addr().BitLen()-pods.Bits()) - 1)
		own := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, last-1)))

		if network.AddLoopback(own) == nil {
			return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 0))}
		}
	}

	return &net.Dialer{}
}

func (k *Runner) apiServers(provider config.Provider) []string {
	var targets []string
	for _, address := range k.Discovery.ControlPlanes(provider.Cluster().ID()) {
		targets = append(targets, net.JoinHostPort(address.String(), strconv.Itoa(provider.Cluster().LocalAPIServerPort())))
	}

	return targets
}

// podStages joins the stage files of a folder, and the node stage that never matches.
func podStages(folder string, real []programs.Image) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}

	files = slices.DeleteFunc(files, func(path string) bool { return filepath.Base(path) == "kustomization.yaml" })
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no stage files (*.yaml)", folder)
	}

	stages := []string{noNodeStage}

	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}

		stages = append(stages, withoutPrograms(withoutBackups(string(data)), real))
	}

	return []byte(strings.Join(stages, "---\n")), nil
}

// withoutPrograms keeps KWOK from pods whose images are all among those that the machines run.
func withoutPrograms(stage string, real []programs.Image) string {
	if len(real) == 0 {
		return stage
	}

	var names []string
	for _, image := range real {
		names = append(names, strconv.Quote(image.Repository))
	}

	const selector = "    matchExpressions:\n"

	// An image's name without tag and digest, as programs.Repository.
	return strings.Replace(stage, selector, selector+fmt.Sprintf(`    - key: '[.spec.containers[], (.spec.initContainers // [])[]] | all(.image | sub("@.*$"; "") | sub(":[^/]*$"; "") | IN(%s))'
      operator: 'NotIn'
      values:
      - 'true'
`, strings.Join(names, ", ")), 1)
}

// withoutBackups keeps KWOK from ending a Job's pods that take backups: how those end depends on what they find
// (workloads/backup.go).
func withoutBackups(stage string) string {
	const job = `    - key: '.metadata.ownerReferences.[].kind'
      operator: 'In'
`

	return strings.Replace(stage, job, `    - key: '.metadata.labels["app.kubernetes.io/name"]'
      operator: 'NotIn'
      values:
      - 'etcd-backup'
`+job, 1)
}
