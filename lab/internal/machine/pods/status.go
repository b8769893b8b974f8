package pods

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"platform.lab/lab/internal/simulated"
)

// phase is the pod's by its containers; the caller holds mu.
func (w *worker) phase() corev1.PodPhase {
	if w.failed != nil {
		return corev1.PodFailed
	}

	policy := w.pod.Spec.RestartPolicy

	var mains, ended, failed int

	for _, one := range w.members {
		switch one.role {
		case initRole:
			if done := one.state.Terminated; done == nil || done.ExitCode != 0 {
				return corev1.PodPending
			}
		case sidecarRole:
		case mainRole:
			mains++

			if done := one.state.Terminated; done != nil {
				ended++

				if done.ExitCode != 0 {
					failed++
				}
			} else if !one.begun && one.state.Waiting != nil {
				return corev1.PodPending
			}
		}
	}

	switch {
	case ended < mains || policy == corev1.RestartPolicyAlways:
		return corev1.PodRunning
	case failed == 0:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}

	return corev1.PodRunning
}

// status is what the kubelet reports of the pod.
func (w *worker) status() corev1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()

	status := corev1.PodStatus{
		Phase: w.phase(), StartTime: &w.begun, QOSClass: w.pod.Status.QOSClass, ObservedGeneration: w.pod.Generation,
		HostIP: w.r.Network.Address().String(), NominatedNodeName: w.pod.Status.NominatedNodeName,
	}
	status.HostIPs = []corev1.HostIP{{IP: status.HostIP}}

	if w.failed != nil {
		status.Reason, status.Message = w.failed.Reason, w.failed.Message
	}

	if w.sandbox != nil {
		status.PodIP = w.sandbox.address.String()
	} else if status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed || w.pod.DeletionTimestamp != nil {
		status.PodIP = w.pod.Status.PodIP
	}

	if status.PodIP != "" {
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	}

	var initialized, ready = true, true

	var uninitialized, unready []string

	for _, one := range w.members {
		reported := one.report()

		if one.role == mainRole {
			status.ContainerStatuses = append(status.ContainerStatuses, reported)
		} else {
			status.InitContainerStatuses = append(status.InitContainerStatuses, reported)
		}

		switch one.role {
		case initRole:
			if !reported.Ready {
				initialized = false
				uninitialized = append(uninitialized, one.spec.Name)
			}
		case sidecarRole:
			if !one.started {
				initialized = false
				uninitialized = append(uninitialized, one.spec.Name)
			}

			fallthrough
		case mainRole:
			if !reported.Ready {
				ready = false
				unready = append(unready, one.spec.Name)
			}
		}
	}

	for _, one := range w.pod.Spec.EphemeralContainers {
		status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, corev1.ContainerStatus{
			Name: one.Name, Image: one.Image, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: startErrorCode, Reason: "StartError", Message: simulated.Debugger(), StartedAt: w.begun, FinishedAt: w.begun,
			}},
		})
	}

	over := status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed
	status.Conditions = w.conditions(over, initialized, ready, uninitialized, unready, status.Phase)

	return status
}

// conditions are the kubelet's; those of others stay.
func (w *worker) conditions(over, initialized, ready bool, uninitialized, unready []string, phase corev1.PodPhase) []corev1.PodCondition {
	var all []corev1.PodCondition

	own := []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady}

	for _, present := range w.pod.Status.Conditions {
		if !slices.Contains(own, present.Type) {
			all = append(all, present)
		}
	}

	gates := ready

	for _, gate := range w.pod.Spec.ReadinessGates {
		gates = gates && slices.ContainsFunc(w.pod.Status.Conditions, func(one corev1.PodCondition) bool {
			return one.Type == gate.ConditionType && one.Status == corev1.ConditionTrue
		})
	}

	add := func(kind corev1.PodConditionType, holds bool, reason, message string) {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, ObservedGeneration: w.pod.Generation, LastTransitionTime: metav1.Now()}
		if !holds {
			condition.Status, condition.Reason, condition.Message = corev1.ConditionFalse, reason, message
		}

		at := slices.IndexFunc(w.pod.Status.Conditions, func(one corev1.PodCondition) bool { return one.Type == kind && one.Status == condition.Status })
		if at >= 0 {
			condition.LastTransitionTime = w.pod.Status.Conditions[at].LastTransitionTime
		}

		all = append(all, condition)
	}

	reason, why := "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	if over {
		reason, why = "PodCompleted", ""
		if phase == corev1.PodFailed {
			reason = "PodFailed"
		}

		ready, gates = false, false
	}

	gateReason, gateWhy := reason, why
	if ready && !gates {
		gateReason, gateWhy = "ReadinessGatesNotReady", "corresponding condition of pod readiness gate does not exist or is not true"
	}

	add(corev1.PodReadyToStartContainers, w.sandbox != nil, "", "")
	add(corev1.PodInitialized, initialized || over && phase == corev1.PodSucceeded, "ContainersNotInitialized",
		fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(uninitialized, " ")))
	add(corev1.PodReady, gates, gateReason, gateWhy)
	add(corev1.ContainersReady, ready, reason, why)

	return all
}

// report is the container's part of the status; the caller holds mu.
func (m *member) report() corev1.ContainerStatus {
	started := m.started
	status := corev1.ContainerStatus{
		Name: m.spec.Name, Image: m.spec.Image, ImageID: m.spec.Image, ContainerID: m.id, RestartCount: m.restarts,
		State: m.state, LastTerminationState: m.last, Started: &started,
	}

	switch m.role {
	case initRole:
		status.Ready = m.state.Terminated != nil && m.state.Terminated.ExitCode == 0
	case sidecarRole, mainRole:
		status.Ready = m.process != nil && m.ready
	}

	return status
}

// publish writes the status when it is another one than before.
func (w *worker) publish(ctx context.Context) {
	status := w.status()

	pod := w.podNow()
	if w.published != nil && equality.Semantic.DeepEqual(*w.published, status) && sameReadiness(pod.Status, status) {
		return
	}

	pods := w.r.api().CoreV1().Pods(pod.Namespace)

	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}

		if current.UID != pod.UID {
			return nil
		}

		w.mu.Lock()
		w.pod = current
		w.mu.Unlock()

		updated := current.DeepCopy()
		updated.Status = w.status()
		updated.Status.ResourceClaimStatuses = current.Status.ResourceClaimStatuses

		written, err := pods.UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		if err != nil {
			return err
		}

		w.mu.Lock()
		w.pod = written
		w.mu.Unlock()

		status = updated.Status

		return nil
	})

	switch {
	case err == nil:
		w.published = &status
	case apierrors.IsNotFound(err):
	default:
		w.r.Log.Debug("status of a pod, it is written again", "pod", pod.Name, "error", err)
	}
}

// sameReadiness says whether the API still has what was written: the node lifecycle controller changes it for a machine
// that is away.
func sameReadiness(present, wanted corev1.PodStatus) bool {
	of := func(status corev1.PodStatus) corev1.ConditionStatus {
		for _, one := range status.Conditions {
			if one.Type == corev1.PodReady {
				return one.Status
			}
		}

		return ""
	}

	return of(present) == of(wanted)
}
