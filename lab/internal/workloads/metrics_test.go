package workloads

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const kubeletText = `# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 100.5 1700000000000
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 1.073741824e+09 1700000000000
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="default",pod="web"} 7 1700000000000
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="c",namespace="default",pod="web"} 4096 1700000000000
`

func TestTwoReadingsMakeAUsage(t *testing.T) {
	first, err := parseReading(strings.NewReader(kubeletText), time.Now())
	if err != nil {
		t.Fatal(err)
	}

	later := strings.NewReplacer(" 100.5 ", " 103 ", " 7 ", " 7.5 ", "1700000000000", "1700000005000").Replace(kubeletText)

	second, err := parseReading(strings.NewReader(later), time.Now())
	if err != nil {
		t.Fatal(err)
	}

	node, ok := between(first.node, second.node)
	if !ok || node.list.Cpu().MilliValue() != 500 || node.list.Memory().Value() != 1<<30 || node.window != 5*time.Second || node.at.Unix() != 1700000005 {
		t.Errorf("%v, %+v", ok, node)
	}

	web := types.NamespacedName{Namespace: "default", Name: "web"}
	if used, ok := between(first.pods[web]["c"], second.pods[web]["c"]); !ok || used.list.Cpu().MilliValue() != 100 || used.list.Memory().Value() != 4096 {
		t.Errorf("%v, %+v", ok, used)
	}

	for what, pair := range map[string][2]sample{"no first": {{}, second.node}, "a restart": {second.node, first.node}, "the same": {second.node, second.node}} {
		if _, ok := between(pair[0], pair[1]); ok {
			t.Errorf("%s made a usage", what)
		}
	}
}

func TestAKubeletIsReadWithTheTokenAndItsCertificateIsVerified(t *testing.T) {
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" || r.URL.Path != "/metrics/resource" {
			w.WriteHeader(http.StatusUnauthorized)

			return
		}

		_, _ = w.Write([]byte(kubeletText))
	}))
	defer kubelet.Close()

	_, number, _ := strings.Cut(strings.TrimPrefix(kubelet.URL, "https://"), ":")
	pod := readyPod("m", "m", "127.0.0.1", nil)
	pod.Spec.Containers = []corev1.Container{{Args: []string{"--kubelet-preferred-address-types=InternalIP,Hostname", "--kubelet-port=" + number}}}

	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "nowhere"}, {Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}}}
	b := newBench(t)
	b.config.CAData = encodeCertificate(kubelet.Certificate().Raw)

	read, err := b.newScraper(pod, "token").scrape(t.Context(), node)
	if err != nil || read.node.cpu != 100.5 {
		t.Errorf("%+v, %v", read, err)
	}

	if _, err := b.newScraper(pod, "other").scrape(t.Context(), node); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("with another token: %v", err)
	}

	b.config.CAData = b.options.Authority.PEM()
	if _, err := b.newScraper(pod, "token").scrape(t.Context(), node); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("under another authority: %v", err)
	}
}

type fixedUsage struct{ usage }

func (f fixedUsage) nodeUsage(node string) (usage, bool) { return f.usage, node == "node01" }

func (f fixedUsage) podUsage(_ string, pod types.NamespacedName) map[string]usage {
	if pod.Name != "web" {
		return nil
	}

	return map[string]usage{"c": f.usage}
}

