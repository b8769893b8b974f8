package kubelet

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/constants"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/kubeapi"
)

// mirror creates a mirror pod for each static pod, replaces it when the static pod is another one, and
// reports its state.
func (n *Kubelet) mirror(ctx context.Context, client kubernetes.Interface, object *corev1.Node, pods []corev1.Pod) error {
	var problems []error

	for _, pod := range n.StaticPods() {
		at := slices.IndexFunc(pods, func(p corev1.Pod) bool {
			return p.Namespace == kubeapi.SystemNamespace && p.Name == pod.Name+"-"+object.Name
		})

		var current *corev1.Pod
		if at >= 0 {
			current = &pods[at]
		}

		problems = append(problems, n.mirrorOne(ctx, client, object, pod, current))
	}

	return errors.Join(problems...)
}

func (n *Kubelet) mirrorOne(ctx context.Context, client kubernetes.Interface, object *corev1.Node, pod controlplane.StaticPod, current *corev1.Pod) error {
	pods := client.CoreV1().Pods(kubeapi.SystemNamespace)

	if current == nil {
		made, err := pods.Create(ctx, mirrorPod(object, pod), metav1.CreateOptions{})
		if err != nil {
			return err
		}

		current = made
	}

	if current.Annotations[corev1.MirrorPodAnnotationKey] != pod.Hash {
		var now int64

		return pods.Delete(ctx, current.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	}

	wanted := n.statusOf(pod)
	if current.Status.Phase == wanted.Phase && slices.EqualFunc(current.Status.Conditions, wanted.Conditions, sameCondition) &&
		len(current.Status.ContainerStatuses) == 1 && current.Status.ContainerStatuses[0].RestartCount == wanted.ContainerStatuses[0].RestartCount {
		return nil
	}

	updated := current.DeepCopy() // others read the list that it is from
	updated.Status = wanted
	_, err := pods.UpdateStatus(ctx, updated, metav1.UpdateOptions{})

	return err
}

func sameCondition(a, b corev1.PodCondition) bool { return a.Type == b.Type && a.Status == b.Status }

func mirrorPod(object *corev1.Node, pod controlplane.StaticPod) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name + "-" + object.Name, Namespace: kubeapi.SystemNamespace,
			Labels: map[string]string{
				"tier": "control-plane", "k8s-app": pod.Name, "component": pod.Name,
				"app.kubernetes.io/name": pod.Name, "app.kubernetes.io/version": strings.TrimPrefix(configuration.ImageTag(pod.Image), "v"),
				"app.kubernetes.io/component": "control-plane", "app.kubernetes.io/managed-by": "Talos",
			},
			Annotations: map[string]string{
				corev1.MirrorPodAnnotationKey: pod.Hash, "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": pod.Hash,
				constants.AnnotationStaticPodConfigVersion: pod.ConfigVersion(),
			},
			OwnerReferences: []metav1.OwnerReference{ownedBy(object)},
		},
		Spec: corev1.PodSpec{
			NodeName: object.Name, HostNetwork: true, PriorityClassName: "system-cluster-critical",
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
			Containers:  []corev1.Container{{Name: pod.Name, Image: pod.Image, Command: []string{"/usr/local/bin/" + pod.Name}, Args: pod.Arguments.Lines()}},
		},
	}
}

// statusOf is a static pod's state from its process and its probe.
func (n *Kubelet) statusOf(p controlplane.StaticPod) corev1.PodStatus {
	started, restarts := p.Process.StartTime()
	ready, now := corev1.ConditionFalse, metav1.Now()

	if p.Problem == nil {
		ready = corev1.ConditionTrue
	}

	state := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	if p.Unpulled != nil {
		state.Waiting = &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: p.Unpulled.Error()}
	}

	if p.Process.PID() != 0 {
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

	address := n.Network.Address().String()
	since := metav1.NewTime(p.Since)
	running := p.Process.PID() != 0

	return corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: conditions, HostIP: address, PodIP: address, StartTime: &since,
		HostIPs: []corev1.HostIP{{IP: address}}, PodIPs: []corev1.PodIP{{IP: address}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: p.Name, Image: p.Image, State: state, Ready: p.Problem == nil, Started: &running, RestartCount: int32(restarts), //nolint:gosec // a small count
		}},
	}
}
