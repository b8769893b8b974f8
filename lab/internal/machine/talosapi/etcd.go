package talosapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/etcd"
)

func (*machineService) EtcdMemberList(ctx context.Context, in *machineapi.EtcdMemberListRequest) (*machineapi.EtcdMemberListResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("member list"); err != nil {
		return nil, err
	}

	connect := b.Etcd.Cluster
	if in.QueryLocal {
		connect = b.Etcd.Local
	}

	client, err := connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), etcd.MemberTimeout)
	defer cancel()

	list, err := client.MemberList(ctx)
	if err != nil {
		return nil, err
	}

	out := &machineapi.EtcdMembers{}
	for _, member := range list.Members {
		out.LegacyMembers = append(out.LegacyMembers, member.Name)
		out.Members = append(out.Members, &machineapi.EtcdMember{
			Id: member.ID, Hostname: member.Name, PeerUrls: member.PeerURLs, ClientUrls: member.ClientURLs, IsLearner: member.IsLearner,
		})
	}

	return &machineapi.EtcdMemberListResponse{Messages: []*machineapi.EtcdMembers{out}}, nil
}

func (*machineService) EtcdStatus(ctx context.Context, _ *emptypb.Empty) (*machineapi.EtcdStatusResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("etcd status"); err != nil {
		return nil, err
	}

	client, err := b.Etcd.Local()
	if err != nil {
		return nil, err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, etcd.MemberTimeout)
	defer cancel()

	answer, err := client.Status(ctx, etcd.LocalURL())
	if err != nil {
		return nil, fmt.Errorf("failed to query etcd status: %w", err)
	}

	return &machineapi.EtcdStatusResponse{Messages: []*machineapi.EtcdStatus{{MemberStatus: &machineapi.EtcdMemberStatus{
		MemberId: answer.Header.MemberId, ProtocolVersion: answer.Version, StorageVersion: answer.StorageVersion,
		DbSize: answer.DbSize, DbSizeInUse: answer.DbSizeInUse, Leader: answer.Leader, RaftIndex: answer.RaftIndex,
		RaftTerm: answer.RaftTerm, RaftAppliedIndex: answer.RaftAppliedIndex, Errors: answer.Errors, IsLearner: answer.IsLearner,
	}}}}, nil
}

func (*machineService) EtcdRemoveMemberByID(ctx context.Context, in *machineapi.EtcdRemoveMemberByIDRequest) (*machineapi.EtcdRemoveMemberByIDResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("etcd remove member"); err != nil {
		return nil, err
	}

	client, err := b.Etcd.Cluster()
	if err != nil {
		return nil, err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), etcd.MemberTimeout)
	defer cancel()

	if _, err := client.MemberRemove(ctx, in.MemberId); errors.Is(err, rpctypes.ErrMemberNotFound) {
		return nil, status.Error(codes.NotFound, err.Error())
	} else if err != nil {
		return nil, fmt.Errorf("failed to remove member: %w", err)
	}

	return &machineapi.EtcdRemoveMemberByIDResponse{Messages: []*machineapi.EtcdRemoveMemberByID{{}}}, nil
}

func (*machineService) EtcdLeaveCluster(ctx context.Context, _ *machineapi.EtcdLeaveClusterRequest) (*machineapi.EtcdLeaveClusterResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("etcd leave"); err != nil {
		return nil, err
	}

	if err := b.Etcd.Leave(ctx); err != nil {
		return nil, fmt.Errorf("failed to leave cluster: %w", err)
	}

	return &machineapi.EtcdLeaveClusterResponse{Messages: []*machineapi.EtcdLeaveCluster{{}}}, nil
}

// EtcdForfeitLeadership moves the leadership to another member, if this machine has it.
func (*machineService) EtcdForfeitLeadership(ctx context.Context, _ *machineapi.EtcdForfeitLeadershipRequest) (*machineapi.EtcdForfeitLeadershipResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("etcd forfeit leadership"); err != nil {
		return nil, err
	}

	leader, err := b.Etcd.ForfeitLeadership(ctx)
	if err != nil {
		return nil, fmt.Errorf("failed to forfeit leadership: %w", err)
	}

	return &machineapi.EtcdForfeitLeadershipResponse{Messages: []*machineapi.EtcdForfeitLeadership{{Member: leader}}}, nil
}

