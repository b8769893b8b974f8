// Package kubelet is the simulated kubelet of a machine.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/logs"
	"platform.lab/lab/internal/machine/pods"
	"platform.lab/lab/internal/machine/services"
)

const (
	interval = time.Second
	// fromCache lets the API server answer from its watch cache, without asking etcd, as a kubelet does.
	fromCache = "0"
)

// Machine is what a kubelet needs of the machine that it runs on.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	// Hardware is what the system found when it booted, Now what the VM has by now.
	Hardware hardware.VM
	Now      func() hardware.VM
	// BootID is /proc/sys/kernel/random/boot_id.
	BootID       string
	Begun        time.Time
	TalosVersion func() string
	Disk         disk.Disk
	Network      *guestnetwork.Network
	Services     *services.Services
	// StaticPods are those of a control plane.
	StaticPods func() []controlplane.StaticPod
	// NodeReady replaces the rule that says when a node's network is ready; nil: see networkReady.
	NodeReady func(ctx context.Context, node *corev1.Node) bool
	// PodLog finds the log file of a pod's container whose program somebody else runs for real; "" of all others.
	PodLog func(cluster string, pod *corev1.Pod, container string) string
	// Pods runs those pods as processes whose images it knows; nil when all are simulated.
	Pods *pods.Runtime
	// Pull fails when there is no such image.
	Pull func(image string) (string, error)
	// LabLog is the lab's log of the machine.
	LabLog *slog.Logger
}

// Kubelet is the simulated kubelet: it registers the machine's Node, keeps its lease and conditions, mirrors the
// static pods and serves the kubelet's API. Pods of images that the lab knows are run by package pods; KWOK simulates all others.
type Kubelet struct {
	Machine

	log     *slog.Logger
	serving *serving
	usage   *usage

	mu sync.Mutex
	// image is the one that the kubelet was started with; "" while it is not.
	image   string
	client  kubernetes.Interface
	current *corev1.Node
	pods    []corev1.Pod
	// memoryMiB is what the kubelet found when it started; it never looks again (kubernetes #62355).
	memoryMiB int
	// beat is when the status was last written, lease when the lease was.
	beat, lease time.Time
	// refused is what is wrong with its configuration, as it was last told.
	refused string
}

// New makes the kubelet of a machine that has just begun to boot.
func New(on Machine) *Kubelet {
	return &Kubelet{
		Machine: on, memoryMiB: on.Now().MemoryMiB, log: logs.OfService(on.LabLog, on.Disk, "kubelet"), usage: newUsage(on.Begun),
		serving: newServing(on.Disk.Path(disk.KubeletFolder), on.Network.Hostname),
	}
}

// Run is the kubelet from the machine's boot to its end.
func (n *Kubelet) Run() {
	rotate := rotates(n.Provider())
	n.LogError("kubelet", n.serving.load(rotate))
	n.Go(n.serve)

	var last string

	for ; !n.IsStopping(); n.Sleep(interval) {
		if !n.configured() {
			continue
		}

		if wanted := rotates(n.Provider()); wanted != rotate {
			rotate = wanted
			n.LogError("kubelet", n.serving.load(rotate))
		}

		if n.Provider().Machine().Kubelet().SkipNodeRegistration() {
			continue
		}

		err := n.sync(rotate)

		if apierrors.IsUnauthorized(err) {
			// The certificate is of a cluster that is gone: ask for another one.
			n.connect(nil)
			n.LogError("kubelet", os.RemoveAll(n.Disk.Path(disk.KubeletFolder)))
			n.LogError("kubelet", n.serving.load(rotate))
		}

		if err != nil {
			if last != err.Error() {
				n.log.Debug("kubelet", "error", err)
			}

			last = err.Error()
		}
	}
}

// configured starts the kubelet as the machine's configuration says, and says whether there is one: while that is
// refused, what runs stays as it was.
func (n *Kubelet) configured() bool {
	settings := n.Provider().Machine().Kubelet()

	_, err := readExtraConfig(settings.ExtraConfig())
	if err == nil {
		n.refused = ""

		return n.start(settings.Image())
	}

	if n.refused != err.Error() {
		n.refused = err.Error()
		n.LogError("controller failed", err)
	}

	return n.Image() != ""
}

