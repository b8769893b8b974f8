package kubelet

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/simulated"
)

func TestTheKubeletHasLogsOfRealProgramsAndASentenceForTheOthers(t *testing.T) {
	n := newTestNode(t, "proxy")

	if code, body := ask(t, n, "/containerLogs/apps/web/large", "known"); code != http.StatusBadRequest || !strings.HasPrefix(body, simulated.Mark) {
		t.Errorf("%d %s", code, body)
	}

	if code, _ := ask(t, n, "/containerLogs/apps/nothing/large", "known"); code != http.StatusNotFound {
		t.Errorf("%d", code)
	}

	for _, path := range []string{"/exec/apps/web/large", "/attach/apps/web/large", "/portForward/apps/web", "/run/apps/web/large"} {
		if code, body := ask(t, n, path, "known"); code != http.StatusNotImplemented || !strings.Contains(body, `"message":"`+simulated.Mark) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}

	if code, body := ask(t, n, "/configz", "known"); code != http.StatusNotFound || !strings.HasPrefix(body, simulated.Mark) {
		t.Errorf("%d %s", code, body)
	}
}

func TestAProgramHasNoEarlierLog(t *testing.T) {
	n := newTestNode(t, "proxy")
	n.StaticPods = func() []controlplane.StaticPod {
		return []controlplane.StaticPod{{Component: controlplane.Component{Name: "kube-apiserver"}}}
	}

	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: kubeapi.SystemNamespace, Name: "kube-apiserver-node01"}}
	n.observe([]corev1.Pod{pod})

	if err := disk.WriteFile(n.Disk.Path(disk.LogsFolder, "kube-apiserver.log"), []byte("one\n")); err != nil {
		t.Fatal(err)
	}

	path := "/containerLogs/kube-system/kube-apiserver-node01/kube-apiserver"
	if code, body := ask(t, n, path, "known"); code != http.StatusOK || body != "one\n" {
		t.Errorf("%d %s", code, body)
	}

	wanted := `previous terminated container "kube-apiserver" in pod "kube-apiserver-node01" not found`
	if code, body := ask(t, n, path+"?previous=true", "known"); code != http.StatusBadRequest || !strings.Contains(body, wanted) {
		t.Errorf("%d %s", code, body)
	}
}

func TestTheTailOfALogIsSent(t *testing.T) {
	n := newTestNode(t, "proxy")
	source := n.Disk.Path("some.log")

	if err := os.WriteFile(source, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	for query, wanted := range map[string]string{"": "one\ntwo\nthree\n", "?tailLines=2": "two\nthree\n", "?tailLines=0": "", "?limitBytes=5": "one\nt"} {
		if got := logged(t, n, source, query); got != wanted {
			t.Errorf("%s: %q", query, got)
		}
	}
}

func logged(t *testing.T, n *Kubelet, source, query string) string {
	t.Helper()

	recorder := httptest.NewRecorder()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/containerLogs/a/b/c"+query, nil)
	if err == nil {
		err = n.streamLog(recorder, request, source, false)
	}

	if err != nil {
		t.Fatal(err)
	}

	return recorder.Body.String()
}

func TestALogIsReadFromATimeOn(t *testing.T) {
	now := time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)
	log := "I1129 09:00:00.000001       1 server.go:1] old\n\tof a stack\n" +
		`{"level":"info","ts":"2026-11-29T09:59:30.5Z","msg":"new"}` + "\n\tof its stack\n"

	for query, want := range map[string]string{
		"sinceSeconds=60":                `{"level":"info","ts":"2026-11-29T09:59:30.5Z","msg":"new"}` + "\n\tof its stack\n",
		"sinceTime=2026-11-29T08:00:00Z": log,
		"sinceSeconds=10":                "",
		"":                               log,
	} {
		options, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}

		if got := string(since([]byte(log), options, now)); got != want {
			t.Errorf("%s: %q", query, got)
		}
	}
}
