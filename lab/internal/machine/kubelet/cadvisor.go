package kubelet

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"platform.lab/lab/internal/machine/blockdevices"
)

// Some of the metrics of /metrics/cadvisor, under cAdvisor's names and labels (metrics/prometheus.go of cAdvisor 0.52).
var (
	machineMemory = describe("machine_memory_bytes", "Amount of memory installed on the machine.", ofMachine...)
	machineCores  = describe("machine_cpu_cores", "Number of logical CPU cores.", ofMachine...)

	cadvisorCPU    = describe("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", append(ofCadvisor, "cpu")...)
	cadvisorMemory = describe("container_memory_working_set_bytes", "Current working set in bytes.", ofCadvisor...)
	cadvisorLimit  = describe("container_spec_memory_limit_bytes", "Memory limit for the container.", ofCadvisor...)
	cadvisorStart  = describe("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", ofCadvisor...)

	filesystemUsed = describe("container_fs_usage_bytes",
		"Number of bytes that are consumed by the container on this filesystem. (simulated: the sizes of the files that the lab has of the machine)",
		append(ofCadvisor, "device")...)
	filesystemSize = describe("container_fs_limit_bytes",
		"Number of bytes that can be consumed by the container on this filesystem. (simulated: the size of the machine's disk)",
		append(ofCadvisor, "device")...)
)

var (
	ofMachine  = []string{"boot_id", "machine_id", "system_uuid"}
	ofCadvisor = []string{"container", "id", "image", "name", "namespace", "pod"}
)

// wholeMachine is the control group of everything.
const wholeMachine = "/"

// cadvisorCollector is /metrics/cadvisor: the numbers of /metrics/resource, and the disk of the machine's data.
type cadvisorCollector struct{ node *Kubelet }

// Describe gives none, as resourceCollector's.
func (cadvisorCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counters now.
func (c cadvisorCollector) Collect(metrics chan<- prometheus.Metric) {
	c.node.observe(c.node.PodsNow())

	at, whole, containers := c.node.usage.snapshot()
	put := func(metric prometheus.Metric) { metrics <- prometheus.NewMetricWithTimestamp(at, metric) }

	vm := c.node.Hardware
	identity := []string{c.node.BootID, strings.ReplaceAll(vm.ID, "-", ""), vm.ID}
	put(gauge(machineMemory, float64(c.node.memory())*(1<<20), identity...))
	put(gauge(machineCores, float64(vm.CPUs), identity...))

	root := []string{"", wholeMachine, "", "", "", ""}
	put(counter(cadvisorCPU, whole.seconds, append(root, "total")...))
	put(gauge(cadvisorMemory, whole.bytes, root...))

	for place, volume := range blockdevices.SystemVolumes(vm) {
		if volume.Name == blockdevices.Ephemeral {
			device := blockdevices.SystemPartition(place)
			put(gauge(filesystemSize, float64(volume.Size), append(root, device)...))
			put(gauge(filesystemUsed, float64(min(c.node.Disk.EphemeralUsed(), volume.Size)), append(root, device)...))
		}
	}

	for _, one := range containers {
		id := fmt.Sprintf("/kubepods/pod%s/%s", one.uid, one.container)
		labels := []string{one.container, id, one.image, one.container, one.namespace, one.pod}
		put(counter(cadvisorCPU, one.seconds, append(labels, "total")...))
		put(gauge(cadvisorMemory, one.bytes, labels...))
		put(gauge(cadvisorLimit, one.limit, labels...))
		put(gauge(cadvisorStart, float64(one.started.UnixNano())/float64(time.Second), labels...))
	}
}
