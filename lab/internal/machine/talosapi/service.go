package talosapi

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/logs"
	"platform.lab/lab/internal/simulated"
)

// machineService is Talos' machine.MachineService; every call is for the machine in its context.
type machineService struct {
	machineapi.UnimplementedMachineServiceServer
}

func (*machineService) ApplyConfiguration(ctx context.Context, in *machineapi.ApplyConfigurationRequest) (*machineapi.ApplyConfigurationResponse, error) {
	message, err := at(ctx).applyConfiguration(ctx, in, rolesOf(ctx))
	if err != nil {
		return nil, err
	}

	return &machineapi.ApplyConfigurationResponse{Messages: []*machineapi.ApplyConfiguration{message}}, nil
}

func (*machineService) Version(ctx context.Context, _ *emptypb.Empty) (*machineapi.VersionResponse, error) {
	b := at(ctx)
	message := &machineapi.Version{
		Version:  &machineapi.VersionInfo{Tag: b.System.TalosVersion(), Sha: "simulated", Os: "linux", Arch: "amd64"},
		Platform: &machineapi.PlatformInfo{Name: "vmware", Mode: configuration.VMwareMode{}.String()},
	}

	if !b.InMaintenance() {
		message.Features = &machineapi.FeaturesInfo{Rbac: true}
	}

	return &machineapi.VersionResponse{Messages: []*machineapi.Version{message}}, nil
}

// Bootstrap begins the etcd cluster on this machine.
func (*machineService) Bootstrap(ctx context.Context, in *machineapi.BootstrapRequest) (*machineapi.BootstrapResponse, error) {
	b := at(ctx)
	if !b.Services.IsUp("cri") {
		return nil, status.Error(codes.FailedPrecondition, "bootstrap is not available yet")
	}

	if err := b.needControlPlane("bootstrap"); err != nil {
		return nil, err
	}

	if b.Etcd.HasData() {
		return nil, status.Error(codes.AlreadyExists, "etcd data directory is not empty")
	}

	if err := b.Etcd.Bootstrap(etcd.BootstrapRequest{Recover: in.RecoverEtcd, SkipHashCheck: in.RecoverSkipHashCheck}); err != nil {
		return nil, err
	}

	return &machineapi.BootstrapResponse{Messages: []*machineapi.Bootstrap{{}}}, nil
}

// needControlPlane refuses a call on a worker, in Talos' words.
func (b *Machine) needControlPlane(call string) error {
	if b.Provider() == nil {
		return status.Error(codes.FailedPrecondition, "the machine has no configuration")
	}

	if !b.IsControlPlane() {
		return status.Errorf(codes.Unimplemented, "%s is only available on control plane nodes", call)
	}

	return nil
}

// Kubeconfig sends the administrator's kubeconfig as a tar.gz.
func (*machineService) Kubeconfig(_ *emptypb.Empty, stream machineapi.MachineService_KubeconfigServer) error {
	b := at(stream.Context())
	if err := b.needControlPlane("kubeconfig"); err != nil {
		return err
	}

	cluster := b.Provider().Cluster()
	admin := cluster.AdminKubeconfig()

	data, err := certificates.Kubeconfig(cluster, cluster.Endpoint().String(), certificates.Request{
		CommonName: admin.CommonName(), Organizations: []string{admin.CertOrganization()}, Usage: certificates.ForClient, Lifetime: admin.CertLifetime(),
	})
	if err != nil {
		return err
	}

	archive, err := tarball("kubeconfig", data)
	if err != nil {
		return err
	}

	return stream.Send(&common.Data{Bytes: archive})
}

func tarball(name string, data []byte) ([]byte, error) {
	var buffer bytes.Buffer

	compressed := gzip.NewWriter(&buffer)
	archive := tar.NewWriter(compressed)

	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), ModTime: time.Now(), Mode: 0o600}); err != nil {
		return nil, err
	}

	if _, err := archive.Write(data); err != nil {
		return nil, err
	}

	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return nil, err
	}

	return buffer.Bytes(), nil
}

func (*machineService) ServiceList(ctx context.Context, _ *emptypb.Empty) (*machineapi.ServiceListResponse, error) {
	list := &machineapi.ServiceList{}
	for _, entry := range at(ctx).Services.Snapshot() {
		list.Services = append(list.Services, entry.Proto())
	}

	return &machineapi.ServiceListResponse{Messages: []*machineapi.ServiceList{list}}, nil
}

// ServiceRestart restarts etcd or what the kubelet knows of the machine; Talos allows it for some services only.
func (*machineService) ServiceRestart(ctx context.Context, in *machineapi.ServiceRestartRequest) (*machineapi.ServiceRestartResponse, error) {
	b := at(ctx)

	switch {
	case b.Services.State(in.Id) == "":
		return nil, fmt.Errorf("service %q not defined", in.Id)
	case in.Id == "etcd" && b.Etcd.Running() != nil:
		b.Etcd.Running().Restart()
	case in.Id == "kubelet":
		b.Kubelet.Restart()
	default:
		return nil, fmt.Errorf("service %q doesn't support restart operation via API", in.Id)
	}

	return &machineapi.ServiceRestartResponse{Messages: []*machineapi.ServiceRestart{{Resp: fmt.Sprintf("Service %q restarted", in.Id)}}}, nil
}

func (*machineService) Hostname(ctx context.Context, _ *emptypb.Empty) (*machineapi.HostnameResponse, error) {
	return &machineapi.HostnameResponse{Messages: []*machineapi.Hostname{{Hostname: at(ctx).Network.Hostname()}}}, nil
}