// Image is the one that the kubelet was started with; "" while it is not.
func (n *Kubelet) Image() string {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.image
}

// start begins the service with the configuration's image, in the place of one with another image, and says whether
// it runs. As in Talos, the service waits for an image that is not to be had.
func (n *Kubelet) start(image string) bool {
	before := n.Image()
	if before == image {
		return true
	}

	if before != "" {
		n.setImage("")
		n.Services.Set("kubelet", services.StateFinished, "Service finished successfully")
		n.Sleep(interval)
	}

	if _, err := n.Pull(image); err != nil {
		n.Services.Set("kubelet", services.StatePreparing, "Failed to run pre stage: "+err.Error())

		return false
	}

	n.setImage(image)
	n.Services.Running("kubelet")

	return true
}

func (n *Kubelet) setImage(image string) {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.image = image
}

// sync brings the Node, its lease, the serving certificate and the mirror pods up to date once.
func (n *Kubelet) sync(rotate bool) error {
	provider := n.Provider()

	ctx, cancel := context.WithTimeout(n.Context(), time.Minute)
	defer cancel()

	client := n.connection()
	if client == nil {
		made, err := n.newClient(ctx, provider)
		if err != nil {
			return err
		}

		n.connect(made)

		client = made
	}

	object, err := n.register(ctx, client, provider)
	if err != nil {
		return err
	}

	if err := n.renewLease(ctx, client, object); err != nil {
		return err
	}

	// A kubelet may list the pods of its own node only, and get none by name that is not bound to it.
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: "spec.nodeName=" + object.Name, ResourceVersion: fromCache,
	})
	if err != nil {
		return err
	}

	n.observe(pods.Items)

	if object, err = n.writeStatus(ctx, client, provider, object, pods.Items); err != nil {
		return err
	}

	n.remember(object)

	others := pods.Items
	if n.Pods != nil {
		n.Pods.Sync(client, object, n.networkReady(ctx, provider, object, pods.Items), pods.Items)
		others = slices.DeleteFunc(slices.Clone(others), func(pod corev1.Pod) bool { return n.Pods.Owns(&pod) })
	}

	// A certificate that is not to be had keeps the kubelet from nothing else.
	var refused error
	if rotate {
		refused = n.serving.sync(ctx, client, object)
	}

	if err := n.mirror(ctx, client, object, pods.Items); err != nil {
		return errors.Join(refused, err)
	}

	return errors.Join(refused, startedAgain(ctx, client, others, n.Begun), readyAgain(ctx, client, others), playDebuggers(ctx, client, others), n.applyConfigured(ctx, client, provider, object))
}

// Restart lets the kubelet look at the machine's memory again. Its CPUs are those of the boot: Talos takes none up
// while it runs (siderolabs/talos #12260), and its disk's partition grows when it is mounted.
func (n *Kubelet) Restart() {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.memoryMiB, n.beat = n.Now().MemoryMiB, time.Time{}
}

// memory is what the node's capacity says, in MiB.
func (n *Kubelet) memory() int {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.memoryMiB
}

// connect takes the kubelet's client, or drops it.
func (n *Kubelet) connect(client kubernetes.Interface) {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.client = client
}

// observe takes over the pods of the machine and brings their counters up to date.
func (n *Kubelet) observe(pods []corev1.Pod) {
	n.mu.Lock()
	n.pods = pods
	n.mu.Unlock()

	for _, problem := range n.usage.observe(time.Now(), pods, n.measurement()) {
		n.log.Warn("simulated use", "error", problem)
	}
}

// PodsNow are the machine's pods as last seen.
func (n *Kubelet) PodsNow() []corev1.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.pods
}

func (n *Kubelet) remember(object *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()

	if n.current == nil || n.current.ResourceVersion != object.ResourceVersion {
		n.Changed()
	}

	n.current = object
}

// Object is the Node as last seen; nil before it is registered.
func (n *Kubelet) Object() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.current
}

// IsReady says whether the registered Node is ready; an error says why not, in Talos' words.
func (n *Kubelet) IsReady() error {
	name := n.Network.Hostname()

	object := n.Object()
	if object == nil {
		return fmt.Errorf("node %q status is not available yet", name)
	}

	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}

	return fmt.Errorf("node %q is not ready", name)
}
