package talosapi

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/machine/kubelet"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/logs"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/machine/services"
)

// simulatedNote is what stands where a container's process would: it is simulated by the lab's own program.
const simulatedNote = "simulated by the lab"

// containerOf is a container as `talosctl containers` and `stats` show it; pid is 0 when the lab simulates it.
type containerOf struct {
	pod, name, image, status string
	pid                      int
	// seconds of CPU and bytes of memory.
	seconds, bytes float64
}

// id is the container's name in Talos' listings.
func (c containerOf) id() string {
	if c.pod == "" {
		return c.name
	}

	return c.pod + ":" + c.name
}

// containers are those of a containerd namespace: Talos' own services, or Kubernetes' pods.
func (b *Machine) containers(namespace string) []containerOf {
	if namespace == constants.SystemContainerdNamespace {
		return b.systemContainers()
	}

	real := map[string]controlplane.StaticPod{}
	for _, pod := range b.ControlPlane.Snapshot() {
		real[pod.Name+"-"+b.Network.Hostname()] = pod
	}

	used, processes := b.Kubelet.Used(), b.Kubelet.Pods.Used()

	var list []containerOf

	for _, pod := range b.Kubelet.PodsNow() {
		name := pod.Namespace + "/" + pod.Name
		list = append(list, containerOf{pod: name, image: "pause", status: "SANDBOX_READY"})

		for _, container := range pod.Status.ContainerStatuses {
			one := containerOf{pod: name, name: container.Name, image: container.Image, status: containerStatus(container)}
			use := used[kubelet.ContainerKey{Pod: pod.UID, Container: container.Name}]
			one.seconds, one.bytes = use.Seconds, use.Bytes

			one.pid = processes[pod.UID][container.Name].PID

			if static, ok := real[pod.Name]; ok && pod.Namespace == kubeapi.SystemNamespace {
				one.pid = static.Process.PID()
			}

			list = append(list, one)
		}
	}

	slices.SortFunc(list, func(a, b containerOf) int { return cmp.Or(cmp.Compare(a.pod, b.pod), cmp.Compare(a.name, b.name)) })

	return list
}

func containerStatus(status corev1.ContainerStatus) string {
	switch {
	case status.State.Running != nil:
		return "CONTAINER_RUNNING"
	case status.State.Terminated != nil:
		return "CONTAINER_EXITED"
	default:
		return "CONTAINER_CREATED"
	}
}

// systemContainers are Talos' services that run in containers. etcd is real, the others are simulated.
func (b *Machine) systemContainers() []containerOf {
	var list []containerOf

	for _, entry := range b.Services.Snapshot() {
		if entry.State != services.StateRunning || !slices.Contains([]string{"apid", "etcd", "kubelet", "trustd"}, entry.ID) {
			continue
		}

		one := containerOf{name: entry.ID, image: simulatedNote, status: "RUNNING"}

		if running := b.Etcd.Running(); entry.ID == "etcd" && running != nil {
			one.pid, one.image = running.PID(), "etcd"
			one.seconds, one.bytes = process.Seconds(one.pid), float64(process.ResidentKiB(one.pid))*1024
		}

		list = append(list, one)
	}

	return list
}

func (*machineService) Containers(ctx context.Context, in *machineapi.ContainersRequest) (*machineapi.ContainersResponse, error) {
	out := &machineapi.Container{}

	for _, one := range at(ctx).containers(in.Namespace) {
		id := one.id()
		if one.pod != "" && one.name == "" {
			id = one.pod
		}

		out.Containers = append(out.Containers, &machineapi.ContainerInfo{
			Namespace: in.Namespace, Id: id, PodId: cmp.Or(one.pod, one.name), Name: cmp.Or(one.name, one.pod), Image: one.image,
			Pid: uint32(one.pid), Status: one.status, //nolint:gosec // a process
		})
	}

	return &machineapi.ContainersResponse{Messages: []*machineapi.Container{out}}, nil
}

func (*machineService) Stats(ctx context.Context, in *machineapi.StatsRequest) (*machineapi.StatsResponse, error) {
	out := &machineapi.Stats{}

	for _, one := range at(ctx).containers(in.Namespace) {
		if one.pod != "" && one.name == "" {
			continue
		}

		out.Stats = append(out.Stats, &machineapi.Stat{
			Namespace: in.Namespace, Id: one.id(), PodId: cmp.Or(one.pod, one.name), Name: one.name,
			MemoryUsage: uint64(one.bytes), CpuUsage: uint64(one.seconds * float64(time.Second)),
		})
	}

	return &machineapi.StatsResponse{Messages: []*machineapi.Stats{out}}, nil
}

// pids are the real processes of the machine: etcd and the control plane.
func (b *Machine) pids() []int {
	var list []int

	if process := b.Etcd.Running(); process != nil {
		list = append(list, process.PID())
	}

	for _, pod := range b.ControlPlane.Snapshot() {
		list = append(list, pod.Process.PID())
	}

	return slices.DeleteFunc(list, func(pid int) bool { return pid == 0 })
}

