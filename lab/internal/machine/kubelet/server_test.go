package kubelet

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestinfo"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/lifetime"
)

// newTestNode is a kubelet on node01 whose API server knows the token "known" and allows the given subresources.
func newTestNode(t *testing.T, allowed ...string) *Kubelet {
	t.Helper()

	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		review.Status.Authenticated = review.Spec.Token == "known"
		review.Status.User.Username = "system:serviceaccount:metrics-server:metrics-server"

		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		asked := review.Spec.ResourceAttributes
		review.Status.Allowed = asked.Verb == "get" && asked.Resource == "nodes" && asked.Name == "node01" && slices.Contains(allowed, asked.Subresource)

		return true, review, nil
	})

	log := slog.New(slog.DiscardHandler)
	life, active, on := lifetime.New(t.Context(), log), &configuration.Active{}, disk.Disk(t.TempDir())
	t.Cleanup(life.Cut)

	vm := func() hardware.VM { return hardware.VM{Name: "node01"} }
	network := guestnetwork.WithoutCard(life, active, vm())
	network.Platform = &guestinfo.Network{Hostname: "node01"}

	n := New(Machine{
		Lifetime: life, Active: active, Now: vm, Begun: time.Now(), Disk: on, Network: network, LabLog: log,
		StaticPods: func() []controlplane.StaticPod { return nil },
	})
	n.connect(client)
	n.observe([]corev1.Pod{played(time.Now(), nil)})

	return n
}

func ask(t *testing.T, n *Kubelet, path, token string) (int, string) {
	t.Helper()

	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}

	recorder := httptest.NewRecorder()
	n.handler().ServeHTTP(recorder, request)

	answer := recorder.Result()
	defer answer.Body.Close()

	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}

	return answer.StatusCode, string(body)
}

func TestTheKubeletAnswersOnlyWhomTheClusterAllows(t *testing.T) {
	n := newTestNode(t, "metrics")

	for _, example := range []struct {
		path, token string
		code        int
		says        string
	}{
		{"/metrics/resource", "known", http.StatusOK, "node_cpu_usage_seconds_total"},
		{"/metrics/resource", "unknown", http.StatusUnauthorized, "Unauthorized"},
		{"/metrics/resource", "", http.StatusUnauthorized, "Unauthorized"},
		{"/pods", "known", http.StatusForbidden, "Forbidden (user=system:serviceaccount:metrics-server:metrics-server, verb=get, resource=nodes, subresource(s)=[pods proxy])"},
		{"/run/apps/web/large", "known", http.StatusForbidden, "subresource(s)=[proxy]"},
	} {
		if code, body := ask(t, n, example.path, example.token); code != example.code || !strings.Contains(body, example.says) {
			t.Errorf("%s with token %q: %d %s", example.path, example.token, code, body)
		}
	}
}

func TestProxyRightsOpenEverything(t *testing.T) {
	n := newTestNode(t, "proxy")

	for path, says := range map[string]string{"/healthz": "ok", "/pods": `"name":"web"`} {
		if code, body := ask(t, n, path, "known"); code != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}

	if code, _ := ask(t, n, "/nothing", "known"); code != http.StatusNotFound {
		t.Errorf("/nothing: %d", code)
	}
}

func TestWithoutAClusterNobodyIsLetIn(t *testing.T) {
	n := newTestNode(t, "metrics")
	n.connect(nil)

	if code, _ := ask(t, n, "/metrics/resource", "known"); code != http.StatusUnauthorized {
		t.Errorf("%d", code)
	}
}

func TestTheMetricsAreThoseOfAKubelet(t *testing.T) {
	n := newTestNode(t, "metrics")
	_, body := ask(t, n, "/metrics/resource", "known")

	for _, line := range []string{
		"# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total ",
		"# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes ",
		`container_cpu_usage_seconds_total{container="large",namespace="apps",pod="web"} `,
		`container_memory_working_set_bytes{container="small",namespace="apps",pod="web"} `,
		`container_start_time_seconds{container="small",namespace="apps",pod="web"} `,
		`pod_cpu_usage_seconds_total{namespace="apps",pod="web"} `,
		`pod_memory_working_set_bytes{namespace="apps",pod="web"} 1.2582912e+08 `,
		"\nresource_scrape_error 0\n",
	} {
		if !strings.Contains(body, line) {
			t.Errorf("not there: %s\n%s", line, body)
		}
	}
}

