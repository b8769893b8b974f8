package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	leaseSeconds     = 40
	leaseInterval    = 10 * time.Second
	statusInterval   = 10 * time.Second
	kubeletInterval  = time.Second
	leaseNamespace   = "kube-node-lease"
	systemNamespace  = "kube-system"
	networkNotReady  = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
	kubeletIsReady   = "kubelet is posting ready status"
	ownedLabels      = "talos.dev/owned-labels"
	ownedAnnotations = "talos.dev/owned-annotations"
)

// node is the simulated kubelet: it registers the machine's Node, keeps its lease and conditions, and mirrors
// the static pods. It starts no pod: KWOK plays them.
type node struct {
	boot *boot

	mu      sync.Mutex
	current *corev1.Node
	// beat is when the status was last written, lease when the lease was.
	beat, lease time.Time
}

func newNode(b *boot) *node { return &node{boot: b} }

// run is the kubelet from the machine's boot to its end.
func (n *node) run() {
	b := n.boot

	b.services.running("kubelet")

	if b.provider().Machine().Kubelet().SkipNodeRegistration() {
		return
	}

	var (
		client *kubernetes.Clientset
		last   string
	)

	for ; !b.isStopping(); b.sleep(kubeletInterval) {
		err := n.sync(&client)

		if apierrors.IsUnauthorized(err) {
			// The certificate is of a cluster that is gone: ask for another one.
			client = nil

			b.logError("kubelet", os.RemoveAll(b.machine.path(kubeletFolder)))
		}

		if err != nil {
			if last != err.Error() {
				b.log.Debug("kubelet", "error", err)
			}

			last = err.Error()
		}
	}
}

// sync brings the Node, its lease and the mirror pods up to date once.
func (n *node) sync(client **kubernetes.Clientset) error {
	b := n.boot
	provider := b.provider()

	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()

	if *client == nil {
		made, err := b.kubeletClient(ctx, provider)
		if err != nil {
			return err
		}

		*client = made
	}

	object, err := n.register(ctx, *client, provider)
	if err != nil {
		return err
	}

	if err := n.renewLease(ctx, *client, object); err != nil {
		return err
	}

	// A kubelet may list the pods of its own node only, and get none by name that is not bound to it.
	pods, err := (*client).CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + object.Name})
	if err != nil {
		return err
	}

	if object, err = n.writeStatus(ctx, *client, provider, object, pods.Items); err != nil {
		return err
	}

	n.remember(object)

	if err := n.mirror(ctx, *client, object, pods.Items); err != nil {
		return err
	}

	return n.applyConfigured(ctx, *client, provider, object)
}

func (n *node) remember(object *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.current = object
}

// object is the Node as last seen; nil before it is registered.
func (n *node) object() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.current
}

// register reads the Node, or creates it with the labels and taints that the kubelet may give.
func (n *node) register(ctx context.Context, client *kubernetes.Clientset, provider config.Provider) (*corev1.Node, error) {
	name := n.boot.hostname()

	object, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return object, err
	}

	object = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
	}}}

	if n.boot.isControlPlane() && !provider.Cluster().ScheduleOnControlPlanes() {
		object.Spec.Taints = []corev1.Taint{{Key: constants.LabelNodeRoleControlPlane, Effect: corev1.TaintEffectNoSchedule}}
	}

	n.boot.log.Info("node registered", "node", name)

	return client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
}

func (n *node) renewLease(ctx context.Context, client *kubernetes.Clientset, object *corev1.Node) error {
	if time.Since(n.lease) < leaseInterval {
		return nil
	}

	leases := client.CoordinationV1().Leases(leaseNamespace)
	now := metav1.NowMicro()
	seconds := int32(leaseSeconds)

	lease, err := leases.Get(ctx, object.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: object.Name, OwnerReferences: []metav1.OwnerReference{ownedBy(object)}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &object.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
	} else if err == nil {
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}

	if err == nil {
		n.lease = time.Now()
	}

	return err
}

func ownedBy(object *corev1.Node) metav1.OwnerReference {
	controller := true

	return metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: object.Name, UID: object.UID, Controller: &controller}
}

