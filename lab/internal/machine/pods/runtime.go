// Package pods runs pods as processes: for a pod whose images the lab knows as programs, it does what a kubelet and its
// container runtime do: sandbox, volumes, environment, init containers, probes, restarts, termination, status, events.
//
// Nothing here is simulated. What a process cannot have in the lab is left out: images, cgroups (a limit of memory is held by
// looking, a limit of CPU is not held), user and group are one each, a volume of a storage class.
package pods

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// Network is the machine's, in which its pods are plugged.
type Network interface {
	NewPod(name string, address, gateway netip.Addr) (*network.Namespace, error)
	RemovePod(pod *network.Namespace) error
	// Start starts a command in the machine's own namespace, for pods with hostNetwork.
	Start(cmd *exec.Cmd) error
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Address() netip.Addr
	// Resolvers are the machine's own name servers.
	Resolvers() []netip.Addr
}

// Settings are what pods need of the machine.
type Settings struct {
	*lifetime.Lifetime

	Images []programs.Image
	// Bin is the folder of the images' programs.
	Bin string
	// Self is the lab's program, with what makes it a container: see container.Start.
	Self []string
	// Folder is the machine's for pods: /var/lib/kubelet/pods.
	Folder string
	// LogFolder is the machine's /var/log.
	LogFolder string
	// HostPath gives the folder or file that stands for a path of the machine; false for one that the lab has not.
	HostPath func(path string) (string, bool)
	Network  Network
	// Cluster gives the cluster's domain, and the address of its DNS.
	Cluster func() (domain string, dns []string)
	// Trust is the file of authorities that the images trust; "" is none.
	Trust string
	Log   *slog.Logger
	// Routed is told when an address begins and ceases to be reached through the machine.
	Routed func(pod *corev1.Pod, address netip.Addr, there bool) error
}

// Runtime runs the pods of one machine, from its boot to its end.
type Runtime struct {
	Settings

	mu      sync.Mutex
	client  kubernetes.Interface
	node    *corev1.Node
	ready   bool
	events  record.EventRecorder
	stop    func()
	workers map[types.UID]*worker
	// taken are the addresses of the pods that run here.
	taken map[netip.Addr]types.UID
	// others are those of pods that somebody else has on this machine.
	others map[netip.Addr]bool
}

// New makes the runtime of a machine that has just begun to boot.
func New(settings Settings) *Runtime {
	return &Runtime{
		Settings: settings, workers: map[types.UID]*worker{}, taken: map[netip.Addr]types.UID{}, stop: func() {},
		events: &record.FakeRecorder{},
	}
}

// Owns says whether all of a pod's containers are programs that the lab can run. A static pod's mirror is none.
func (r *Runtime) Owns(pod *corev1.Pod) bool {
	if r == nil {
		return false
	}

	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return false
	}

	unknown := func(one corev1.Container) bool {
		_, known := programs.ImageOf(r.Images, one.Image)

		return !known
	}

	return len(pod.Spec.Containers) > 0 && !slices.ContainsFunc(pod.Spec.Containers, unknown) && !slices.ContainsFunc(pod.Spec.InitContainers, unknown)
}

// Sync takes over the machine's pods as the API has them. Pods are started, changed and ended in the background. Without
// networkReady only pods in the machine's own network start, as with a kubelet.
func (r *Runtime) Sync(client kubernetes.Interface, node *corev1.Node, networkReady bool, pods []corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()

	if r.IsStopping() {
		return
	}

	if r.client != client {
		r.listen(client, node)
	}

	if r.node == nil {
		r.LogError("folders of pods that are gone", errors.Join(r.sweep(pods), r.sweepLogs(pods)))
	}

	r.node, r.ready, r.others = node, networkReady, map[netip.Addr]bool{}
	seen := map[types.UID]bool{}

	for i := range pods {
		pod := &pods[i]

		if !r.Owns(pod) {
			if address, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
				r.others[address] = true
			}

			continue
		}

		seen[pod.UID] = true

		running := r.workers[pod.UID]
		if running == nil {
			if isOver(pod) && pod.DeletionTimestamp == nil {
				continue
			}

			running = newWorker(r, pod)
			r.workers[pod.UID] = running
			r.Go(running.run)
		}

		running.take(pod)
	}

	for uid, running := range r.workers {
		if running.isDone() {
			delete(r.workers, uid)
		} else if !seen[uid] {
			running.gone()
		}
	}
}

