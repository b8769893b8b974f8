package talosapi

import (
	"context"
	"strings"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	talossecrets "github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// GenerateClientConfiguration makes a talosconfig with the asked roles (talosctl config new).
func (*machineService) GenerateClientConfiguration(
	ctx context.Context, in *machineapi.GenerateClientConfigurationRequest,
) (*machineapi.GenerateClientConfigurationResponse, error) {
	b := at(ctx)
	if err := b.needControlPlane("generate client configuration"); err != nil {
		return nil, err
	}

	lifetime := in.CrtTtl.AsDuration()
	if lifetime <= 0 {
		return nil, status.Error(codes.InvalidArgument, "crt_ttl should be positive")
	}

	provider := b.Provider()
	asked, _ := role.Parse(in.Roles)
	bundle := talossecrets.NewBundleFromConfig(talossecrets.NewFixedClock(time.Now()), provider)

	certificate, err := bundle.GenerateTalosAPIClientCertificateWithTTL(asked, lifetime)
	if err != nil {
		return nil, err
	}

	name := provider.Cluster().Name()
	if list := asked.Strings(); len(list) == 1 {
		name = strings.TrimPrefix(list[0], role.Prefix) + "@" + name
	}

	data, err := clientconfig.NewConfig(name, nil, bundle.Certs.OS.Crt, certificate).Bytes()
	if err != nil {
		return nil, err
	}

	return &machineapi.GenerateClientConfigurationResponse{Messages: []*machineapi.GenerateClientConfiguration{{
		Ca: bundle.Certs.OS.Crt, Crt: certificate.Crt, Key: certificate.Key, Talosconfig: data,
	}}}, nil
}
