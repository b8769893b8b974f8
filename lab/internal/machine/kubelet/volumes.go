package kubelet

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"platform.lab/lab/internal/machine/kubeapi"
)

// volumesAnnotation of a pod says how much it has written into each volume that it claims, as a quantity of Kubernetes. Nothing is
// in these volumes: no pod that claims one runs as processes.
const volumesAnnotation = "lab.platform/volumes"

// The kubelet's metrics of claimed volumes (pkg/kubelet/metrics/collectors/volume_stats.go of Kubernetes 1.34).
var (
	volumeCapacity  = describe("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", ofVolume...)
	volumeAvailable = describe("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume (simulated)", ofVolume...)
	volumeUsed      = describe("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume (simulated)", ofVolume...)
)

var ofVolume = []string{"namespace", "persistentvolumeclaim"}

// claims are those of the machine's running pods, with what annotations say that is in their volumes.
func claims(pods []corev1.Pod) (used map[types.NamespacedName]float64, problems []error) {
	used = map[types.NamespacedName]float64{}

	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}

		for _, volume := range pod.Spec.Volumes {
			if volume.PersistentVolumeClaim == nil {
				continue
			}

			size, err := annotated(pod, volumesAnnotation, 0)
			if err != nil {
				problems = append(problems, err)
			}

			name := types.NamespacedName{Namespace: pod.Namespace, Name: volume.PersistentVolumeClaim.ClaimName}
			used[name] = max(used[name], size)
		}
	}

	return used, problems
}

// collectVolumes gives the metrics of the volumes that pods of the machine claim.
func (n *Kubelet) collectVolumes(metrics chan<- prometheus.Metric) {
	client := n.connection()
	if client == nil {
		return
	}

	ctx, cancel := context.WithTimeout(n.Context(), kubeapi.Timeout)
	defer cancel()

	found, problems := claims(n.PodsNow())
	for _, problem := range problems {
		n.log.Warn("simulated use", "error", problem)
	}

	for name, used := range found {
		claim, err := client.CoreV1().PersistentVolumeClaims(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		if err != nil {
			n.log.Debug("kubelet", "claim", name, "error", err)

			continue
		}

		capacity := claim.Status.Capacity.Storage().AsApproximateFloat64()
		if claim.Status.Phase != corev1.ClaimBound || capacity == 0 {
			continue
		}

		used = min(used, capacity)
		metrics <- gauge(volumeCapacity, capacity, name.Namespace, name.Name)
		metrics <- gauge(volumeUsed, used, name.Namespace, name.Name)
		metrics <- gauge(volumeAvailable, capacity-used, name.Namespace, name.Name)
	}
}
