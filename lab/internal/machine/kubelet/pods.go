package kubelet

import (
	"context"
	"errors"
	"slices"
	"time"

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

// startedAgain says of the pods that ran before the machine's boot that their containers are new ones: a reboot ends them,
// and the kubelet starts those again that their pod lets it. KWOK, which simulates them, does not notice.
func startedAgain(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod, boot time.Time) error {
	var problems []error

	for i := range pods {
		_, mirror := pods[i].Annotations[corev1.MirrorPodAnnotationKey] // its status is from its process
		if mirror || pods[i].Status.Phase != corev1.PodRunning || !slices.ContainsFunc(pods[i].Status.ContainerStatuses, func(one corev1.ContainerStatus) bool {
			return ranBefore(one, boot)
		}) {
			continue
		}

		updated := pods[i].DeepCopy()
		restarts := updated.Spec.RestartPolicy != corev1.RestartPolicyNever

		for at := range updated.Status.ContainerStatuses {
			if one := &updated.Status.ContainerStatuses[at]; ranBefore(*one, boot) {
				restart(one, restarts)
			}
		}

		if !restarts {
			updated.Status.Phase = corev1.PodFailed
		}

		_, err := client.CoreV1().Pods(updated.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			continue // the next turn sees it as it is
		}

		problems = append(problems, err)
	}

	return errors.Join(problems...)
}

func ranBefore(container corev1.ContainerStatus, boot time.Time) bool {
	running := container.State.Running

	// The API keeps whole seconds.
	return running != nil && running.StartedAt.Time.Before(boot.Truncate(time.Second))
}

// lostExitCode is what the kubelet says of a container that it finds gone.
const lostExitCode = 255

func restart(container *corev1.ContainerStatus, again bool) {
	now := metav1.Now()
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: lostExitCode, Reason: "Unknown", StartedAt: container.State.Running.StartedAt, FinishedAt: now, ContainerID: container.ContainerID,
	}}

	if !again {
		container.State, container.Ready = ended, false

		return
	}

	container.LastTerminationState = ended
	container.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	container.RestartCount++
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
