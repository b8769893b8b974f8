package workloads

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	listers "k8s.io/client-go/listers/core/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	metricsGroup   = "metrics.k8s.io"
	metricsVersion = "v1beta1"
	metricsPath    = "/apis/" + metricsGroup + "/" + metricsVersion
)

// usageSource is where the API has its numbers from.
type usageSource interface {
	nodeUsage(node string) (usage, bool)
	podUsage(node string, pod types.NamespacedName) map[string]usage
}

// metricsAPI is metrics.k8s.io/v1beta1.
type metricsAPI struct {
	usage usageSource
	nodes listers.NodeLister
	pods  listers.PodLister
}

func (a *metricsAPI) handler() http.Handler {
	mux := http.NewServeMux()

	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	}

	version := metav1.GroupVersionForDiscovery{GroupVersion: metricsGroup + "/" + metricsVersion, Version: metricsVersion}
	group := metav1.APIGroup{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: metricsGroup,
		Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
	}

	answer := func(path string, value any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, value) })
	}

	answer("/apis", metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{group}})
	answer("/apis/"+metricsGroup, group)
	answer(metricsPath, metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version.GroupVersion,
		APIResources: []metav1.APIResource{
			{Name: "nodes", Kind: "NodeMetrics", Verbs: metav1.Verbs{"get", "list"}},
			{Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: metav1.Verbs{"get", "list"}},
		},
	})

	mux.HandleFunc("GET "+metricsPath+"/nodes", a.listNodes)
	mux.HandleFunc("GET "+metricsPath+"/nodes/{name}", a.getNode)
	mux.HandleFunc("GET "+metricsPath+"/pods", a.listPods)
	mux.HandleFunc("GET "+metricsPath+"/namespaces/{namespace}/pods", a.listPods)
	mux.HandleFunc("GET "+metricsPath+"/namespaces/{namespace}/pods/{name}", a.getPod)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	})

	return mux
}

// selection reads ?labelSelector= and ?fieldSelector=.
func selection(w http.ResponseWriter, r *http.Request) (labels.Selector, fields.Selector, bool) {
	byLabel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err == nil {
		var byField fields.Selector

		if byField, err = fields.ParseSelector(r.URL.Query().Get("fieldSelector")); err == nil {
			return byLabel, byField, true
		}
	}

	writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())

	return nil, nil, false
}

func matches(selector fields.Selector, object metav1.Object) bool {
	return selector.Matches(fields.Set{"metadata.name": object.GetName(), "metadata.namespace": object.GetNamespace()})
}

func (a *metricsAPI) listNodes(w http.ResponseWriter, r *http.Request) {
	byLabel, byField, ok := selection(w, r)
	if !ok {
		return
	}

	nodes, err := a.nodes.List(byLabel)
	if err != nil {
		writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())

		return
	}

	list := metricsv1beta1.NodeMetricsList{TypeMeta: typeOf("NodeMetricsList"), Items: []metricsv1beta1.NodeMetrics{}}

	for _, node := range nodes {
		if metrics, known := a.nodeMetrics(node); known && matches(byField, node) {
			list.Items = append(list.Items, metrics)
		}
	}

	slices.SortFunc(list.Items, func(x, y metricsv1beta1.NodeMetrics) int { return strings.Compare(x.Name, y.Name) })
	writeJSON(w, http.StatusOK, list)
}

func (a *metricsAPI) getNode(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")

	node, err := a.nodes.Get(name)
	if err == nil {
		if metrics, known := a.nodeMetrics(node); known {
			writeJSON(w, http.StatusOK, metrics)

			return
		}
	}

	writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("nodemetrics.metrics.k8s.io %q not found", name))
}

func (a *metricsAPI) listPods(w http.ResponseWriter, r *http.Request) {
	byLabel, byField, ok := selection(w, r)
	if !ok {
		return
	}

	pods, err := a.pods.Pods(r.PathValue("namespace")).List(byLabel)
	if err != nil {
		writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())

		return
	}

	list := metricsv1beta1.PodMetricsList{TypeMeta: typeOf("PodMetricsList"), Items: []metricsv1beta1.PodMetrics{}}

	for _, pod := range pods {
		if metrics, known := a.podMetrics(pod); known && matches(byField, pod) {
			list.Items = append(list.Items, metrics)
		}
	}

	slices.SortFunc(list.Items, func(x, y metricsv1beta1.PodMetrics) int {
		return strings.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name)
	})
	writeJSON(w, http.StatusOK, list)
}

func (a *metricsAPI) getPod(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")

	pod, err := a.pods.Pods(namespace).Get(name)
	if err == nil {
		if metrics, known := a.podMetrics(pod); known {
			writeJSON(w, http.StatusOK, metrics)

			return
		}
	}

	writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("podmetrics.metrics.k8s.io \"%s/%s\" not found", namespace, name))
}

func typeOf(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: metricsGroup + "/" + metricsVersion}
}

func (a *metricsAPI) nodeMetrics(node *corev1.Node) (metricsv1beta1.NodeMetrics, bool) {
	used, known := a.usage.nodeUsage(node.Name)

	return metricsv1beta1.NodeMetrics{
		TypeMeta:   typeOf("NodeMetrics"),
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.Now()},
		Timestamp:  metav1.NewTime(used.at), Window: metav1.Duration{Duration: used.window}, Usage: used.list,
	}, known
}

// podMetrics is known when every running container's usage is, as metrics-server has it.
func (a *metricsAPI) podMetrics(pod *corev1.Pod) (metricsv1beta1.PodMetrics, bool) {
	metrics := metricsv1beta1.PodMetrics{
		TypeMeta:   typeOf("PodMetrics"),
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.Now()},
	}

	if pod.Status.Phase != corev1.PodRunning {
		return metrics, false
	}

	all := a.usage.podUsage(pod.Spec.NodeName, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})

	for _, container := range pod.Spec.Containers {
		used, known := all[container.Name]
		if !known {
			return metrics, false
		}

		metrics.Containers = append(metrics.Containers, metricsv1beta1.ContainerMetrics{Name: container.Name, Usage: used.list})
		metrics.Timestamp, metrics.Window = metav1.NewTime(used.at), metav1.Duration{Duration: used.window}
	}

	return metrics, true
}
