package talosapi

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/state"
	cosiserver "github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/siderolabs/talos/pkg/machinery/api/cluster"
	"github.com/siderolabs/talos/pkg/machinery/api/storage"
	timeapi "github.com/siderolabs/talos/pkg/machinery/api/time"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"platform.lab/lab/internal/machine/blockdevices"
	"platform.lab/lab/internal/machine/resources"
	"platform.lab/lab/internal/simulated"
)

// stateService serves a machine's COSI resources for reading: what `talosctl get` shows.
type stateService struct {
	v1alpha1.UnimplementedStateServer
}

func (b *Machine) stateServer() *cosiserver.State {
	return cosiserver.NewState(state.WrapCore(state.Filter(b.Resources.State, accessPolicy(b.Resources.State))))
}

func (*stateService) Get(ctx context.Context, in *v1alpha1.GetRequest) (*v1alpha1.GetResponse, error) {
	return at(ctx).stateServer().Get(ctx, in)
}

func (*stateService) List(in *v1alpha1.ListRequest, stream v1alpha1.State_ListServer) error {
	if resources.IsUnkept(in.GetType()) {
		return status.Error(codes.Unimplemented, simulated.Resource(in.GetType()))
	}

	return at(stream.Context()).stateServer().List(in, stream)
}

func (*stateService) Watch(in *v1alpha1.WatchRequest, stream v1alpha1.State_WatchServer) error {
	return at(stream.Context()).stateServer().Watch(in, stream)
}

type storageService struct {
	storage.UnimplementedStorageServiceServer
}

func (*storageService) Disks(ctx context.Context, _ *emptypb.Empty) (*storage.DisksResponse, error) {
	out := &storage.Disks{}

	for _, device := range at(ctx).Resources.Devices.List() {
		out.Disks = append(out.Disks, &storage.Disk{
			DeviceName: device.Path(), Size: device.Bytes(), Wwid: device.WWID(), BusPath: device.BusPath(),
			Model: "Virtual disk", Type: storage.Disk_SSD, SystemDisk: device.Name == blockdevices.SystemDisk,
		})
	}

	return &storage.DisksResponse{Messages: []*storage.Disks{out}}, nil
}

type timeService struct {
	timeapi.UnimplementedTimeServiceServer
}

func (*timeService) Time(context.Context, *emptypb.Empty) (*timeapi.TimeResponse, error) {
	now := timestamppb.Now()

	return &timeapi.TimeResponse{Messages: []*timeapi.Time{{Server: "simulated", Localtime: now, Remotetime: now}}}, nil
}

// clusterService is the health check that runs on a machine (talosctl health).
type clusterService struct {
	cluster.UnimplementedClusterServiceServer
}

// HealthCheck waits until every machine of the cluster runs and is ready, and says what it waits for.
// Simulated: it reads the machines' own readiness, where Talos asks etcd, the services and Kubernetes one by one.
func (*clusterService) HealthCheck(in *cluster.HealthCheckRequest, stream cluster.ClusterService_HealthCheckServer) error {
	b := at(stream.Context())

	ctx, cancel := context.WithTimeout(stream.Context(), in.WaitTimeout.AsDuration())
	defer cancel()

	last := ""

	for {
		problems := b.health()

		line := "all machines of the cluster are ready: OK"
		if len(problems) > 0 {
			line = "waiting for all machines of the cluster to be ready: " + strings.Join(problems, "; ")
		}

		if line != last {
			if err := stream.Send(&cluster.HealthCheckProgress{Message: line}); err != nil {
				return err
			}

			last = line
		}

		if len(problems) == 0 {
			return nil
		}

		select {
		case <-ctx.Done():
			return status.Error(codes.DeadlineExceeded, line)
		case <-b.Context().Done():
			return status.Error(codes.Unavailable, "the machine lost its power")
		case <-time.After(time.Second):
		}
	}
}

// health are the problems of all machines of a machine's cluster, as that machine sees them.
func (b *Machine) health() []string {
	var problems []string

	all := b.All()

	for _, member := range b.Discovery.Members(b.Provider().Cluster().ID()) {
		at := slices.IndexFunc(all, func(other *Machine) bool { return other.Hardware.ID == member.NodeID })
		if at < 0 || !b.canReach(all[at]) {
			problems = append(problems, member.Hostname+": does not answer")

			continue
		}

		for _, condition := range all[at].Resources.UnmetConditions() {
			problems = append(problems, fmt.Sprintf("%s: %s: %s", member.Hostname, condition.Name, condition.Reason))
		}
	}

	return problems
}
