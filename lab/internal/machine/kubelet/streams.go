package kubelet

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Times of a kubelet's streams (pkg/kubelet/config of Kubernetes).
const (
	streamIdle     = 4 * time.Hour
	streamCreation = 30 * time.Second
)

// serveExec answers /exec/NAMESPACE/POD/CONTAINER for pods that run as processes.
func (n *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	pod := n.ownPod(r)
	if pod == nil {
		n.refuse(w, r)

		return
	}

	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)

		return
	}

	remotecommand.ServeExec(w, r, n.Pods.Executor(pod.Namespace), pod.Name, string(pod.UID), r.PathValue("container"),
		r.URL.Query()["command"], options, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// servePortForward answers /portForward/NAMESPACE/POD for pods that run as processes.
func (n *Kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod := n.ownPod(r)
	if pod == nil {
		n.refuse(w, r)

		return
	}

	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)

		return
	}

	portforward.ServePortForward(w, r, n.Pods.Forwarder(pod.Namespace), pod.Name, string(pod.UID), options, streamIdle, streamCreation,
		portforward.SupportedProtocols)
}

// ownPod is the pod that a request names, when it runs as processes here.
func (n *Kubelet) ownPod(r *http.Request) *corev1.Pod {
	pods := n.PodsNow()

	at := slices.IndexFunc(pods, func(p corev1.Pod) bool {
		return p.Namespace == r.PathValue("namespace") && p.Name == r.PathValue("pod")
	})
	if at < 0 || !n.Pods.Owns(&pods[at]) {
		return nil
	}

	return &pods[at]
}

// summary is the part of /stats/summary (k8s.io/kubelet/pkg/apis/stats/v1alpha1) that the lab has figures for.
type summary struct {
	Node struct {
		NodeName string     `json:"nodeName"`
		Started  time.Time  `json:"startTime"`
		CPU      cpuStats   `json:"cpu"`
		Memory   memoryStat `json:"memory"`
	} `json:"node"`
	Pods []podStats `json:"pods"`
}

type cpuStats struct {
	Time    time.Time `json:"time"`
	Seconds uint64    `json:"usageCoreNanoSeconds"`
}

type memoryStat struct {
	Time       time.Time `json:"time"`
	WorkingSet uint64    `json:"workingSetBytes"`
}

type podStats struct {
	Pod struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	} `json:"podRef"`
	Containers []containerStats `json:"containers"`
}

type containerStats struct {
	Name    string     `json:"name"`
	Started time.Time  `json:"startTime"`
	CPU     cpuStats   `json:"cpu"`
	Memory  memoryStat `json:"memory"`
}

// serveSummary answers /stats/summary with the counters of /metrics/resource.
func (n *Kubelet) serveSummary(w http.ResponseWriter, _ *http.Request) {
	n.observe(n.PodsNow())

	at, node, _ := n.usage.snapshot()
	stats := func(one sample) (cpuStats, memoryStat) {
		return cpuStats{at, uint64(one.seconds * float64(time.Second))}, memoryStat{at, uint64(one.bytes)}
	}

	answer := summary{Pods: []podStats{}}
	answer.Node.NodeName, answer.Node.Started = n.Network.Hostname(), node.started
	answer.Node.CPU, answer.Node.Memory = stats(node)

	for _, pod := range n.PodsNow() {
		one := podStats{Containers: []containerStats{}}
		one.Pod.Name, one.Pod.Namespace, one.Pod.UID = pod.Name, pod.Namespace, string(pod.UID)

		for _, container := range n.usage.of(pod.UID) {
			cpu, memory := stats(container)
			one.Containers = append(one.Containers, containerStats{container.container, container.started, cpu, memory})
		}

		if len(one.Containers) > 0 {
			answer.Pods = append(answer.Pods, one)
		}
	}

	w.Header().Set("Content-Type", "application/json")

	if err := json.NewEncoder(w).Encode(answer); err != nil {
		n.log.Debug("kubelet", "answer", "/stats/summary", "error", err)
	}
}
