package kubelet

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestAPodThatWasMarkedWhileItsMachineWasAwayIsReadyAgain(t *testing.T) {
	away := func(change func(*corev1.Pod)) corev1.Pod {
		pod := played(time.Now(), nil)
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}

		for i := range pod.Status.ContainerStatuses {
			pod.Status.ContainerStatuses[i].Ready = true
		}

		change(&pod)

		return pod
	}

	for name, one := range map[string]struct {
		change func(*corev1.Pod)
		wanted corev1.ConditionStatus
	}{
		"runs":                  {func(*corev1.Pod) {}, corev1.ConditionTrue},
		"a container is not":    {func(pod *corev1.Pod) { pod.Status.ContainerStatuses[0].Ready = false }, corev1.ConditionFalse},
		"a gate is to be seen":  {func(pod *corev1.Pod) { pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x"}} }, corev1.ConditionFalse},
		"a static pod's mirror": {func(pod *corev1.Pod) { pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, corev1.ConditionFalse},
	} {
		t.Run(name, func(t *testing.T) {
			pod := away(one.change)
			client := fake.NewClientset(&pod)

			if err := readyAgain(t.Context(), client, []corev1.Pod{pod}); err != nil {
				t.Fatal(err)
			}

			got, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}

			if status := got.Status.Conditions[0].Status; status != one.wanted {
				t.Errorf("Ready is %s", status)
			}
		})
	}
}

func TestADebugContainerRunsAsPlayedAsTheOthers(t *testing.T) {
	pod := played(time.Now(), nil)
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "busybox"}}}
	client := fake.NewClientset(&pod)

	if err := playDebuggers(t.Context(), client, []corev1.Pod{pod}); err != nil {
		t.Fatal(err)
	}

	got, err := client.CoreV1().Pods("apps").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}

	if all := got.Status.EphemeralContainerStatuses; len(all) != 1 || all[0].Name != "debugger" || all[0].State.Running == nil {
		t.Errorf("%+v", all)
	}
}

func TestARebootStartsTheContainersOfPodsAgain(t *testing.T) {
	boot := time.Now()

	for name, one := range map[string]struct {
		started  time.Time
		policy   corev1.RestartPolicy
		restarts int32
		phase    corev1.PodPhase
	}{
		"ran before the boot":            {boot.Add(-time.Hour), corev1.RestartPolicyAlways, 1, corev1.PodRunning},
		"ran before, and only once":      {boot.Add(-time.Hour), corev1.RestartPolicyNever, 0, corev1.PodFailed},
		"began in the boot's own second": {boot, corev1.RestartPolicyAlways, 0, corev1.PodRunning},
	} {
		t.Run(name, func(t *testing.T) {
			pod := played(one.started, nil)
			pod.Status.Phase, pod.Spec.RestartPolicy = corev1.PodRunning, one.policy
			client := fake.NewClientset(&pod)

			for range 2 { // once is enough
				list, err := client.CoreV1().Pods(pod.Namespace).List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}

				if err := startedAgain(t.Context(), client, list.Items, boot); err != nil {
					t.Fatal(err)
				}
			}

			got, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}

			container := got.Status.ContainerStatuses[0]
			if container.RestartCount != one.restarts || got.Status.Phase != one.phase {
				t.Errorf("%d restarts, %s", container.RestartCount, got.Status.Phase)
			}

			if one.restarts > 0 && (container.State.Running.StartedAt.Time.Before(boot.Truncate(time.Second)) || container.LastTerminationState.Terminated == nil) {
				t.Errorf("%+v", container)
			}
		})
	}
}
