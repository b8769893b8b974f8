package statemetrics

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// family is one metric under its real name, with its real text (docs/metrics and internal/store of kube-state-metrics).
type family struct {
	name, help string
	kind       prometheus.ValueType
}

// stable is a gauge that its makers promise to keep, as nearly all here are.
func stable(name, help string) family {
	return family{name, "[STABLE] " + help, prometheus.GaugeValue}
}

var (
	nodeInfo          = stable("kube_node_info", "Information about a cluster node.")
	nodeCondition     = stable("kube_node_status_condition", "The condition of a cluster node.")
	nodeUnschedulable = stable("kube_node_spec_unschedulable", "Whether a node can schedule new pods.")

	podPhase    = stable("kube_pod_status_phase", "The pods current phase.")
	podReady    = stable("kube_pod_status_ready", "Describes whether the pod is ready to serve requests.")
	podRestarts = family{
		"kube_pod_container_status_restarts_total", "[STABLE] The number of container restarts per container.", prometheus.CounterValue,
	}

	deploymentReplicas  = stable("kube_deployment_spec_replicas", "Number of desired pods for a deployment.")
	deploymentAvailable = stable("kube_deployment_status_replicas_available", "The number of available replicas per deployment.")

	daemonSetDesired = stable("kube_daemonset_status_desired_number_scheduled",
		"The number of nodes that should be running the daemon pod.")
	daemonSetReady = stable("kube_daemonset_status_number_ready",
		"The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and ready.")

	statefulSetReplicas = stable("kube_statefulset_replicas", "Number of desired pods for a StatefulSet.")
	statefulSetReady    = stable("kube_statefulset_status_replicas_ready", "The number of ready replicas per StatefulSet.")

	cronJobCreated   = stable("kube_cronjob_created", "Unix creation timestamp")
	cronJobScheduled = stable("kube_cronjob_status_last_schedule_time",
		"LastScheduleTime keeps information of when was the last time the job was successfully scheduled.")
	cronJobSuccessful = stable("kube_cronjob_status_last_successful_time",
		"LastSuccessfulTime keeps information of when was the last time the job was completed successfully.")
	jobFailed = stable("kube_job_status_failed", "The number of pods which reached Phase Failed and the reason for failure.")

	autoscalerMost = stable("kube_horizontalpodautoscaler_spec_max_replicas",
		"Upper limit for the number of pods that can be set by the autoscaler; cannot be smaller than MinReplicas.")
	autoscalerCurrent = stable("kube_horizontalpodautoscaler_status_current_replicas", "Current number of replicas of pods managed by this autoscaler.")

	claimPhase = stable("kube_persistentvolumeclaim_status_phase", "The phase the persistent volume claim is currently in.")
	quota      = stable("kube_resourcequota", "Information about resource quota.")
)

type (
	factory  = informers.SharedInformerFactory
	informer = cache.SharedIndexInformer
)

// resource is a kind of object by the name that --resources has for it, with the metrics of one of them.
type resource struct {
	name    string
	inform  func(factory) informer
	measure func(object any, put put)
}

// put gives a metric with its labels: names and values by turns.
type put func(of family, value float64, labels ...string)

// measures makes the function of a resource from that of its type.
func measures[T any](measure func(*T, put)) func(any, put) {
	return func(object any, put put) {
		if one, ok := object.(*T); ok {
			measure(one, put)
		}
	}
}

// resources are those that the stand-in knows.
func resources() []resource {
	return []resource{
		{"cronjobs", func(f factory) informer { return f.Batch().V1().CronJobs().Informer() }, measures(ofCronJob)},
		{"daemonsets", func(f factory) informer { return f.Apps().V1().DaemonSets().Informer() }, measures(ofDaemonSet)},
		{"deployments", func(f factory) informer { return f.Apps().V1().Deployments().Informer() }, measures(ofDeployment)},
		{
			"horizontalpodautoscalers", func(f factory) informer { return f.Autoscaling().V2().HorizontalPodAutoscalers().Informer() },
			measures(ofAutoscaler),
		},
		{"jobs", func(f factory) informer { return f.Batch().V1().Jobs().Informer() }, measures(ofJob)},
		{"nodes", func(f factory) informer { return f.Core().V1().Nodes().Informer() }, measures(ofNode)},
		{"persistentvolumeclaims", func(f factory) informer { return f.Core().V1().PersistentVolumeClaims().Informer() }, measures(ofClaim)},
		{"pods", func(f factory) informer { return f.Core().V1().Pods().Informer() }, measures(ofPod)},
		{"resourcequotas", func(f factory) informer { return f.Core().V1().ResourceQuotas().Informer() }, measures(ofQuota)},
		{"statefulsets", func(f factory) informer { return f.Apps().V1().StatefulSets().Informer() }, measures(ofStatefulSet)},
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}

	return 0
}

// named puts the labels of an object in front of a metric's own: its namespace, and its name under the given label.
func named(object metav1.Object, label string, put put) put {
	return func(of family, value float64, labels ...string) {
		put(of, value, slices.Concat([]string{"namespace", object.GetNamespace(), label, object.GetName()}, labels)...)
	}
}

// conditionStatuses are what a condition's status may be.
var conditionStatuses = []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}