func metricsServer(t *testing.T) func(path string, into any) int {
	t.Helper()

	web, silent := readyPod("default", "web", "127.0.0.1", map[string]string{"app": "web"}), readyPod("default", "silent", "127.0.0.1", nil)
	for _, pod := range []*corev1.Pod{web, silent} {
		pod.Spec.Containers = []corev1.Container{{Name: "c"}}
	}

	b := newBench(t, node01(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node02"}}, web, silent)
	b.start(func(ctx context.Context, _ *cluster) error {
		<-ctx.Done()

		return nil
	})
	b.until("the nodes", func() bool {
		return len(b.objects.Core().V1().Nodes().Informer().GetStore().List()) == 2 && len(b.pods().GetStore().List()) == 2
	})

	now := time.Unix(1700000005, 0)
	used, _ := between(sample{at: now.Add(-5 * time.Second), cpu: 1}, sample{at: now, cpu: 2, memory: 4096})
	api := &metricsAPI{usage: fixedUsage{used}, nodes: b.objects.Core().V1().Nodes().Lister(), pods: b.objects.Core().V1().Pods().Lister()}

	server := httptest.NewServer(api.handler())
	t.Cleanup(server.Close)

	return func(path string, into any) int {
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()

		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}

		return response.StatusCode
	}
}

func TestTheMetricsAPIListsAndSelects(t *testing.T) {
	get := metricsServer(t)

	var nodes metricsv1beta1.NodeMetricsList
	if get(metricsPath+"/nodes", &nodes); len(nodes.Items) != 1 || nodes.Items[0].Name != "node01" || nodes.Items[0].Usage.Cpu().MilliValue() != 200 || nodes.Items[0].Window.Duration != 5*time.Second {
		t.Errorf("a node without usage is left out: %+v", nodes)
	}

	for query, wanted := range map[string]int{"": 1, "?labelSelector=app%3Dweb": 1, "?labelSelector=app%3Dother": 0, "?fieldSelector=metadata.name%3Dweb": 1, "?fieldSelector=metadata.name%3Dx": 0} {
		for _, path := range []string{"/pods", "/namespaces/default/pods"} {
			var pods metricsv1beta1.PodMetricsList
			if get(metricsPath+path+query, &pods); len(pods.Items) != wanted || pods.Items == nil {
				t.Errorf("%s%s: %d", path, query, len(pods.Items))
			}
		}
	}

	var pod metricsv1beta1.PodMetrics
	if code := get(metricsPath+"/namespaces/default/pods/web", &pod); code != http.StatusOK || pod.Containers[0].Usage.Memory().Value() != 4096 || pod.Timestamp.Unix() != 1700000005 {
		t.Errorf("%+v", pod)
	}

	var status metav1.Status
	for path, wanted := range map[string]int{
		"/namespaces/default/pods/silent": 404, "/nodes/node02": 404, "/nodes?labelSelector=%3D%3D": 400, "/other": 404,
	} {
		if code := get(metricsPath+path, &status); code != wanted || status.Kind != "Status" {
			t.Errorf("%s: %d, %+v", path, code, status)
		}
	}

	var resources metav1.APIResourceList
	if get(metricsPath, &resources); len(resources.APIResources) != 2 || resources.GroupVersion != "metrics.k8s.io/v1beta1" {
		t.Errorf("%+v", resources)
	}
}

func TestARequestWithoutTheFrontProxysCertificateIsNobodys(t *testing.T) {
	front := &frontProxy{names: []string{"front-proxy-client"}, userHeaders: []string{"X-Remote-User"}}
	handler := front.authorized(newBench(t).client, http.NotFoundHandler())

	for path, wanted := range map[string]int{"/livez": http.StatusNotFound, metricsPath + "/nodes": http.StatusUnauthorized} {
		recorder := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("X-Remote-User", "system:admin")
		handler.ServeHTTP(recorder, r)

		if recorder.Code != wanted {
			t.Errorf("%s: %d", path, recorder.Code)
		}
	}
}

func TestTheAuthorizerIsAskedForWhatIsRead(t *testing.T) {
	for path, wanted := range map[string]string{
		metricsPath + "/nodes":               "list nodes  ",
		metricsPath + "/nodes/node01":        "get nodes  node01",
		metricsPath + "/pods":                "list pods  ",
		metricsPath + "/namespaces/a/pods":   "list pods a ",
		metricsPath + "/namespaces/a/pods/p": "get pods a p",
		metricsPath:                          "get " + metricsPath,
	} {
		resource, other := attributesOf(httptest.NewRequest(http.MethodGet, path, nil))

		var got string
		if resource != nil {
			got = resource.Verb + " " + resource.Resource + " " + resource.Namespace + " " + resource.Name
		} else {
			got = other.Verb + " " + other.Path
		}

		if got != wanted {
			t.Errorf("%s: %q", path, got)
		}
	}
}
