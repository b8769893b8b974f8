package kubelet

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// readyAgain says of the pods that run here that they are ready. While a machine is away, the node lifecycle
// controller says for it that they are not (kubernetes, pkg/controller/util/node, MarkPodsNotReady); a kubelet that is
// back writes what it sees, and KWOK writes only once.
func readyAgain(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod) error {
	var problems []error

	for i := range pods {
		at := slices.IndexFunc(pods[i].Status.Conditions, func(one corev1.PodCondition) bool {
			return one.Type == corev1.PodReady && one.Status != corev1.ConditionTrue
		})
		if at < 0 || !runsWhole(&pods[i]) {
			continue
		}

		updated := pods[i].DeepCopy()
		updated.Status.Conditions[at] = corev1.PodCondition{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		}

		_, err := client.CoreV1().Pods(updated.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			continue // it was read a moment ago; the next turn sees it as it is
		}

		problems = append(problems, err)
	}

	return errors.Join(problems...)
}

// runsWhole tells whether all containers of a pod are ready, and nothing else is to be waited for.
func runsWhole(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey] // its status is from its process
	if mirror || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning || len(pod.Spec.ReadinessGates) > 0 {
		return false
	}

	statuses := pod.Status.ContainerStatuses

	return len(statuses) == len(pod.Spec.Containers) &&
		!slices.ContainsFunc(statuses, func(one corev1.ContainerStatus) bool { return !one.Ready })
}

// playDebuggers lets ephemeral containers (kubectl debug) run as KWOK lets all others: nobody else reports on them, and
// kubectl would wait forever.
func playDebuggers(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod) error {
	var problems []error

	for i := range pods {
		if len(pods[i].Spec.EphemeralContainers) == len(pods[i].Status.EphemeralContainerStatuses) || pods[i].Status.Phase != corev1.PodRunning {
			continue
		}

		updated := pods[i].DeepCopy()
		updated.Status.EphemeralContainerStatuses = nil

		for _, one := range updated.Spec.EphemeralContainers {
			updated.Status.EphemeralContainerStatuses = append(updated.Status.EphemeralContainerStatuses, corev1.ContainerStatus{
				Name: one.Name, Image: one.Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
			})
		}

		_, err := client.CoreV1().Pods(updated.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		problems = append(problems, err)
	}

	return errors.Join(problems...)
}