// sweep removes the folders of pods that went while the machine was off.
func (r *Runtime) sweep(pods []corev1.Pod) error {
	folders, err := os.ReadDir(r.Folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}

	problems := []error{err}

	for _, folder := range folders {
		if !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return string(pod.UID) == folder.Name() }) {
			problems = append(problems, os.RemoveAll(filepath.Join(r.Folder, folder.Name())))
		}
	}

	return errors.Join(problems...)
}

// listen sends events with another client.
func (r *Runtime) listen(client kubernetes.Interface, node *corev1.Node) {
	r.stop()

	sink := record.NewBroadcaster()
	sink.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	context.AfterFunc(r.Context(), sink.Shutdown)

	r.client, r.stop = client, sink.Shutdown
	r.events = sink.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node.Name})
}

func isOver(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// api is the machine's client now.
func (r *Runtime) api() kubernetes.Interface {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.client
}

func (r *Runtime) nodeNow() *corev1.Node {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.node
}

func (r *Runtime) networkReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.ready
}

func (r *Runtime) event(pod *corev1.Pod, kind, reason, format string, values ...any) {
	r.mu.Lock()
	events := r.events
	r.mu.Unlock()

	events.Eventf(pod, kind, reason, format, values...)
}

func (r *Runtime) worker(namespace, name string) *worker {
	r.mu.Lock()
	defer r.mu.Unlock()

	for _, one := range r.workers {
		if pod := one.podNow(); pod.Namespace == namespace && pod.Name == name {
			return one
		}
	}

	return nil
}

// all are the workers of all pods.
func (r *Runtime) all() []*worker {
	if r == nil {
		return nil
	}

	r.mu.Lock()
	defer r.mu.Unlock()

	var list []*worker
	for _, one := range r.workers {
		list = append(list, one)
	}

	return list
}

// choice is how many free addresses a pod's is chosen from.
const choice = 100

// assign gives a pod an address of the machine's part of the pod network, any of the free ones, as Cilium's agent does: after a
// reboot a pod hardly ever has the address that another one had, where somebody still expects that one. It begins at the end
// of the network: KWOK, which simulates the other pods, gives addresses from the beginning.
func (r *Runtime) assign(uid types.UID) (netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()

	network, err := netip.ParsePrefix(r.node.Spec.PodCIDR)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the node has no part of the pod network yet (spec.podCIDR %q)", r.node.Spec.PodCIDR)
	}

	var free []netip.Addr

	// Not the last one, which is the network's broadcast address, nor the first two.
	for address := lastOf(network).Prev(); address.Prev().Prev() != network.Masked().Addr() && network.Contains(address); address = address.Prev() {
		if _, taken := r.taken[address]; !taken && !r.others[address] {
			free = append(free, address)
		}

		if len(free) == choice {
			break
		}
	}

	if len(free) == 0 {
		return netip.Addr{}, fmt.Errorf("no address left in %s", network)
	}

	chosen := free[rand.IntN(len(free))] // nobody is to be kept from guessing it
	r.taken[chosen] = uid

	return chosen, nil
}

func (r *Runtime) release(address netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()

	delete(r.taken, address)
}

// lastOf is a network's last address.
func lastOf(network netip.Prefix) netip.Addr {
	bytes := network.Masked().Addr().AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}

	last, _ := netip.AddrFromSlice(bytes)

	return last
}

// linkOf is the machine's end of a pod's cable: the kernel allows 15 characters.
func linkOf(uid types.UID) string {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(uid))

	return fmt.Sprintf("%s%012x", network.PodLinks, sum.Sum64()&(1<<48-1))
}

func (r *Runtime) folderOf(pod *corev1.Pod) string { return filepath.Join(r.Folder, string(pod.UID)) }
