package kubelet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/pods"
	"platform.lab/lab/internal/simulated"
)

// calls are the kubelet's paths that need a program in a pod, and what kubectl calls them.
var calls = map[string]string{
	"exec": "exec, cp and debug", "attach": "attach and debug", "portForward": "port-forward", "run": "run", "checkpoint": "checkpoint",
}

// serveLogs answers /containerLogs/NAMESPACE/POD/CONTAINER: the log of a real program, else what is simulated.
func (n *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	namespace, pod := r.PathValue("namespace"), r.PathValue("pod")

	pods := n.PodsNow()

	at := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Namespace == namespace && p.Name == pod })
	if at < 0 {
		http.Error(w, fmt.Sprintf("pod %q does not exist", pod), http.StatusNotFound)

		return
	}

	source, previous := n.logOf(&pods[at], r.PathValue("container")), r.URL.Query().Get("previous") == "true"
	ofRuntime := n.Pods.Owns(&pods[at])

	if ofRuntime {
		if source = n.Pods.LogFile(&pods[at], r.PathValue("container"), previous); source == "" {
			http.Error(w, notStarted(&pods[at], r.PathValue("container"), previous), http.StatusBadRequest)

			return
		}

		previous = false
	}

	switch {
	case source == "":
		http.Error(w, simulated.Pod("logs"), http.StatusBadRequest)

		return
	case previous: // a program's log goes on where its last one ended
		http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", r.PathValue("container"), pod), http.StatusBadRequest)

		return
	}

	if err := n.streamLog(w, r, source, ofRuntime); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// notStarted says of a container without a log why, in a kubelet's words.
func notStarted(pod *corev1.Pod, container string, previous bool) string {
	if previous {
		return fmt.Sprintf("previous terminated container %q in pod %q not found", container, pod.Name)
	}

	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if status.Name == container && status.State.Waiting != nil {
			return fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod.Name, status.State.Waiting.Reason)
		}
	}

	return fmt.Sprintf("container %q in pod %q is not available", container, pod.Name)
}

// logOf is the log file of a container whose program is real; "" of one that is simulated.
func (n *Kubelet) logOf(pod *corev1.Pod, container string) string {
	for _, static := range n.StaticPods() {
		if pod.Namespace == kubeapi.SystemNamespace && pod.Name == static.Name+"-"+n.Network.Hostname() {
			return n.Disk.Log(static.Name)
		}
	}

	find, provider := n.PodLog, n.Provider()
	if find == nil || provider == nil {
		return ""
	}

	source := find(provider.Cluster().Name(), pod, container)
	if _, err := os.Stat(source); err != nil {
		return ""
	}

	return source
}

// klogStamp and otherStamp are how the real programs write the time of a line: with no year as Kubernetes' do, or as
// RFC 3339 somewhere in the line.
var (
	klogStamp  = regexp.MustCompile(`^[IWEF](\d{4} \d{2}:\d{2}:\d{2}\.\d+)`)
	otherStamp = regexp.MustCompile(`\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})`)
)

// timeOf is when a program wrote a line; not ok of a line that does not say so, such as a further line of a stack.
func timeOf(line []byte, now time.Time) (time.Time, bool) {
	if found := klogStamp.FindSubmatch(line); found != nil {
		at, err := time.ParseInLocation("2006 0102 15:04:05.999999", now.Format("2006 ")+string(found[1]), now.Location())
		if err == nil && at.After(now.Add(time.Hour)) {
			at = at.AddDate(-1, 0, 0) // of last year
		}

		return at, err == nil
	}

	at, err := time.Parse(time.RFC3339Nano, string(otherStamp.Find(line)))

	return at, err == nil
}

// beginOf is the time that the kubelet's options name (sinceSeconds or sinceTime); zero when they name none.
func beginOf(options url.Values, now time.Time) time.Time {
	if seconds, err := strconv.ParseInt(options.Get("sinceSeconds"), 10, 64); err == nil {
		return now.Add(-time.Duration(seconds) * time.Second)
	}

	at, err := time.Parse(time.RFC3339, options.Get("sinceTime"))
	if err != nil {
		return time.Time{}
	}

	return at
}

// since leaves out what was written before the time that the options name. A runtime notes the time of each line; where there is
// none it is what the line itself says, and one that says none goes with that before.
func since(data []byte, options url.Values, now time.Time) []byte {
	begin := beginOf(options, now)
	if begin.IsZero() {
		return data
	}

	rest := data
	for len(rest) > 0 {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if at, ok := timeOf(line, now); ok && !at.Before(begin) {
			return rest
		}

		rest = rest[min(len(rest), len(line)+1):]
	}

	return rest
}

// streamLog sends a log file as the kubelet's options want it: sinceSeconds, sinceTime, tailLines, limitBytes, follow. One of a
// container's runtime has more in its lines than the container wrote.
func (n *Kubelet) streamLog(w http.ResponseWriter, r *http.Request, source string, ofRuntime bool) error {
	options := r.URL.Query()

	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()

	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}

	wrote := func(more []byte) []byte { return more }

	if ofRuntime {
		var rest []byte

		begin := beginOf(options, time.Now())
		wrote = func(more []byte) (text []byte) {
			text, rest = pods.Plain(slices.Concat(rest, more), begin)

			return text
		}
		data = wrote(data)
	} else {
		data = since(data, options, time.Now())
	}

	if wanted, err := strconv.Atoi(options.Get("tailLines")); err == nil && wanted >= 0 {
		lines := bytes.SplitAfter(data, []byte("\n"))
		data = bytes.Join(lines[max(0, len(lines)-1-wanted):], nil)
	}

	if limit, err := strconv.Atoi(options.Get("limitBytes")); err == nil && limit >= 0 {
		data = data[:min(limit, len(data))]
	}

	w.Header().Set("Content-Type", "text/plain")

	for {
		if _, err := w.Write(data); err != nil {
			return nil // the reader went
		}

		if options.Get("follow") != "true" || r.Context().Err() != nil || n.IsStopping() {
			return nil
		}

		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}

		if !n.Sleep(lifetime.Tick) {
			return nil
		}

		if data, err = io.ReadAll(file); err != nil {
			return nil // the answer has begun
		}

		data = wrote(data)
	}
}

// refuse says of everything else that the kubelet has what the lab does instead.
func (n *Kubelet) refuse(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")

	call, ok := calls[parts[0]]
	if !ok {
		http.Error(w, simulated.Kubelet(r.URL.Path), http.StatusNotFound)

		return
	}

	message := simulated.Pod(call)

	if len(parts) > 2 && slices.ContainsFunc(n.PodsNow(), func(p corev1.Pod) bool {
		return p.Namespace == parts[1] && p.Name == parts[2] && n.Pods.Owns(&p)
	}) {
		message = simulated.Process(call)
	}

	if len(parts) > 2 && parts[1] == kubeapi.SystemNamespace {
		if name, ours := strings.CutSuffix(parts[2], "-"+n.Network.Hostname()); ours && slices.ContainsFunc(n.StaticPods(), func(pod controlplane.StaticPod) bool { return pod.Name == name }) {
			message = simulated.StaticPod(call)
		}
	}

	// A client takes plain text for YAML where it can.
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotImplemented)

	_ = json.NewEncoder(w).Encode(metav1.Status{ // else the caller went
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Message: message, Code: http.StatusNotImplemented,
	})
}
