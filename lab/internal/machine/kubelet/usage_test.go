package kubelet

import (
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// played is a running pod of two containers that request 1 and 3 cores, and 100 and 300 MiB.
func played(started time.Time, annotations map[string]string) corev1.Pod {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "apps", UID: "1", Annotations: annotations}}
	pod.Status.Phase = corev1.PodRunning

	for name, request := range map[string][2]string{"small": {"1", "100Mi"}, "large": {"3", "300Mi"}} {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(request[0]), corev1.ResourceMemory: resource.MustParse(request[1])},
		}})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}},
		})
	}

	return pod
}

func noProcess(*corev1.Pod, string) *measured { return nil }

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*math.Max(1, math.Abs(b)) }

// use observes the pod at the two ends of ten seconds and gives its containers by name.
func use(u *usage, from time.Time, pod corev1.Pod) map[string]sample {
	u.observe(from, []corev1.Pod{pod}, noProcess)
	u.observe(from.Add(10*time.Second), []corev1.Pod{pod}, noProcess)

	_, _, all := u.snapshot()
	byName := map[string]sample{}

	for _, one := range all {
		byName[one.container] = one
	}

	return byName
}

func TestAContainerUsesAShareOfItsRequest(t *testing.T) {
	begun := time.Now()

	got := use(newUsage(begun), begun, played(begun, nil))
	if small, large := got["small"], got["large"]; !near(small.seconds, 3) || !near(large.seconds, 9) ||
		!near(small.bytes, 30<<20) || !near(large.bytes, 90<<20) {
		t.Errorf("%+v", got)
	}
}

func TestAnnotationsSayWhatThePodUsesAltogether(t *testing.T) {
	begun := time.Now()
	pod := played(begun, map[string]string{cpuAnnotation: "400m", memoryAnnotation: "200Mi"})

	got := use(newUsage(begun), begun, pod)
	if small, large := got["small"], got["large"]; !near(small.seconds, 1) || !near(large.seconds, 3) ||
		!near(small.bytes, 50<<20) || !near(large.bytes, 150<<20) {
		t.Errorf("%+v", got)
	}
}

func TestAChangedLoadChangesTheRateAndNotWhatWasUsed(t *testing.T) {
	begun := time.Now()
	u := newUsage(begun)

	use(u, begun, played(begun, nil))

	got := use(u, begun.Add(10*time.Second), played(begun, map[string]string{cpuAnnotation: "0"}))
	if !near(got["small"].seconds, 3) {
		t.Errorf("%+v", got)
	}
}

func TestAnAnnotationThatIsNoQuantityIsToldOnce(t *testing.T) {
	begun := time.Now()
	u := newUsage(begun)
	pods := []corev1.Pod{played(begun, map[string]string{cpuAnnotation: "a lot"})}

	if problems := u.observe(begun, pods, noProcess); len(problems) != 1 ||
		problems[0].Error() != `pod apps/web: annotation lab.platform/cpu is "a lot": write a quantity such as 400m or 200Mi` {
		t.Errorf("%v", problems)
	}

	if problems := u.observe(begun, pods, noProcess); len(problems) != 0 {
		t.Errorf("again: %v", problems)
	}
}

func TestCountersBeginAnewWithAContainerAndWithTheMachine(t *testing.T) {
	begun := time.Now()
	u := newUsage(begun)

	use(u, begun, played(begun, nil))

	restarted := begun.Add(15 * time.Second)
	if got := use(u, begun.Add(20*time.Second), played(restarted, nil))["small"]; !near(got.seconds, 3) || !got.started.Equal(restarted) {
		t.Errorf("restarted: %+v", got)
	}

	rebooted := begun.Add(time.Minute)
	if got := use(newUsage(rebooted), rebooted, played(begun, nil))["small"]; !near(got.seconds, 3) || !got.started.Equal(rebooted) {
		t.Errorf("rebooted: %+v", got)
	}
}

func TestTheMachineUsesWhatItsPodsUseAndItsOwn(t *testing.T) {
	begun := time.Now()
	u := newUsage(begun)

	use(u, begun, played(begun, nil))

	_, node, _ := u.snapshot()
	if !near(node.seconds, 12+10*systemCores) || !near(node.bytes, 120<<20+systemBytes) {
		t.Errorf("%+v", node)
	}

	u.observe(begun.Add(20*time.Second), nil, noProcess)
	u.observe(begun.Add(30*time.Second), nil, noProcess)

	if _, after, all := u.snapshot(); !near(after.seconds, 24+30*systemCores) || len(all) != 0 {
		t.Errorf("without pods: %+v, %v", after, all)
	}
}

func TestAStaticPodUsesWhatItsProcessUses(t *testing.T) {
	begun := time.Now()
	u := newUsage(begun)
	pod := played(begun, nil)
	pod.Status.ContainerStatuses = pod.Status.ContainerStatuses[:1]
	started := begun.Add(time.Second)

	for second, used := range []float64{1, 4} {
		u.observe(begun.Add(time.Duration(second)*time.Second), []corev1.Pod{pod}, func(*corev1.Pod, string) *measured {
			return &measured{started: started, seconds: used, bytes: 1 << 20}
		})
	}

	if _, node, all := u.snapshot(); len(all) != 1 || all[0].seconds != 4 || all[0].bytes != 1<<20 || !near(node.seconds, 4+systemCores) {
		t.Errorf("%+v, %+v", node, all)
	}
}
