package kubelet

import (
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/machine/process"
)

// Annotations of a pod that say what all its containers together use, as quantities of Kubernetes ("400m",
// "200Mi"): how a test loads a pod that nothing runs.
const (
	cpuAnnotation    = "lab.platform/cpu"
	memoryAnnotation = "lab.platform/memory"
)

const (
	// usedShare of its request is what a simulated container uses.
	usedShare = 0.3
	// A container without a request uses so many cores and bytes.
	idleCores = 0.01
	idleBytes = 32 << 20
	// The system and the kubelet themselves.
	systemCores = 0.1
	systemBytes = 600 << 20
)

// usage is the simulated consumption of a machine's pods. Counters grow with time, begin again with a container
// and with the machine.
type usage struct {
	begun time.Time

	mu         sync.Mutex
	at         time.Time
	node       sample
	containers map[ContainerKey]*sample
	// complained holds the pods whose annotation could not be read.
	complained map[types.UID]bool
}

// ContainerKey names a container of a pod.
type ContainerKey struct {
	Pod       types.UID
	Container string
}

// sample is what a container, pod or machine has used: core-seconds since it started, and bytes now.
type sample struct {
	namespace, pod, container string

	uid   types.UID
	image string
	// limit is what the container may have of memory, in bytes; 0 is no limit.
	limit float64

	started time.Time
	seconds float64
	bytes   float64
	// cores are used from now on.
	cores float64
}

// measured is the consumption of a real process of the machine: a static pod's, or a container's that is not simulated.
type measured struct {
	started time.Time
	seconds float64
	bytes   float64
}

func newUsage(begun time.Time) *usage {
	return &usage{
		begun: begun, at: begun, containers: map[ContainerKey]*sample{}, complained: map[types.UID]bool{},
		node: sample{started: begun, cores: systemCores, bytes: systemBytes},
	}
}

// observe brings the counters to a time and takes over the machine's pods; real gives what the process of a container
// has used, nil of one that is simulated. It gives what is wrong with a pod's annotations, once a pod.
func (u *usage) observe(now time.Time, pods []corev1.Pod, real func(pod *corev1.Pod, container string) *measured) []error {
	u.mu.Lock()
	defer u.mu.Unlock()

	passed := max(0, now.Sub(u.at).Seconds())
	u.at = now
	u.node.seconds += systemCores * passed
	u.node.bytes = systemBytes

	for _, one := range u.containers {
		one.seconds += one.cores * passed
		u.node.seconds += one.cores * passed
	}

	var problems []error

	seen := map[ContainerKey]*sample{}

	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}

		loads, err := loadsOf(pod)
		if err != nil && !u.complained[pod.UID] {
			u.complained[pod.UID] = true
			problems = append(problems, err)
		}

		for _, status := range pod.Status.ContainerStatuses {
			if status.State.Running == nil {
				continue
			}

			key := ContainerKey{pod.UID, status.Name}
			seen[key] = u.take(key, pod, loads[status.Name], real(pod, status.Name), status.State.Running.StartedAt.Time)
			u.node.bytes += seen[key].bytes
		}
	}

	u.containers = seen

	return problems
}

// take is a container's sample with what it uses from now on.
func (u *usage) take(key ContainerKey, pod *corev1.Pod, load load, process *measured, started time.Time) *sample {
	if started.Before(u.begun) {
		started = u.begun // a reboot starts the container again, which its status does not tell
	}

	if process != nil {
		started = process.started
	}

	one := u.containers[key]
	if one == nil || !one.started.Equal(started) {
		one = &sample{namespace: pod.Namespace, pod: pod.Name, container: key.Container, uid: pod.UID, started: started}
		one.image, one.limit = specified(pod, key.Container)
	}

	one.cores, one.bytes = load.cores, load.bytes

	if process != nil {
		u.node.seconds += max(0, process.seconds-one.seconds)
		one.cores, one.seconds, one.bytes = 0, max(one.seconds, process.seconds), process.bytes
	}

	return one
}

// specified is the image of a pod's container and its limit of memory.
func specified(pod *corev1.Pod, name string) (image string, limit float64) {
	for _, container := range pod.Spec.Containers {
		if container.Name == name {
			return container.Image, container.Resources.Limits.Memory().AsApproximateFloat64()
		}
	}

	return "", 0
}