func TestTheMetricsOfCAdvisorHaveTheMachineAndItsContainers(t *testing.T) {
	n := newTestNode(t, "metrics")
	n.BootID, n.Hardware = "b", hardware.VM{ID: "a-b", CPUs: 4, Disks: []hardware.Disk{{GiB: 12}}}
	n.memoryMiB = 1024
	_, body := ask(t, n, "/metrics/cadvisor", "known")

	for _, line := range []string{
		`machine_memory_bytes{boot_id="b",machine_id="ab",system_uuid="a-b"} 1.073741824e+09 `,
		`machine_cpu_cores{boot_id="b",machine_id="ab",system_uuid="a-b"} 4 `,
		`container_memory_working_set_bytes{container="",id="/",image="",name="",namespace="",pod=""} `,
		`container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""} `,
		`container_memory_working_set_bytes{container="small",id="/kubepods/pod1/small",image="",name="small",namespace="apps",pod="web"} 3.145728e+07 `,
		`container_cpu_usage_seconds_total{container="large",cpu="total",id="/kubepods/pod1/large",image="",name="large",namespace="apps",pod="web"} `,
		`container_fs_limit_bytes{container="",device="/dev/sda6",id="/",image="",name="",namespace="",pod=""} 1.073741824e+10 `,
		`container_fs_usage_bytes{container="",device="/dev/sda6",id="/",image="",name="",namespace="",pod=""} `,
	} {
		if !strings.Contains(body, line) {
			t.Errorf("not there: %s\n%s", line, body)
		}
	}
}

func TestTheDiskFillsWithWhatPodsWrite(t *testing.T) {
	n := newTestNode(t, "metrics")
	n.Hardware = hardware.VM{Disks: []hardware.Disk{{GiB: 12}}}
	used := func() string {
		_, body := ask(t, n, "/metrics/cadvisor", "known")
		_, after, _ := strings.Cut(body, "\ncontainer_fs_usage_bytes{")
		_, value, _ := strings.Cut(after, "} ")
		value, _, _ = strings.Cut(value, " ")

		return value
	}

	before := used()

	// A sparse file takes nothing of this computer's disk.
	path := n.Disk.Path(disk.VolumesFolder, "pods", "uid", "volumes", "data", "large")
	if err := disk.WriteFile(path, nil); err != nil {
		t.Fatal(err)
	}

	for size, wanted := range map[int64]string{3 << 30: "3.22", 30 << 30: "1.073741824e+10"} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}

		if now := used(); !strings.HasPrefix(now, wanted) || now == before {
			t.Errorf("with a file of %d bytes %s, before it %s", size, now, before)
		}
	}
}

func TestAClaimedVolumeIsAsFullAsItsPodSays(t *testing.T) {
	n := newTestNode(t, "metrics")
	claim := func(name string, phase corev1.PersistentVolumeClaimPhase) {
		_, err := n.connection().CoreV1().PersistentVolumeClaims("apps").Create(t.Context(), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name},
			Status: corev1.PersistentVolumeClaimStatus{
				Phase: phase, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	claim("data", corev1.ClaimBound)
	claim("waits", corev1.ClaimPending)

	pod := played(time.Now(), map[string]string{volumesAnnotation: "9Gi"})
	for _, name := range []string{"data", "waits", "gone"} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}

	n.observe([]corev1.Pod{pod})
	_, body := ask(t, n, "/metrics", "known")

	for _, line := range []string{
		"kubelet_node_name{node=\"node01\"} 1\n",
		`kubelet_volume_stats_capacity_bytes{namespace="apps",persistentvolumeclaim="data"} 1.073741824e+10` + "\n",
		`kubelet_volume_stats_used_bytes{namespace="apps",persistentvolumeclaim="data"} 9.663676416e+09` + "\n",
		`kubelet_volume_stats_available_bytes{namespace="apps",persistentvolumeclaim="data"} 1.073741824e+09` + "\n",
	} {
		if !strings.Contains(body, line) {
			t.Errorf("not there: %s\n%s", line, body)
		}
	}

	if strings.Contains(body, `persistentvolumeclaim="waits"`) || strings.Contains(body, `persistentvolumeclaim="gone"`) {
		t.Error(body)
	}
}
