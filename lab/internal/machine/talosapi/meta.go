package talosapi

import (
	"context"
	"math"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MetaWrite and MetaDelete follow Talos 1.13.9 (internal/server/v1alpha1/v1alpha1_meta.go): same checks and messages.

func (*machineService) MetaWrite(ctx context.Context, in *machineapi.MetaWriteRequest) (*machineapi.MetaWriteResponse, error) {
	key, err := metaKey(in.Key)
	if err != nil {
		return nil, err
	}

	fits, err := at(ctx).Meta.Set(key, string(in.Value))
	if err != nil {
		return nil, err
	}

	if !fits {
		return nil, status.Error(codes.ResourceExhausted, "meta write failed")
	}

	return &machineapi.MetaWriteResponse{Messages: []*machineapi.MetaWrite{{}}}, nil
}

func (*machineService) MetaDelete(ctx context.Context, in *machineapi.MetaDeleteRequest) (*machineapi.MetaDeleteResponse, error) {
	key, err := metaKey(in.Key)
	if err != nil {
		return nil, err
	}

	found, err := at(ctx).Meta.Delete(key)
	if err != nil {
		return nil, err
	}

	if !found {
		return nil, status.Error(codes.NotFound, "meta key not found")
	}

	return &machineapi.MetaDeleteResponse{Messages: []*machineapi.MetaDelete{{}}}, nil
}

func metaKey(key uint32) (uint8, error) {
	if key > math.MaxUint8 {
		return 0, status.Error(codes.InvalidArgument, "key must be a uint8")
	}

	return uint8(key), nil
}