// Processes are the real ones, and the lab's own program in the place of machined, apid, trustd and the kubelet.
func (*machineService) Processes(ctx context.Context, _ *emptypb.Empty) (*machineapi.ProcessesResponse, error) {
	out := &machineapi.Process{}

	for _, pid := range append([]int{os.Getpid()}, at(ctx).pids()...) {
		info, err := processInfo(pid)
		if err != nil {
			continue // it ended
		}

		if pid == os.Getpid() {
			info.Args = "simulates machined, apid, trustd and the kubelet of every machine of the lab"
		}

		out.Processes = append(out.Processes, info)
	}

	return &machineapi.ProcessesResponse{Messages: []*machineapi.Process{out}}, nil
}

func processInfo(pid int) (*machineapi.ProcessInfo, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return nil, err
	}

	state, err := process.Stat()
	if err != nil {
		return nil, err
	}

	arguments, err := process.CmdLine()
	if err != nil {
		return nil, err
	}

	executable, err := process.Executable()
	if err != nil {
		return nil, err
	}

	return &machineapi.ProcessInfo{
		Pid: int32(pid), Ppid: int32(state.PPID), State: state.State, Threads: int32(state.NumThreads), CpuTime: state.CPUTime(), //nolint:gosec // processes
		VirtualMemory: uint64(state.VirtualMemory()), ResidentMemory: uint64(state.ResidentMemory()), //nolint:gosec // sizes
		Command: state.Comm, Executable: filepath.Base(executable), Args: strings.Join(arguments, " "),
	}, nil
}

// memory is the VM's, which Linux takes up while it runs; what is used is the real processes', the pods' simulated use, and the system's.
func (b *Machine) memory() *machineapi.MemInfo {
	total := uint64(b.Now().MemoryMiB) << 10 //nolint:gosec // a size
	used := min(total, uint64(b.Kubelet.MemoryUsed()/1024))

	return &machineapi.MemInfo{Memtotal: total, Memfree: total - used, Memavailable: total - used}
}

func (*machineService) Memory(ctx context.Context, _ *emptypb.Empty) (*machineapi.MemoryResponse, error) {
	return &machineapi.MemoryResponse{Messages: []*machineapi.Memory{{Meminfo: at(ctx).memory()}}}, nil
}

// images are those that the machine's pods use, and of Talos' services.
func (b *Machine) images() []string {
	var list []string

	for _, pod := range b.Kubelet.PodsNow() {
		for _, container := range pod.Spec.Containers {
			list = append(list, container.Image)
		}
	}

	if provider := b.Provider(); provider != nil && provider.Machine() != nil {
		list = append(list, provider.Machine().Kubelet().Image())
	}

	slices.Sort(list)

	return slices.Compact(list)
}

// List names the images that pods use. Simulated: nothing was pulled, so they have neither digest nor size.
func (*imageService) List(_ *machineapi.ImageServiceListRequest, stream machineapi.ImageService_ListServer) error {
	b := at(stream.Context())

	for _, name := range b.images() {
		if err := stream.Send(&machineapi.ImageServiceListResponse{Name: name, Digest: "simulated", CreatedAt: timestamppb.New(b.Begun)}); err != nil {
			return err
		}
	}

	return nil
}

func (*machineService) ImageList(_ *machineapi.ImageListRequest, stream machineapi.MachineService_ImageListServer) error {
	b := at(stream.Context())

	for _, name := range b.images() {
		if err := stream.Send(&machineapi.ImageListResponse{Name: name, Digest: "simulated", CreatedAt: timestamppb.New(b.Begun)}); err != nil {
			return err
		}
	}

	return nil
}

func (*machineService) ImagePull(ctx context.Context, in *machineapi.ImagePullRequest) (*machineapi.ImagePullResponse, error) {
	if err := at(ctx).pull(ctx, in.Reference); err != nil {
		return nil, err
	}

	return &machineapi.ImagePullResponse{Messages: []*machineapi.ImagePull{{}}}, nil
}

// Dmesg is the kernel's log. Simulated: a machine has no kernel of its own, so it holds the lines that Talos itself writes
// there, those of machined since the boot.
func (*machineService) Dmesg(in *machineapi.DmesgRequest, stream machineapi.MachineService_DmesgServer) error {
	b := at(stream.Context())
	send := func(text string, at time.Time) error {
		_, err := fmt.Fprintf(chunkWriter(stream.Send), "%s: %7s: [%s]: %s\n", "user", "warning", at.Format(time.RFC3339Nano), text)

		return err
	}

	if !in.Tail {
		if err := send("[lab] a simulated machine: no kernel of its own, only what Talos wrote since its boot", b.Begun.UTC()); err != nil {
			return err
		}
	}

	log := &logs.Tail{Path: b.Disk.Log("machined")}
	if in.Tail {
		log = logs.NewTail(log.Path)
	}

	for {
		lines := log.Read()

		for _, line := range lines {
			parsed := logs.Parse(line, time.Now().UTC())
			if parsed.At.Before(b.Begun) {
				continue // an earlier boot's
			}

			if err := send(parsed.KernelText(), parsed.At); err != nil {
				return err
			}
		}

		if len(lines) > 0 {
			continue
		}

		if !in.Follow || stream.Context().Err() != nil || !b.Sleep(lifetime.Tick) {
			return nil //nolint:nilerr // the reader went
		}
	}
}