// writeStatus reports addresses, sizes, versions and conditions when they change, and every 10 s.
func (n *node) writeStatus(
	ctx context.Context, client *kubernetes.Clientset, provider config.Provider, object *corev1.Node, pods []corev1.Pod,
) (*corev1.Node, error) {
	ready := n.networkReady(ctx, provider, object, pods)

	wanted := object.DeepCopy()
	n.describe(wanted, provider)
	changed := setConditions(wanted, ready)

	same := wanted.Status.NodeInfo == object.Status.NodeInfo && slices.Equal(wanted.Status.Addresses, object.Status.Addresses)
	if !changed && same && time.Since(n.beat) < statusInterval {
		return object, nil
	}

	updated, err := client.CoreV1().Nodes().UpdateStatus(ctx, wanted, metav1.UpdateOptions{})
	if err != nil {
		return object, err
	}

	if changed {
		n.boot.log.Info("node condition", "node", object.Name, "ready", ready)
	}

	n.beat = time.Now()

	return updated, nil
}

// networkReady is Options.NodeReady, or: with a CNI of Talos' own always; with none when a Cilium agent
// runs on the node.
func (n *node) networkReady(ctx context.Context, provider config.Provider, object *corev1.Node, pods []corev1.Pod) bool {
	if hook := n.boot.options().NodeReady; hook != nil {
		return hook(ctx, object)
	}

	if cni := provider.Cluster().Network().CNI(); cni == nil || cni.Name() != constants.NoneCNI {
		return true
	}

	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		return pod.Labels["k8s-app"] == "cilium" && pod.Status.Phase == corev1.PodRunning
	})
}

// describe fills in what the machine is.
func (n *node) describe(object *corev1.Node, provider config.Provider) {
	b := n.boot
	disk := 0

	if len(b.hardware.DisksGiB) > 0 {
		disk = b.hardware.DisksGiB[0]
	}

	object.Status.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(b.hardware.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(int64(b.hardware.MemoryMiB)<<20, resource.BinarySI),
		corev1.ResourcePods:             resource.MustParse("110"),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(disk)<<30, resource.BinarySI),
	}
	object.Status.Allocatable = object.Status.Capacity
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: object.Name}}

	if address := b.nodeIP(provider); address.IsValid() {
		object.Status.Addresses = slices.Insert(object.Status.Addresses, 0, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.String()})
	}

	object.Status.DaemonEndpoints.KubeletEndpoint.Port = constants.KubeletPort
	object.Status.NodeInfo = corev1.NodeSystemInfo{
		MachineID:               strings.ReplaceAll(b.hardware.ID, "-", ""),
		SystemUUID:              b.hardware.ID,
		BootID:                  b.id,
		KernelVersion:           "6.18.0-talos-simulated",
		OSImage:                 fmt.Sprintf("Talos (%s)", b.talosVersion()),
		ContainerRuntimeVersion: "containerd://simulated",
		KubeletVersion:          imageTag(provider.Machine().Kubelet().Image()),
		OperatingSystem:         "linux",
		Architecture:            "amd64",
	}
}

// nodeIP is the machine's address among machine.kubelet.nodeIP.validSubnets.
func (b *boot) nodeIP(provider config.Provider) netip.Addr {
	subnets := provider.Machine().Kubelet().NodeIP().ValidSubnets()

	for _, address := range b.nodeAddresses() {
		if len(subnets) == 0 || slices.ContainsFunc(subnets, func(subnet string) bool {
			prefix, err := netip.ParsePrefix(subnet)

			return err == nil && prefix.Contains(address)
		}) {
			return address
		}
	}

	return netip.Addr{}
}

// imageTag is the version of an image reference "registry/name:tag[@digest]".
func imageTag(image string) string {
	image, _, _ = strings.Cut(image, "@")

	return image[strings.LastIndex(image, ":")+1:]
}

