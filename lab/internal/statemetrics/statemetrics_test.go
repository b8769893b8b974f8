package statemetrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "n", Name: name, UID: "u", CreationTimestamp: metav1.Unix(100, 0)}
}

func pointer[T any](value T) *T { return &value }

func moment(seconds int64) *metav1.Time { return pointer(metav1.Unix(seconds, 0)) }

// filledWith is a store that has read the objects.
func filledWith(t *testing.T, names []string, objects ...runtime.Object) *store {
	t.Helper()

	chosen, err := choose(names)
	if err != nil {
		t.Fatal(err)
	}

	return filled(t, newStore(fake.NewClientset(objects...), chosen))
}

func filled(t *testing.T, s *store) *store {
	t.Helper()

	s.start(t.Context())
	t.Cleanup(s.shutdown)

	for deadline := time.Now().Add(time.Minute); !s.filled(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the objects are not read")
		}
	}

	return s
}

func ask(t *testing.T, handler http.Handler, path string) (int, string) {
	t.Helper()

	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))

	return recorder.Code, recorder.Body.String()
}

func alive(context.Context) error { return nil }

func TestEachKindOfObjectHasItsMetricsUnderTheirRealNamesAndLabels(t *testing.T) {
	objects := []runtime.Object{
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "m1"}, Spec: corev1.NodeSpec{Unschedulable: true, PodCIDR: "10.244.0.0/24", ProviderID: "p"},
			Status: corev1.NodeStatus{
				NodeInfo:   corev1.NodeSystemInfo{KernelVersion: "k", OSImage: "Talos", ContainerRuntimeVersion: "c", KubeletVersion: "v1", SystemUUID: "s"},
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "m1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}},
			},
		},
		&corev1.Pod{ObjectMeta: meta("p"), Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "c", RestartCount: 3}},
		}},
		&appsv1.Deployment{
			ObjectMeta: meta("d"), Spec: appsv1.DeploymentSpec{Replicas: pointer(int32(2))}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1},
		},
		&appsv1.DaemonSet{ObjectMeta: meta("d"), Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, NumberReady: 2}},
		&appsv1.StatefulSet{
			ObjectMeta: meta("s"), Spec: appsv1.StatefulSetSpec{Replicas: pointer(int32(4))}, Status: appsv1.StatefulSetStatus{ReadyReplicas: 3},
		},
		&batchv1.CronJob{ObjectMeta: meta("c"), Status: batchv1.CronJobStatus{LastScheduleTime: moment(200), LastSuccessfulTime: moment(300)}},
		&batchv1.CronJob{ObjectMeta: meta("new")},
		&batchv1.Job{ObjectMeta: meta("fine")},
		&batchv1.Job{ObjectMeta: meta("tries"), Status: batchv1.JobStatus{Failed: 2}},
		&batchv1.Job{ObjectMeta: meta("failed"), Status: batchv1.JobStatus{
			Failed: 2, Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Reason: "DeadlineExceeded"}},
		}},
		&autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: meta("h"), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 6},
			Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 5},
		},
		&corev1.PersistentVolumeClaim{ObjectMeta: meta("v"), Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}},
		&corev1.ResourceQuota{ObjectMeta: meta("q"), Status: corev1.ResourceQuotaStatus{
			Hard: corev1.ResourceList{corev1.ResourceRequestsCPU: apiresource.MustParse("1500m")},
			Used: corev1.ResourceList{corev1.ResourceRequestsCPU: apiresource.MustParse("1")},
		}},
	}

	code, text := ask(t, metricsHandler(filledWith(t, nil, objects...), alive), "/metrics")
	if code != http.StatusOK {
		t.Fatal(code, text)
	}

	// The client library sorts labels by their names.
	for _, line := range []string{
		"# HELP kube_node_info [STABLE] Information about a cluster node.",
		"# TYPE kube_node_info gauge",
		`kube_node_info{container_runtime_version="c",internal_ip="192.0.2.1",kernel_version="k",kubelet_version="v1",kubeproxy_version="deprecated",` +
			`node="m1",os_image="Talos",pod_cidr="10.244.0.0/24",provider_id="p",system_uuid="s"} 1`,
		`kube_node_spec_unschedulable{node="m1"} 1`,
		`kube_node_status_condition{condition="Ready",node="m1",status="true"} 0`,
		`kube_node_status_condition{condition="Ready",node="m1",status="false"} 0`,
		`kube_node_status_condition{condition="Ready",node="m1",status="unknown"} 1`,
		`kube_pod_status_phase{namespace="n",phase="Running",pod="p",uid="u"} 1`,
		`kube_pod_status_phase{namespace="n",phase="Pending",pod="p",uid="u"} 0`,
		`kube_pod_status_phase{namespace="n",phase="Succeeded",pod="p",uid="u"} 0`,
		`kube_pod_status_phase{namespace="n",phase="Failed",pod="p",uid="u"} 0`,
		`kube_pod_status_phase{namespace="n",phase="Unknown",pod="p",uid="u"} 0`,
		`kube_pod_status_ready{condition="false",namespace="n",pod="p",uid="u"} 1`,
		`kube_pod_status_ready{condition="true",namespace="n",pod="p",uid="u"} 0`,
		"# TYPE kube_pod_container_status_restarts_total counter",
		`kube_pod_container_status_restarts_total{container="c",namespace="n",pod="p",uid="u"} 3`,
		`kube_deployment_spec_replicas{deployment="d",namespace="n"} 2`,
		`kube_deployment_status_replicas_available{deployment="d",namespace="n"} 1`,
		`kube_daemonset_status_desired_number_scheduled{daemonset="d",namespace="n"} 3`,
		`kube_daemonset_status_number_ready{daemonset="d",namespace="n"} 2`,
		`kube_statefulset_replicas{namespace="n",statefulset="s"} 4`,
		`kube_statefulset_status_replicas_ready{namespace="n",statefulset="s"} 3`,
		`kube_cronjob_created{cronjob="c",namespace="n"} 100`,
		`kube_cronjob_status_last_schedule_time{cronjob="c",namespace="n"} 200`,
		`kube_cronjob_status_last_successful_time{cronjob="c",namespace="n"} 300`,
		`kube_job_status_failed{job_name="fine",namespace="n"} 0`,
		`kube_job_status_failed{job_name="tries",namespace="n",reason=""} 2`,
		`kube_job_status_failed{job_name="failed",namespace="n",reason="DeadlineExceeded"} 1`,
		`kube_job_status_failed{job_name="failed",namespace="n",reason="BackoffLimitExceeded"} 0`,
		`kube_horizontalpodautoscaler_spec_max_replicas{horizontalpodautoscaler="h",namespace="n"} 6`,
		`kube_horizontalpodautoscaler_status_current_replicas{horizontalpodautoscaler="h",namespace="n"} 5`,
		`kube_persistentvolumeclaim_status_phase{namespace="n",persistentvolumeclaim="v",phase="Pending"} 1`,
		`kube_persistentvolumeclaim_status_phase{namespace="n",persistentvolumeclaim="v",phase="Bound"} 0`,
		`kube_resourcequota{namespace="n",resource="requests.cpu",resourcequota="q",type="hard"} 1.5`,
		`kube_resourcequota{namespace="n",resource="requests.cpu",resourcequota="q",type="used"} 1`,
	} {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}

	// What has not happened has no time.
	if strings.Contains(text, `last_successful_time{cronjob="new"`) {
		t.Error("a job that never ran has a time of success")
	}

	if t.Failed() {
		t.Log(text)
	}
}

