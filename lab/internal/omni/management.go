package omni

import (
	"context"
	"time"

	"github.com/siderolabs/omni/client/api/omni/management"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// managementServer is what omnictl calls beside the resources. What the lab has no use for answers Unimplemented.
type managementServer struct {
	management.UnimplementedManagementServiceServer

	omni *Omni
}

func expires(lifetime time.Duration) *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Add(lifetime))
}

// ValidateConfig checks a configuration patch as the web page of Omni does.
func (m *managementServer) ValidateConfig(ctx context.Context, request *management.ValidateConfigRequest) (*emptypb.Empty, error) {
	if err := need(ctx, RoleReader); err != nil {
		return nil, err
	}
	if err := omni.ValidateConfigPatch([]byte(request.GetConfig())); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &emptypb.Empty{}, nil
}