func (*machineService) Events(in *machineapi.EventsRequest, stream machineapi.MachineService_EventsServer) error {
	b := at(stream.Context())

	// The first event is empty: the stream has begun.
	if err := stream.Send(&machineapi.Event{Metadata: &common.Metadata{}}); err != nil {
		return err
	}

	watcher, stop := b.Events.Watch(int(in.TailEvents))
	defer stop()

	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-b.Context().Done():
			return nil
		case event := <-watcher:
			if in.WithActorId != "" && in.WithActorId != event.ActorId {
				continue
			}

			if err := stream.Send(&machineapi.Event{Metadata: &common.Metadata{}, Data: event.Data, Id: event.Id, ActorId: event.ActorId}); err != nil {
				return err
			}
		}
	}
}

// Logs sends the log of a program, and goes on when asked to follow.
func (*machineService) Logs(in *machineapi.LogsRequest, stream machineapi.MachineService_LogsServer) error {
	b := at(stream.Context())

	path, err := b.logFile(in.Id)
	if err != nil {
		return err
	}

	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("log %q was not registered", in.Id)
	}
	defer file.Close()

	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}

	if in.TailLines >= 0 {
		lines := bytes.SplitAfter(data, []byte("\n"))
		data = bytes.Join(lines[max(0, len(lines)-1-int(in.TailLines)):], nil)
	}

	for {
		for chunk := range slices.Chunk(data, 64<<10) {
			if err := stream.Send(&common.Data{Bytes: chunk}); err != nil {
				return err
			}
		}

		if !in.Follow || stream.Context().Err() != nil || !b.Sleep(lifetime.Tick) {
			return nil
		}

		if data, err = io.ReadAll(file); err != nil {
			return err
		}
	}
}

// logFile finds the log of a service, or of a container "namespace/pod:container:hash".
func (b *Machine) logFile(id string) (string, error) {
	for _, name := range append([]string{controlplane.APIServer, controlplane.ControllerManager, controlplane.Scheduler}, logs.Shipped...) {
		if id == name || strings.Contains(id, "/"+name+"-") {
			return b.Disk.Log(name), nil
		}
	}

	// The hash at its end tells containers of one name apart; here a pod's name does.
	if parts := strings.Split(id, ":"); len(parts) > 1 {
		for _, pod := range b.Kubelet.PodsNow() {
			if source := b.Kubelet.Pods.LogFile(&pod, parts[1], false); parts[0] == pod.Namespace+"/"+pod.Name && source != "" {
				return source, nil
			}
		}
	}

	if slices.Contains(simulatedServices, id) {
		return "", status.Error(codes.Unimplemented, simulated.Log(id))
	}

	return "", fmt.Errorf("log %q was not registered", id)
}

// simulatedServices are Talos' services that do nothing here which they could log.
var simulatedServices = []string{"apid", "auditd", "containerd", "cri", "dashboard", "syslogd", "trustd", "udevd"}

func (*machineService) LogsContainers(ctx context.Context, _ *emptypb.Empty) (*machineapi.LogsContainersResponse, error) {
	files, err := filepath.Glob(at(ctx).Disk.Path(disk.LogsFolder, "*.log"))
	if err != nil {
		return nil, err
	}

	var names []string
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".log"))
	}

	return &machineapi.LogsContainersResponse{Messages: []*machineapi.LogsContainer{{Ids: names}}}, nil
}

func (*machineService) Reboot(ctx context.Context, _ *machineapi.RebootRequest) (*machineapi.RebootResponse, error) {
	actor := uuid.NewString()
	at(ctx).System.Reboot(actor)

	return &machineapi.RebootResponse{Messages: []*machineapi.Reboot{{ActorId: actor}}}, nil
}

func (*machineService) Shutdown(ctx context.Context, _ *machineapi.ShutdownRequest) (*machineapi.ShutdownResponse, error) {
	actor := uuid.NewString()
	at(ctx).System.Shutdown(actor)

	return &machineapi.ShutdownResponse{Messages: []*machineapi.Shutdown{{ActorId: actor}}}, nil
}

// Reset wipes the named partitions, or the whole system disk.
func (*machineService) Reset(ctx context.Context, in *machineapi.ResetRequest) (*machineapi.ResetResponse, error) {
	b := at(ctx)

	var labels []string

	for _, partition := range in.SystemPartitionsToWipe {
		if _, err := b.Resources.State.Get(ctx, block.NewVolumeStatus(block.NamespaceName, partition.Label).Metadata()); err != nil {
			return nil, fmt.Errorf("failed to get volume status with label %q: %w", partition.Label, err)
		}

		if partition.Wipe {
			labels = append(labels, partition.Label)
		}
	}

	actor := uuid.NewString()
	b.System.Reset(actor, in.Graceful, in.Reboot, labels)

	return &machineapi.ResetResponse{Messages: []*machineapi.Reset{{ActorId: actor}}}, nil
}

// Upgrade is the older call (talosctl upgrade --legacy): install and reboot in one.
func (*machineService) Upgrade(ctx context.Context, in *machineapi.UpgradeRequest) (*machineapi.UpgradeResponse, error) {
	b := at(ctx)

	image, err := b.checkUpgrade(ctx, in.Image, in.Force || in.Preserve)
	if err != nil {
		return nil, err
	}

	actor := uuid.NewString()
	b.System.Upgrade(actor, image, in.Stage)

	return &machineapi.UpgradeResponse{Messages: []*machineapi.Upgrade{{Ack: "Upgrade request received", ActorId: actor}}}, nil
}

func (*machineService) Rollback(ctx context.Context, _ *machineapi.RollbackRequest) (*machineapi.RollbackResponse, error) {
	if err := at(ctx).System.Rollback(); err != nil {
		return nil, err
	}

	return &machineapi.RollbackResponse{Messages: []*machineapi.Rollback{{}}}, nil
}