// setConditions sets the Node's conditions and says whether one has changed its status.
func setConditions(object *corev1.Node, ready bool) bool {
	now := metav1.Now()
	wanted := []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: networkNotReady},
	}

	if ready {
		wanted[3].Status, wanted[3].Reason, wanted[3].Message = corev1.ConditionTrue, "KubeletReady", kubeletIsReady
	}

	changed := false

	for _, condition := range wanted {
		condition.LastHeartbeatTime, condition.LastTransitionTime = now, now

		at := slices.IndexFunc(object.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == condition.Type })
		if at < 0 {
			object.Status.Conditions = append(object.Status.Conditions, condition)
			changed = true

			continue
		}

		if before := object.Status.Conditions[at]; before.Status == condition.Status {
			condition.LastTransitionTime = before.LastTransitionTime
		} else {
			changed = true
		}

		object.Status.Conditions[at] = condition
	}

	return changed
}

// isReady says whether the registered Node is ready; an error says why not, in Talos' words.
func (n *node) isReady() error {
	name := n.boot.hostname()

	object := n.object()
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

// mirror creates a mirror pod for each static pod, replaces it when the static pod is another one, and
// reports its state.
func (n *node) mirror(ctx context.Context, client *kubernetes.Clientset, object *corev1.Node, pods []corev1.Pod) error {
	var problems []error

	for _, pod := range n.boot.plane.snapshot() {
		at := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Namespace == systemNamespace && p.Name == pod.name+"-"+object.Name })

		var current *corev1.Pod
		if at >= 0 {
			current = &pods[at]
		}

		problems = append(problems, n.mirrorOne(ctx, client, object, pod, current))
	}

	return errors.Join(problems...)
}

func (n *node) mirrorOne(ctx context.Context, client *kubernetes.Clientset, object *corev1.Node, pod staticPod, current *corev1.Pod) error {
	pods := client.CoreV1().Pods(systemNamespace)

	if current == nil {
		made, err := pods.Create(ctx, mirrorPod(object, pod), metav1.CreateOptions{})
		if err != nil {
			return err
		}

		current = made
	}

	if current.Annotations[corev1.MirrorPodAnnotationKey] != pod.hash {
		var now int64

		return pods.Delete(ctx, current.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	}

	wanted := pod.status(n.boot)
	if current.Status.Phase == wanted.Phase && slices.EqualFunc(current.Status.Conditions, wanted.Conditions, sameCondition) &&
		len(current.Status.ContainerStatuses) == 1 && current.Status.ContainerStatuses[0].RestartCount == wanted.ContainerStatuses[0].RestartCount {
		return nil
	}

	current.Status = wanted
	_, err := pods.UpdateStatus(ctx, current, metav1.UpdateOptions{})

	return err
}

func sameCondition(a, b corev1.PodCondition) bool { return a.Type == b.Type && a.Status == b.Status }

func mirrorPod(object *corev1.Node, pod staticPod) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.name + "-" + object.Name, Namespace: systemNamespace,
			Labels: map[string]string{
				"tier": "control-plane", "k8s-app": pod.name, "component": pod.name,
				"app.kubernetes.io/name": pod.name, "app.kubernetes.io/version": strings.TrimPrefix(imageTag(pod.image), "v"),
				"app.kubernetes.io/component": "control-plane", "app.kubernetes.io/managed-by": "Talos",
			},
			Annotations: map[string]string{
				corev1.MirrorPodAnnotationKey: pod.hash, "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": pod.hash,
			},
			OwnerReferences: []metav1.OwnerReference{ownedBy(object)},
		},
		Spec: corev1.PodSpec{
			NodeName: object.Name, HostNetwork: true, PriorityClassName: "system-cluster-critical",
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
			Containers:  []corev1.Container{{Name: pod.name, Image: pod.image, Command: []string{"/usr/local/bin/" + pod.name}, Args: pod.arguments.list()}},
		},
	}
}