func TestOnlyTheNamedResourcesAreServedAndUnknownOnesAreRefused(t *testing.T) {
	s := filledWith(t, []string{"pods"}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "m1"}}, &corev1.Pod{
		ObjectMeta: meta("p"), Status: corev1.PodStatus{Phase: corev1.PodRunning},
	})

	if _, text := ask(t, metricsHandler(s, alive), "/metrics"); strings.Contains(text, "kube_node") || !strings.Contains(text, "kube_pod") {
		t.Error(text)
	}

	if _, err := choose([]string{"pods", "services"}); err == nil || !strings.Contains(err.Error(), "no metrics of services, only of cronjobs") {
		t.Error(err)
	}

	if err := Main(t.Context(), []string{"--metric-denylist=kube_pod_info"}); err == nil || !strings.Contains(err.Error(), "unknown flag") {
		t.Error(err)
	}
}

func TestItIsReadyOnceAllIsReadAndAliveWhileTheAPIServerIs(t *testing.T) {
	chosen, err := choose(nil)
	if err != nil {
		t.Fatal(err)
	}

	if code, _ := ask(t, telemetryHandler(newStore(fake.NewClientset(), chosen)), "/readyz"); code != http.StatusServiceUnavailable {
		t.Error("ready before it has read anything:", code)
	}

	s := filledWith(t, nil)
	if code, text := ask(t, telemetryHandler(s), "/readyz"); code != http.StatusOK || text != "OK" {
		t.Error(code, text)
	}

	if code, text := ask(t, telemetryHandler(s), "/metrics"); code != http.StatusOK || !strings.Contains(text, "go_goroutines") {
		t.Error(code, text)
	}

	dead := func(context.Context) error { return errors.New("no API server") }
	for _, c := range []struct {
		alive func(context.Context) error
		code  int
	}{{alive, http.StatusOK}, {dead, http.StatusServiceUnavailable}} {
		if code, _ := ask(t, metricsHandler(s, c.alive), "/livez"); code != c.code {
			t.Error(code, "instead of", c.code)
		}
	}
}

func TestNamespacesAreTheOnlyOnesThatAreRead(t *testing.T) {
	other := meta("other")
	other.Namespace = "o"

	chosen, err := choose([]string{"deployments"})
	if err != nil {
		t.Fatal(err)
	}

	client := fake.NewClientset(&appsv1.Deployment{ObjectMeta: meta("d")}, &appsv1.Deployment{ObjectMeta: other})
	s := filled(t, newStore(client, chosen, "n", "x"))

	_, text := ask(t, metricsHandler(s, alive), "/metrics")
	if !strings.Contains(text, `deployment="d"`) || strings.Contains(text, `deployment="other"`) {
		t.Error(text)
	}
}
