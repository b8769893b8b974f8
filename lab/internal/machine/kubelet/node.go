package kubelet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/configuration"
)

const (
	leaseSeconds    = 40
	leaseInterval   = 10 * time.Second
	statusInterval  = 10 * time.Second
	leaseNamespace  = "kube-node-lease"
	networkNotReady = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
	kubeletIsReady  = "kubelet is posting ready status"
)

// register reads the Node, or creates it with the labels and taints that the kubelet may give.
func (n *Kubelet) register(ctx context.Context, client kubernetes.Interface, provider config.Provider) (*corev1.Node, error) {
	name := n.Network.Hostname()

	object, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: fromCache})
	if !apierrors.IsNotFound(err) {
		return object, err
	}

	object = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
	}}}

	if object.Spec.Taints, err = registeredTaints(provider); err != nil {
		return nil, fmt.Errorf("registerWithTaints: %w", err)
	}

	if n.IsControlPlane() && !provider.Cluster().ScheduleOnControlPlanes() {
		object.Spec.Taints = append(object.Spec.Taints, corev1.Taint{Key: constants.LabelNodeRoleControlPlane, Effect: corev1.TaintEffectNoSchedule})
	}

	n.log.Info("node registered", "node", name)

	return client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
}

func (n *Kubelet) renewLease(ctx context.Context, client kubernetes.Interface, object *corev1.Node) error {
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
func (n *Kubelet) writeStatus(
	ctx context.Context, client kubernetes.Interface, provider config.Provider, object *corev1.Node, pods []corev1.Pod,
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
		n.log.Info("node condition", "node", object.Name, "ready", ready)
	}

	n.beat = time.Now()

	return updated, nil
}

// networkReady is NodeReady, or: with a CNI of Talos' own always; with none when a Cilium agent
// runs on the node.
func (n *Kubelet) networkReady(ctx context.Context, provider config.Provider, object *corev1.Node, pods []corev1.Pod) bool {
	if hook := n.NodeReady; hook != nil {
		return hook(ctx, object)
	}

	if cni := provider.Cluster().Network().CNI(); cni == nil || cni.Name() != constants.NoneCNI {
		return true
	}

	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		return pod.Labels["k8s-app"] == "cilium" && pod.Status.Phase == corev1.PodRunning
	})
}

// Others are the kubelets of the cluster's other machines, as the API has them.
func (n *Kubelet) Others(ctx context.Context) ([]netip.AddrPort, error) {
	client := n.connection()
	if client == nil {
		return nil, errNoCluster
	}

	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: fromCache})
	if err != nil {
		return nil, err
	}

	var found []netip.AddrPort

	for _, node := range nodes.Items {
		for _, address := range node.Status.Addresses {
			ip, err := netip.ParseAddr(address.Address)
			if err == nil && address.Type == corev1.NodeInternalIP && node.Name != n.Network.Hostname() {
				found = append(found, netip.AddrPortFrom(ip, port))
			}
		}
	}

	return found, nil
}

// describe fills in what the machine is.
func (n *Kubelet) describe(object *corev1.Node, provider config.Provider) {
	disk := 0

	if len(n.Hardware.Disks) > 0 {
		disk = n.Hardware.Disks[0].GiB
	}

	object.Status.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(n.Hardware.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(int64(n.memory())<<20, resource.BinarySI),
		corev1.ResourcePods:             resource.MustParse("110"),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(disk)<<30, resource.BinarySI),
	}
	object.Status.Allocatable = object.Status.Capacity
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: object.Name}}

	if address := n.Network.NodeIP(provider); address.IsValid() {
		object.Status.Addresses = slices.Insert(object.Status.Addresses, 0, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.String()})
	}

	object.Status.DaemonEndpoints.KubeletEndpoint.Port = constants.KubeletPort
	object.Status.NodeInfo = corev1.NodeSystemInfo{
		MachineID:               strings.ReplaceAll(n.Hardware.ID, "-", ""),
		SystemUUID:              n.Hardware.ID,
		BootID:                  n.BootID,
		KernelVersion:           "6.18.0-talos-simulated",
		OSImage:                 fmt.Sprintf("Talos (%s)", n.TalosVersion()),
		ContainerRuntimeVersion: "containerd://simulated",
		KubeletVersion:          configuration.ImageTag(n.Image()),
		OperatingSystem:         "linux",
		Architecture:            "amd64",
	}
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