// snapshot is the machine's own consumption and that of its containers, as of the last observation.
func (u *usage) snapshot() (at time.Time, node sample, containers []sample) {
	u.mu.Lock()
	defer u.mu.Unlock()

	for _, one := range u.containers {
		containers = append(containers, *one)
	}

	return u.at, u.node, containers
}

// of are the containers of one pod.
func (u *usage) of(pod types.UID) []sample {
	u.mu.Lock()
	defer u.mu.Unlock()

	var found []sample

	for key, one := range u.containers {
		if key.Pod == pod {
			found = append(found, *one)
		}
	}

	return found
}

// load is what a container uses.
type load struct{ cores, bytes float64 }

// loadsOf are the loads of a pod's containers: a share of what they request, or their part of what the pod's
// annotations say, by the size of their requests.
func loadsOf(pod *corev1.Pod) (map[string]load, error) {
	loads := map[string]load{}
	sum := load{}

	for _, container := range pod.Spec.Containers {
		one := load{cores: idleCores, bytes: idleBytes}

		if request, ok := container.Resources.Requests[corev1.ResourceCPU]; ok && !request.IsZero() {
			one.cores = request.AsApproximateFloat64() * usedShare
		}

		if request, ok := container.Resources.Requests[corev1.ResourceMemory]; ok && !request.IsZero() {
			one.bytes = request.AsApproximateFloat64() * usedShare
		}

		loads[container.Name] = one
		sum.cores += one.cores
		sum.bytes += one.bytes
	}

	cores, err := annotated(pod, cpuAnnotation, sum.cores)
	if err != nil {
		return loads, err
	}

	size, err := annotated(pod, memoryAnnotation, sum.bytes)
	if err != nil {
		return loads, err
	}

	for name, one := range loads {
		loads[name] = load{cores: one.cores / sum.cores * cores, bytes: one.bytes / sum.bytes * size}
	}

	return loads, nil
}

// annotated is the quantity of an annotation, else the given value.
func annotated(pod *corev1.Pod, annotation string, otherwise float64) (float64, error) {
	text, ok := pod.Annotations[annotation]
	if !ok {
		return otherwise, nil
	}

	quantity, err := resource.ParseQuantity(text)
	if err != nil || quantity.Sign() < 0 {
		return otherwise, fmt.Errorf("pod %s/%s: annotation %s is %q: write a quantity such as 400m or 200Mi", pod.Namespace, pod.Name, annotation, text)
	}

	return quantity.AsApproximateFloat64(), nil
}

// measurement reads the containers that run as processes now, and gives what observe asks.
func (n *Kubelet) measurement() func(pod *corev1.Pod, container string) *measured {
	used := n.Pods.Used()

	return func(pod *corev1.Pod, container string) *measured {
		if one, runs := used[pod.UID][container]; runs {
			return &measured{started: one.Started, seconds: one.Seconds, bytes: one.Bytes}
		}

		if n.Pods.Owns(pod) {
			return &measured{started: n.Begun} // between two starts
		}

		return n.measureStatic(pod)
	}
}

// measureStatic reads a static pod's process; nil for a pod that is none of the machine's.
func (n *Kubelet) measureStatic(pod *corev1.Pod) *measured {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return nil
	}

	for _, static := range n.StaticPods() {
		if pod.Namespace != kubeapi.SystemNamespace || pod.Name != static.Name+"-"+n.Network.Hostname() {
			continue
		}

		started, _ := static.Process.StartTime()
		pid := static.Process.PID()

		return &measured{started: started, seconds: process.Seconds(pid), bytes: float64(process.ResidentKiB(pid)) * 1024}
	}

	return nil
}

// Consumption is what a container has used since it started: core-seconds, and bytes now.
type Consumption struct{ Seconds, Bytes float64 }

// Used is what the containers of the machine's pods have used.
func (n *Kubelet) Used() map[ContainerKey]Consumption {
	n.usage.mu.Lock()
	defer n.usage.mu.Unlock()

	out := map[ContainerKey]Consumption{}
	for key, one := range n.usage.containers {
		out[key] = Consumption{Seconds: one.seconds, Bytes: one.bytes}
	}

	return out
}

// MemoryUsed is what the machine and its pods use, in bytes.
func (n *Kubelet) MemoryUsed() float64 {
	n.usage.mu.Lock()
	defer n.usage.mu.Unlock()

	return n.usage.node.bytes
}