func (*machineService) EtcdSnapshot(_ *machineapi.EtcdSnapshotRequest, stream machineapi.MachineService_EtcdSnapshotServer) error {
	b := at(stream.Context())
	if err := b.needControlPlane("etcd snapshot"); err != nil {
		return err
	}

	client, err := b.Etcd.Local()
	if err != nil {
		return err
	}
	defer client.Close()

	reader, err := client.Snapshot(stream.Context())
	if err != nil {
		return fmt.Errorf("failed reading etcd snapshot: %w", err)
	}
	defer reader.Close()

	buffer := make([]byte, 64<<10)

	for {
		length, err := reader.Read(buffer)
		if length > 0 {
			if err := stream.Send(&common.Data{Bytes: append([]byte(nil), buffer[:length]...)}); err != nil {
				return err
			}
		}

		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// EtcdRecover takes a snapshot for a bootstrap that recovers from it.
func (*machineService) EtcdRecover(stream machineapi.MachineService_EtcdRecoverServer) error {
	b := at(stream.Context())
	if !b.Services.IsUp("cri") {
		return status.Error(codes.FailedPrecondition, "etcd service is not ready for recovery yet")
	}

	if err := b.needControlPlane("etcd recover"); err != nil {
		return err
	}

	path := b.Disk.Path(disk.RecoveryFile)

	if err := receiveFile(stream, path); err != nil {
		return errors.Join(err, os.RemoveAll(path))
	}

	return stream.SendAndClose(&machineapi.EtcdRecoverResponse{Messages: []*machineapi.EtcdRecover{{}}})
}

func receiveFile(stream machineapi.MachineService_EtcdRecoverServer, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("error creating etcd recovery snapshot: %w", err)
	}
	defer file.Close()

	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return file.Close()
		} else if err != nil {
			return err
		}

		if _, err := file.Write(message.Bytes); err != nil {
			return fmt.Errorf("error writing snapshot: %w", err)
		}
	}
}

func (*machineService) EtcdAlarmList(ctx context.Context, _ *emptypb.Empty) (*machineapi.EtcdAlarmListResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("etcd alarm list"); err != nil {
		return nil, err
	}

	client, err := b.Etcd.Local()
	if err != nil {
		return nil, err
	}
	defer client.Close()

	answer, err := client.AlarmList(ctx)
	if err != nil {
		return nil, fmt.Errorf("failed to list etcd alarms: %w", err)
	}

	out := &machineapi.EtcdAlarm{}
	for _, alarm := range answer.Alarms {
		out.MemberAlarms = append(out.MemberAlarms, &machineapi.EtcdMemberAlarm{
			MemberId: alarm.MemberID, Alarm: machineapi.EtcdMemberAlarm_AlarmType(alarm.Alarm),
		})
	}

	return &machineapi.EtcdAlarmListResponse{Messages: []*machineapi.EtcdAlarm{out}}, nil
}

// localEtcd calls the machine's own etcd for an operator.
func localEtcd(ctx context.Context, call string, do func(context.Context, *clientv3.Client) error) error {
	b := at(ctx)
	if err := b.needControlPlane(call); err != nil {
		return err
	}

	client, err := b.Etcd.Local()
	if err != nil {
		return err
	}
	defer client.Close()

	if err := do(ctx, client); err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}

	return nil
}

func (*machineService) EtcdAlarmDisarm(ctx context.Context, _ *emptypb.Empty) (*machineapi.EtcdAlarmDisarmResponse, error) {
	out := &machineapi.EtcdAlarmDisarm{}

	err := localEtcd(ctx, "etcd alarm disarm", func(ctx context.Context, client *clientv3.Client) error {
		answer, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
		if err != nil {
			return err
		}

		for _, alarm := range answer.Alarms {
			out.MemberAlarms = append(out.MemberAlarms, &machineapi.EtcdMemberAlarm{
				MemberId: alarm.MemberID, Alarm: machineapi.EtcdMemberAlarm_AlarmType(alarm.Alarm),
			})
		}

		return nil
	})
	if err != nil {
		return nil, err
	}

	return &machineapi.EtcdAlarmDisarmResponse{Messages: []*machineapi.EtcdAlarmDisarm{out}}, nil
}

func (*machineService) EtcdDefragment(ctx context.Context, _ *emptypb.Empty) (*machineapi.EtcdDefragmentResponse, error) {
	err := localEtcd(ctx, "etcd defragment", func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Defragment(ctx, etcd.LocalURL())

		return err
	})
	if err != nil {
		return nil, err
	}

	return &machineapi.EtcdDefragmentResponse{Messages: []*machineapi.EtcdDefragment{{}}}, nil
}