// status is a static pod's state from its process and its probe.
func (p *staticPod) status(b *boot) corev1.PodStatus {
	started, restarts := p.process.startTime()
	ready, now := corev1.ConditionFalse, metav1.Now()

	if p.problem == nil {
		ready = corev1.ConditionTrue
	}

	state := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	if p.process.pid() != 0 {
		state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}
	}

	var conditions []corev1.PodCondition
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now}
		if kind == corev1.PodReady || kind == corev1.ContainersReady {
			condition.Status = ready
		}

		conditions = append(conditions, condition)
	}

	address := b.address().String()
	since := metav1.NewTime(p.since)
	running := p.process.pid() != 0

	return corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: conditions, HostIP: address, PodIP: address, StartTime: &since,
		HostIPs: []corev1.HostIP{{IP: address}}, PodIPs: []corev1.PodIP{{IP: address}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: p.name, Image: p.image, State: state, Ready: p.problem == nil, Started: &running, RestartCount: int32(restarts), //nolint:gosec // a small count
		}},
	}
}

// applyConfigured puts the labels, annotations and taints of the machine configuration on the Node, as Talos'
// NodeApplyController does: on a control plane as administrator, on a worker as the kubelet, which may not
// set labels of node-role.kubernetes.io. What Talos has set itself is removed when the configuration drops it.
func (n *node) applyConfigured(ctx context.Context, client *kubernetes.Clientset, provider config.Provider, object *corev1.Node) error {
	labels := maps.Clone(map[string]string(provider.Machine().NodeLabels()))
	if labels == nil {
		labels = map[string]string{}
	}

	if n.boot.isControlPlane() {
		labels[constants.LabelNodeRoleControlPlane] = ""
	}

	patch := map[string]any{}
	changes := ownedChanges(object.Labels, labels, object.Annotations[ownedLabels])
	annotations := ownedChanges(object.Annotations, provider.Machine().NodeAnnotations(), object.Annotations[ownedAnnotations])

	if len(changes) == 0 && len(annotations) == 0 && slices.Equal(owned(labels), split(object.Annotations[ownedLabels])) {
		return n.applyTaints(ctx, provider, object)
	}

	annotations[ownedLabels] = string(mustJSON(owned(labels)))
	annotations[ownedAnnotations] = string(mustJSON(owned(provider.Machine().NodeAnnotations())))
	patch["metadata"] = map[string]any{"labels": changes, "annotations": annotations}

	if n.boot.isControlPlane() {
		admin, err := n.boot.adminClient(provider)
		if err != nil {
			return err
		}

		client = admin
	}

	updated, err := client.CoreV1().Nodes().Patch(ctx, object.Name, types.MergePatchType, mustJSON(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("node labels: %w", err)
	}

	n.remember(updated)

	return nil
}

// applyTaints sets machine.nodeTaints ("value:effect" by key) on a control plane's Node.
func (n *node) applyTaints(ctx context.Context, provider config.Provider, object *corev1.Node) error {
	wanted := object.DeepCopy()

	for key, text := range provider.Machine().NodeTaints() {
		value, effect, found := strings.Cut(text, ":")
		if !found {
			value, effect = "", text
		}

		taint := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
		if !slices.ContainsFunc(wanted.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) && t.Value == value }) {
			wanted.Spec.Taints = append(slices.DeleteFunc(wanted.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }), taint)
		}
	}

	if len(wanted.Spec.Taints) == len(object.Spec.Taints) || !n.boot.isControlPlane() {
		return nil
	}

	admin, err := n.boot.adminClient(provider)
	if err != nil {
		return err
	}

	_, err = admin.CoreV1().Nodes().Update(ctx, wanted, metav1.UpdateOptions{})

	return err
}

// ownedChanges is the merge patch from the present values to the wanted ones; values that Talos had set and
// that are not wanted any more become null.
func ownedChanges(present, wanted map[string]string, before string) map[string]any {
	changes := map[string]any{}

	for key, value := range wanted {
		if current, ok := present[key]; !ok || current != value {
			changes[key] = value
		}
	}

	for _, key := range split(before) {
		if _, still := wanted[key]; !still {
			if _, there := present[key]; there {
				changes[key] = nil
			}
		}
	}

	return changes
}

func owned(values map[string]string) []string { return slices.Sorted(maps.Keys(values)) }

// split reads the JSON list of an owned-labels annotation; a broken one owns nothing.
func split(list string) []string {
	var keys []string

	_ = json.Unmarshal([]byte(list), &keys)

	return keys
}
