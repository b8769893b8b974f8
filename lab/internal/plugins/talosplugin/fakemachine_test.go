package talosplugin

// A tiny machine API on loopback: maintenance mode first, mutual TLS after the first configuration.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	storageapi "github.com/siderolabs/talos/pkg/machinery/api/storage"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

type fakeMachine struct {
	machineapi.UnimplementedMachineServiceServer
	storageapi.UnimplementedStorageServiceServer

	address string

	mu      sync.Mutex
	tls     *tls.Config
	calls   []string
	applied []*machineapi.ApplyConfigurationRequest
	nodes   []string

	// bootstraps are the answers to come; the last one stays.
	bootstraps []error
	kubeconfig []byte
	resets     []*machineapi.ResetRequest
	bootID     string
	stopped    chan struct{}
}

// startMachine starts a machine in maintenance mode; it ends with the test.
func startMachine(t *testing.T) *fakeMachine {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	m := &fakeMachine{address: listener.Addr().String(), bootID: "first-boot", stopped: make(chan struct{}), bootstraps: []error{nil}}
	m.enterMaintenance(t)

	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m.mu.Lock()
			defer m.mu.Unlock()

			return m.tls, nil
		},
	})))
	machineapi.RegisterMachineServiceServer(server, m)
	storageapi.RegisterStorageServiceServer(server, m)

	go server.Serve(listener) //nolint:errcheck

	t.Cleanup(server.Stop)

	return m
}

func (m *fakeMachine) enterMaintenance(t *testing.T) {
	t.Helper()

	ca, err := x509.NewSelfSignedCertificateAuthority()
	if err != nil {
		t.Fatal(err)
	}

	config, err := serverTLS(ca)
	if err != nil {
		t.Fatal(err)
	}

	m.mu.Lock()
	defer m.mu.Unlock()

	m.tls = config
}

func serverTLS(ca *x509.CertificateAuthority) (*tls.Config, error) {
	pair, err := x509.NewKeyPair(ca, x509.IPAddresses([]net.IP{net.IPv4(127, 0, 0, 1)}))
	if err != nil {
		return nil, err
	}

	return &tls.Config{Certificates: []tls.Certificate{*pair.Certificate}, NextProtos: []string{"h2"}}, nil
}

// configure takes the CA of the configuration and asks for client certificates from now on.
func (m *fakeMachine) configure(data []byte) error {
	config, err := configloader.NewFromBytes(data)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}

	ca, err := x509.NewCertificateAuthorityFromCertificateAndKey(config.Machine().Security().IssuingCA())
	if err != nil {
		return err
	}

	if m.tls, err = serverTLS(ca); err != nil {
		return err
	}

	m.tls.ClientAuth = tls.RequireAndVerifyClientCert
	m.tls.ClientCAs = stdx509.NewCertPool()
	m.tls.ClientCAs.AddCert(ca.Crt)

	return nil
}

func (m *fakeMachine) record(ctx context.Context, call string) {
	m.calls = append(m.calls, call)

	if md, ok := metadata.FromIncomingContext(ctx); ok {
		m.nodes = append(m.nodes, md.Get("node")...)
	}
}

func (m *fakeMachine) called() []string {
	m.mu.Lock()
	defer m.mu.Unlock()

	return append([]string(nil), m.calls...)
}

func (m *fakeMachine) Disks(ctx context.Context, _ *emptypb.Empty) (*storageapi.DisksResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record(ctx, "Disks")

	return &storageapi.DisksResponse{}, nil
}

func (m *fakeMachine) ApplyConfiguration(ctx context.Context, r *machineapi.ApplyConfigurationRequest) (*machineapi.ApplyConfigurationResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()

	answer := machineapi.ApplyConfigurationRequest_NO_REBOOT
	if strings.Contains(string(r.GetData()), "needs-reboot") {
		answer = machineapi.ApplyConfigurationRequest_REBOOT
	}

	if r.GetDryRun() {
		m.record(ctx, "ApplyConfiguration dry run")
	} else {
		m.record(ctx, "ApplyConfiguration "+r.GetMode().String())
		m.applied = append(m.applied, r)

		if err := m.configure(r.GetData()); err != nil {
			return nil, err
		}
	}

	return &machineapi.ApplyConfigurationResponse{Messages: []*machineapi.ApplyConfiguration{{Mode: answer}}}, nil
}

func (m *fakeMachine) Bootstrap(ctx context.Context, _ *machineapi.BootstrapRequest) (*machineapi.BootstrapResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record(ctx, "Bootstrap")

	err := m.bootstraps[0]
	if len(m.bootstraps) > 1 {
		m.bootstraps = m.bootstraps[1:]
	}

	return &machineapi.BootstrapResponse{}, err
}

func (m *fakeMachine) Kubeconfig(_ *emptypb.Empty, stream grpc.ServerStreamingServer[common.Data]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record(stream.Context(), "Kubeconfig")

	var archive bytes.Buffer

	compressed := gzip.NewWriter(&archive)
	files := tar.NewWriter(compressed)

	files.WriteHeader(&tar.Header{Name: "kubeconfig", Size: int64(len(m.kubeconfig)), Mode: 0o600}) //nolint:errcheck // into memory
	files.Write(m.kubeconfig)                                                                       //nolint:errcheck
	files.Close()
	compressed.Close()

	return stream.Send(&common.Data{Bytes: archive.Bytes()})
}

func (m *fakeMachine) Version(ctx context.Context, _ *emptypb.Empty) (*machineapi.VersionResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record(ctx, "Version")

	return &machineapi.VersionResponse{}, nil
}

func (m *fakeMachine) Events(_ *machineapi.EventsRequest, stream grpc.ServerStreamingServer[machineapi.Event]) error {
	if err := stream.Send(&machineapi.Event{}); err != nil {
		return err
	}

	select {
	case <-m.stopped:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}

	payload, err := anypb.New(&machineapi.TaskEvent{Task: stopTask})
	if err != nil {
		return err
	}

	payload.TypeUrl = "talos/runtime/" + string(payload.MessageName())
	if err := stream.Send(&machineapi.Event{Data: payload}); err != nil {
		return err
	}

	<-stream.Context().Done()

	return nil
}

func (m *fakeMachine) Read(_ *machineapi.ReadRequest, stream grpc.ServerStreamingServer[common.Data]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record(stream.Context(), "Read")

	return stream.Send(&common.Data{Bytes: []byte(m.bootID + "\n")})
}

func (m *fakeMachine) Reset(ctx context.Context, r *machineapi.ResetRequest) (*machineapi.ResetResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record(ctx, "Reset")
	m.resets = append(m.resets, r)
	m.bootID = "second-boot"
	close(m.stopped)

	return &machineapi.ResetResponse{Messages: []*machineapi.Reset{{ActorId: "actor"}}}, nil
}
