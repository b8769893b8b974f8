package talosapi

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/simulated"
)

// explained turns gRPC's own "method X not implemented" into a sentence for people. What this package refuses
// itself, as Talos does on a worker, stays.
func explained(method string, err error) error {
	if answer := status.Convert(err); answer.Code() == codes.Unimplemented && strings.HasPrefix(answer.Message(), "method ") {
		return status.Error(codes.Unimplemented, simulated.Method(method))
	}

	return err
}

// unknownService answers for the services of Talos that no machine here registers.
func unknownService(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)

	return status.Error(codes.Unimplemented, simulated.Method(method))
}