// putStatus gives 1 for the status that a condition has, and 0 for the others.
func putStatus(of family, put put, status corev1.ConditionStatus, label string, labels ...string) {
	for _, one := range conditionStatuses {
		put(of, number(one == status), slices.Concat(labels, []string{label, strings.ToLower(string(one))})...)
	}
}

// putTime gives a moment, when there is one.
func putTime(of family, put put, at *metav1.Time) {
	if !at.IsZero() {
		put(of, float64(at.Unix()))
	}
}

func putReplicas(of family, put put, replicas *int32) {
	if replicas != nil {
		put(of, float64(*replicas))
	}
}

func ofNode(node *corev1.Node, put put) {
	internal := ""

	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			internal = address.Address
		}
	}

	info := node.Status.NodeInfo
	put(nodeInfo, 1, "node", node.Name, "kernel_version", info.KernelVersion, "os_image", info.OSImage,
		"container_runtime_version", info.ContainerRuntimeVersion, "kubelet_version", info.KubeletVersion, "kubeproxy_version", "deprecated",
		"provider_id", node.Spec.ProviderID, "pod_cidr", node.Spec.PodCIDR, "system_uuid", info.SystemUUID, "internal_ip", internal)
	put(nodeUnschedulable, number(node.Spec.Unschedulable), "node", node.Name)

	for _, condition := range node.Status.Conditions {
		putStatus(nodeCondition, put, condition.Status, "status", "node", node.Name, "condition", string(condition.Type))
	}
}

func ofPod(pod *corev1.Pod, put put) {
	own := named(pod, "pod", put)
	uid := string(pod.UID)

	if pod.Status.Phase != "" {
		for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown, corev1.PodRunning} {
			own(podPhase, number(phase == pod.Status.Phase), "uid", uid, "phase", string(phase))
		}
	}

	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			putStatus(podReady, own, condition.Status, "condition", "uid", uid)
		}
	}

	for _, status := range pod.Status.ContainerStatuses {
		own(podRestarts, float64(status.RestartCount), "uid", uid, "container", status.Name)
	}
}

func ofDeployment(deployment *appsv1.Deployment, put put) {
	own := named(deployment, "deployment", put)
	putReplicas(deploymentReplicas, own, deployment.Spec.Replicas)
	own(deploymentAvailable, float64(deployment.Status.AvailableReplicas))
}

func ofDaemonSet(set *appsv1.DaemonSet, put put) {
	own := named(set, "daemonset", put)
	own(daemonSetDesired, float64(set.Status.DesiredNumberScheduled))
	own(daemonSetReady, float64(set.Status.NumberReady))
}

func ofStatefulSet(set *appsv1.StatefulSet, put put) {
	own := named(set, "statefulset", put)
	putReplicas(statefulSetReplicas, own, set.Spec.Replicas)
	own(statefulSetReady, float64(set.Status.ReadyReplicas))
}

func ofCronJob(job *batchv1.CronJob, put put) {
	own := named(job, "cronjob", put)
	putTime(cronJobCreated, own, &job.CreationTimestamp)
	putTime(cronJobScheduled, own, job.Status.LastScheduleTime)
	putTime(cronJobSuccessful, own, job.Status.LastSuccessfulTime)
}

// failures are the reasons that have a series of their own.
var failures = []string{"BackoffLimitExceeded", "DeadlineExceeded", "Evicted"}

// ofJob gives the failed pods of a job. Of one that has failed for a known reason it says which that was, and not how many
// pods did.
func ofJob(job *batchv1.Job, put put) {
	own := named(job, "job_name", put)
	if job.Status.Failed == 0 {
		own(jobFailed, 0)

		return
	}

	known := false

	for _, condition := range job.Status.Conditions {
		if condition.Type != batchv1.JobFailed {
			continue
		}

		for _, reason := range failures {
			known = known || condition.Reason == reason
			own(jobFailed, number(condition.Reason == reason), "reason", reason)
		}
	}

	if !known {
		own(jobFailed, float64(job.Status.Failed), "reason", "")
	}
}

func ofAutoscaler(autoscaler *autoscalingv2.HorizontalPodAutoscaler, put put) {
	own := named(autoscaler, "horizontalpodautoscaler", put)
	own(autoscalerMost, float64(autoscaler.Spec.MaxReplicas))
	own(autoscalerCurrent, float64(autoscaler.Status.CurrentReplicas))
}

func ofClaim(claim *corev1.PersistentVolumeClaim, put put) {
	if claim.Status.Phase == "" {
		return
	}

	own := named(claim, "persistentvolumeclaim", put)
	for _, phase := range []corev1.PersistentVolumeClaimPhase{corev1.ClaimLost, corev1.ClaimBound, corev1.ClaimPending} {
		own(claimPhase, number(phase == claim.Status.Phase), "phase", string(phase))
	}
}

func ofQuota(one *corev1.ResourceQuota, put put) {
	own := named(one, "resourcequota", put)

	for kind, list := range map[string]corev1.ResourceList{"hard": one.Status.Hard, "used": one.Status.Used} {
		for name, quantity := range list {
			own(quota, quantity.AsApproximateFloat64(), "resource", string(name), "type", kind)
		}
	}
}
