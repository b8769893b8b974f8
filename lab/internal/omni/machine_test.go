package omni

import (
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/impl/inmem"
	"github.com/cosi-project/runtime/pkg/state/impl/namespaced"
	cosiserver "github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/siderolabs/crypto/x509"
	pb "github.com/siderolabs/siderolink/api/siderolink"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wgbind"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wggrpc"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/api/storage"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/meta"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"platform.lab/lab/internal/machine/isolated"
	labnetwork "platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
)

// TestMain runs the tests in namespaces of their own: WireGuard makes interfaces.
func TestMain(m *testing.M) {
	if os.Getenv(isolated.Variable) != "" {
		// wireguard-go keeps its sockets below /run.
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	isolated.Main(m)
}

// site is a network with machines that join a simulated Omni through the gRPC tunnel.
type site struct {
	*served

	machineAPI string
	bridge     *labnetwork.Bridge
	token      string
	etcd       *fakeEtcd
	machines   int
}

func newSite(t *testing.T, prepare ...func(*Omni)) *site {
	t.Helper()
	s := serve(t, testOptions(""), append(prepare, func(o *Omni) { o.settle = time.Second })...)
	token, err := s.NewJoinToken(t.Context(), "test", 0)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.ServeMachines(ctx, listener, netip.MustParseAddrPort("127.0.0.1:50180")) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	bridge, err := labnetwork.NewBridge("lab0", netip.MustParsePrefix("192.0.2.254/24"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bridge.Close()) })
	return &site{served: s, machineAPI: listener.Addr().String(), bridge: bridge, token: token, etcd: &fakeEtcd{}}
}

// fakeEtcd is the etcd that the machines of a site share.
type fakeEtcd struct {
	mu        sync.Mutex
	members   []*machineapi.EtcdMember
	next      uint64
	recovered string
	left      []string
}

func (e *fakeEtcd) join(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	e.members = append(e.members, &machineapi.EtcdMember{Id: e.next, Hostname: name})
}

func (e *fakeEtcd) leave(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.members = slices.DeleteFunc(e.members, func(member *machineapi.EtcdMember) bool { return member.GetHostname() == name })
	e.left = append(e.left, name)
}

func (e *fakeEtcd) remove(id uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.members = slices.DeleteFunc(e.members, func(member *machineapi.EtcdMember) bool { return member.GetId() == id })
}

func (e *fakeEtcd) names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, member := range e.members {
		names = append(names, member.GetHostname())
	}
	return names
}

// fakeMachine is a machine as far as Omni asks it: it joins, and its API answers in SideroLink.
type fakeMachine struct {
	machineapi.UnimplementedMachineServiceServer
	storage.UnimplementedStorageServiceServer

	site      *site
	id, name  string
	space     *labnetwork.Namespace
	resources state.State
	private   wgtypes.Key
	ctx       context.Context
	cancel    context.CancelFunc
	changed   chan struct{}

	mu       sync.Mutex
	meta     map[uint32]string
	version  string
	provider config.Provider
	address  netip.Addr
	api      *grpc.Server
	applied  int
	resets   int
	upgrades []string
	boots    int
	// kubernetes is the API server; asked are the last request's headers.
	kubernetes *http.Server
	asked      http.Header
}

// join makes a machine that joins, and waits until Omni has it.
func (s *site) join(t *testing.T, id string) *fakeMachine {
	t.Helper()
	m := s.start(t, id, s.token)
	eventually(t, func() bool {
		machine, err := s.machine(t, id)
		return err == nil && machine.TypedSpec().Value.Connected && machine.TypedSpec().Value.Maintenance
	}, "the machine does not join")
	return m
}

func (s *site) start(t *testing.T, id, token string) *fakeMachine {
	t.Helper()
	s.machines++
	name := fmt.Sprintf("node%02d", s.machines)
	space, err := s.bridge.NewNamespace(name)
	require.NoError(t, err)
	private, err := wgtypes.GeneratePrivateKey()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	m := &fakeMachine{
		site: s, id: id, name: name, space: space, private: private, ctx: ctx, cancel: cancel, changed: make(chan struct{}, 1),
		resources: state.WrapCore(namespaced.NewState(inmem.Build)), meta: map[uint32]string{}, version: "v1.13.9",
	}
	link := network.NewLinkStatus(network.NamespaceName, "eth0")
	link.TypedSpec().Type = nethelpers.LinkEther
	link.TypedSpec().HardwareAddr = nethelpers.HardwareAddr{2, 0, 0, 0, 0, byte(s.machines)}
	link.TypedSpec().LinkState = true
	hostname := network.NewHostnameStatus(network.NamespaceName, network.HostnameID)
	hostname.TypedSpec().Hostname = name
	addresses := network.NewNodeAddress(network.NamespaceName, network.NodeAddressCurrentID)
	addresses.TypedSpec().Addresses = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", s.machines))}
	require.NoError(t, m.resources.Create(ctx, link))
	require.NoError(t, m.resources.Create(ctx, hostname))
	require.NoError(t, m.resources.Create(ctx, addresses))
	m.setStage(runtime.MachineStageMaintenance, true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.run(token)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		require.NoError(t, space.Close())
	})
	return m
}

func (m *fakeMachine) setStage(stage runtime.MachineStage, ready bool) {
	now := runtime.NewMachineStatus()
	now.TypedSpec().Stage, now.TypedSpec().Status.Ready = stage, ready
	_ = m.resources.Destroy(m.ctx, now.Metadata())
	_ = m.resources.Create(m.ctx, now)
}

// run provisions, again whenever its token or its UUID changes, and keeps the tunnel.
func (m *fakeMachine) run(token string) {
	conn, err := grpc.NewClient(m.site.machineAPI, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return
	}
	defer conn.Close()
	queues := wgbind.NewQueuePair(100, 100)
	var wg *device.Device
	var relay *wggrpc.Relay
	running := make(chan struct{})
	close(running)
	defer func() {
		relay.Close()
		<-running
		if wg != nil {
			wg.Close()
		}
		if m.api != nil {
			m.api.Stop()
		}
		m.stopKubernetes()
	}()
	for m.ctx.Err() == nil {
		m.mu.Lock()
		id, unique, version := m.id, m.meta[meta.UniqueMachineToken], m.version
		m.mu.Unlock()
		over := true
		answer, err := pb.NewProvisionServiceClient(conn).Provision(m.ctx, &pb.ProvisionRequest{
			NodeUuid: id, NodePublicKey: m.private.PublicKey().String(), JoinToken: &token, NodeUniqueToken: &unique,
			TalosVersion: &version, WireguardOverGrpc: &over,
		})
		if err != nil {
			if !sleep(m.ctx, 200*time.Millisecond) {
				return
			}
			continue
		}
		peer := netip.MustParseAddrPort(answer.GetGrpcPeerAddrPort())
		address := netip.MustParsePrefix(answer.GetNodeAddressPrefix())
		relay.Close()
		<-running
		if wg == nil {
			if wg, err = m.tunnel(queues, address); err != nil {
				panic(err)
			}
		}
		if err := m.point(wg, answer, address); err != nil {
			panic(err)
		}
		relay = wggrpc.NewRelay(conn, time.Second, queues, peer)
		running = make(chan struct{})
		go func(relay *wggrpc.Relay, running chan struct{}) {
			defer close(running)
			if relay.Run(m.ctx, zap.NewNop()) != nil { // the server ended the tunnel: provision again
				select {
				case m.changed <- struct{}{}:
				default:
				}
			}
		}(relay, running)
		select {
		case <-m.ctx.Done():
			return
		case <-m.changed:
		}
	}
}

// tunnel makes the machine's interface.
func (m *fakeMachine) tunnel(queues *wgbind.QueuePair, address netip.Prefix) (*device.Device, error) {
	var made tun.Device
	err := m.space.Do(func() (err error) {
		made, err = tun.CreateTUN("siderolink", wireguard.LinkMTU)
		return err
	})
	if err != nil {
		return nil, err
	}
	wg := device.NewDevice(made, wgbind.NewClientBind(queues, zap.NewNop()), device.NewLogger(device.LogLevelSilent, ""))
	if err := wg.IpcSet("private_key=" + hex.EncodeToString(m.private[:])); err != nil {
		return nil, err
	}
	return wg, wg.Up()
}

// point gives the interface its address and its peer, and opens the machine API there.
func (m *fakeMachine) point(wg *device.Device, answer *pb.ProvisionResponse, address netip.Prefix) error {
	server, err := wgtypes.ParseKey(answer.GetServerPublicKey())
	if err != nil {
		return err
	}
	err = wg.IpcSet(fmt.Sprintf("replace_peers=true\npublic_key=%s\nendpoint=%s\npersistent_keepalive_interval=1\nallowed_ip=%s/128",
		hex.EncodeToString(server[:]), answer.GetEndpoints()[0], answer.GetServerAddress()))
	if err != nil {
		return err
	}
	err = m.space.Do(func() error {
		link, err := netlink.LinkByName("siderolink")
		if err != nil {
			return err
		}
		old, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, one := range old {
			_ = netlink.AddrDel(link, &one)
		}
		err = netlink.AddrAdd(link, &netlink.Addr{
			IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), 128)}, Flags: unix.IFA_F_NODAD,
		})
		return errors.Join(err, netlink.LinkSetUp(link))
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.address = address.Addr()
	m.mu.Unlock()
	return m.open()
}

// open opens the machine API, in place of the one that is open.
func (m *fakeMachine) open() error {
	settings, err := m.certificates()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.api != nil {
		m.api.Stop()
	}
	var listener net.Listener
	err = m.space.Do(func() (err error) {
		listener, err = net.Listen("tcp", apiAddress(m.address.String()))
		return err
	})
	if err != nil {
		return err
	}
	m.api = grpc.NewServer(grpc.Creds(credentials.NewTLS(settings)))
	machineapi.RegisterMachineServiceServer(m.api, m)
	storage.RegisterStorageServiceServer(m.api, m)
	v1alpha1.RegisterStateServer(m.api, cosiserver.NewState(m.resources))
	go func(api *grpc.Server) { _ = api.Serve(listener) }(m.api)
	return nil
}

// certificates are nobody's in maintenance, and of the cluster's authority after a configuration. The fake's workers
// have the authority's key from a control plane, as trustd signs for real ones.
func (m *fakeMachine) certificates() (*tls.Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.provider == nil {
		authority, err := pki.New()
		if err != nil {
			return nil, err
		}
		certificate, err := authority.Server(m.address.String(), time.Now().Add(time.Hour))
		return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, err
	}
	issuing := m.site.issuing(m.provider)
	if issuing == nil {
		return nil, errors.New("no control plane signs")
	}
	authority, err := x509.NewCertificateAuthorityFromCertificateAndKey(issuing)
	if err != nil {
		return nil, err
	}
	pair, err := x509.NewKeyPair(authority, x509.IPAddresses([]net.IP{m.address.AsSlice()}), x509.NotAfter(time.Now().Add(time.Hour)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature), x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}))
	if err != nil {
		return nil, err
	}
	trusted := stdx509.NewCertPool()
	trusted.AppendCertsFromPEM(issuing.Crt)
	return &tls.Config{Certificates: []tls.Certificate{*pair.Certificate}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}, nil
}

var (
	authorities   = map[string]*x509.PEMEncodedCertificateAndKey{}
	authoritiesMu sync.Mutex
)

// issuing is the authority of a configuration's cluster with its key, once a control plane has brought it.
func (s *site) issuing(provider config.Provider) *x509.PEMEncodedCertificateAndKey {
	authoritiesMu.Lock()
	defer authoritiesMu.Unlock()
	if own := provider.Machine().Security().IssuingCA(); own != nil && len(own.Key) > 0 {
		authorities[provider.Cluster().ID()] = own
	}
	return authorities[provider.Cluster().ID()]
}

func (m *fakeMachine) Version(context.Context, *emptypb.Empty) (*machineapi.VersionResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &machineapi.VersionResponse{Messages: []*machineapi.Version{{Version: &machineapi.VersionInfo{Tag: m.version, Arch: "amd64"}}}}, nil
}

func (m *fakeMachine) Disks(context.Context, *emptypb.Empty) (*storage.DisksResponse, error) {
	return &storage.DisksResponse{Messages: []*storage.Disks{{Disks: []*storage.Disk{{DeviceName: "/dev/sda", Size: 20 << 30, SystemDisk: true}}}}}, nil
}

func (m *fakeMachine) MetaWrite(_ context.Context, request *machineapi.MetaWriteRequest) (*machineapi.MetaWriteResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meta[request.GetKey()] = string(request.GetValue())
	if request.GetKey() == meta.UUIDOverride {
		m.id = string(request.GetValue())
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
	return &machineapi.MetaWriteResponse{Messages: []*machineapi.MetaWrite{{}}}, nil
}

func (m *fakeMachine) MetaDelete(context.Context, *machineapi.MetaDeleteRequest) (*machineapi.MetaDeleteResponse, error) {
	return nil, status.Error(codes.NotFound, "no such key")
}

func (m *fakeMachine) ApplyConfiguration(_ context.Context, request *machineapi.ApplyConfigurationRequest) (*machineapi.ApplyConfigurationResponse, error) {
	provider, err := configloader.NewFromBytes(request.GetData())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if m.site.issuing(provider) == nil {
		return nil, status.Error(codes.Unavailable, "no control plane signs yet")
	}
	m.mu.Lock()
	first := m.provider == nil
	m.provider = provider
	m.applied++
	m.mu.Unlock()
	if first {
		m.boot()
	}
	return &machineapi.ApplyConfigurationResponse{Messages: []*machineapi.ApplyConfiguration{{Mode: request.GetMode()}}}, nil
}

// boot opens the API anew, once the answer to the call has left.
func (m *fakeMachine) boot() {
	m.setStage(runtime.MachineStageBooting, false)
	time.AfterFunc(200*time.Millisecond, func() {
		m.mu.Lock()
		m.boots++
		provider := m.provider
		m.mu.Unlock()
		_ = m.open()
		if provider == nil {
			m.stopKubernetes()
			m.setStage(runtime.MachineStageMaintenance, true)
			return
		}
		m.setStage(runtime.MachineStageRunning, true)
		if provider.Machine().Type().IsControlPlane() {
			m.serveKubernetes(provider)
		}
		if provider.Machine().Type().IsControlPlane() {
			m.joinEtcd(provider)
		}
	})
}

// joinEtcd joins once etcd is there, as long as the machine has the configuration.
func (m *fakeMachine) joinEtcd(configured config.Provider) {
	for sleep(m.ctx, 50*time.Millisecond) {
		m.mu.Lock()
		gone := m.provider == nil || m.provider.Cluster().ID() != configured.Cluster().ID()
		m.mu.Unlock()
		if names := m.site.etcd.names(); gone || slices.Contains(names, m.name) {
			return
		} else if len(names) > 0 {
			m.site.etcd.join(m.name)
			return
		}
	}
}

func (m *fakeMachine) Bootstrap(_ context.Context, _ *machineapi.BootstrapRequest) (*machineapi.BootstrapResponse, error) {
	if len(m.site.etcd.names()) > 0 {
		return nil, status.Error(codes.AlreadyExists, "etcd data directory is not empty")
	}
	m.site.etcd.join(m.name)
	return &machineapi.BootstrapResponse{Messages: []*machineapi.Bootstrap{{}}}, nil
}

func (m *fakeMachine) EtcdMemberList(context.Context, *machineapi.EtcdMemberListRequest) (*machineapi.EtcdMemberListResponse, error) {
	m.site.etcd.mu.Lock()
	defer m.site.etcd.mu.Unlock()
	if len(m.site.etcd.members) == 0 {
		return nil, status.Error(codes.FailedPrecondition, "etcd is not running")
	}
	return &machineapi.EtcdMemberListResponse{Messages: []*machineapi.EtcdMembers{{Members: m.site.etcd.members}}}, nil
}

func (m *fakeMachine) EtcdForfeitLeadership(context.Context, *machineapi.EtcdForfeitLeadershipRequest) (*machineapi.EtcdForfeitLeadershipResponse, error) {
	return &machineapi.EtcdForfeitLeadershipResponse{Messages: []*machineapi.EtcdForfeitLeadership{{}}}, nil
}

func (m *fakeMachine) EtcdLeaveCluster(context.Context, *machineapi.EtcdLeaveClusterRequest) (*machineapi.EtcdLeaveClusterResponse, error) {
	m.site.etcd.leave(m.name)
	return &machineapi.EtcdLeaveClusterResponse{Messages: []*machineapi.EtcdLeaveCluster{{}}}, nil
}

func (m *fakeMachine) EtcdRemoveMemberByID(_ context.Context, request *machineapi.EtcdRemoveMemberByIDRequest) (*machineapi.EtcdRemoveMemberByIDResponse, error) {
	m.site.etcd.remove(request.GetMemberId())
	return &machineapi.EtcdRemoveMemberByIDResponse{Messages: []*machineapi.EtcdRemoveMemberByID{{}}}, nil
}

func (m *fakeMachine) EtcdSnapshot(_ *machineapi.EtcdSnapshotRequest, stream machineapi.MachineService_EtcdSnapshotServer) error {
	return stream.Send(&common.Data{Bytes: []byte("snapshot of " + strings.Join(m.site.etcd.names(), ","))})
}

func (m *fakeMachine) EtcdRecover(stream machineapi.MachineService_EtcdRecoverServer) error {
	var snapshot []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		snapshot = append(snapshot, part.GetBytes()...)
	}
	m.site.etcd.mu.Lock()
	m.site.etcd.recovered = string(snapshot)
	m.site.etcd.mu.Unlock()
	return stream.SendAndClose(&machineapi.EtcdRecoverResponse{Messages: []*machineapi.EtcdRecover{{}}})
}

func (m *fakeMachine) Reset(context.Context, *machineapi.ResetRequest) (*machineapi.ResetResponse, error) {
	m.mu.Lock()
	m.provider = nil
	m.resets++
	m.mu.Unlock()
	m.boot()
	return &machineapi.ResetResponse{Messages: []*machineapi.Reset{{}}}, nil
}

func (m *fakeMachine) Upgrade(_ context.Context, request *machineapi.UpgradeRequest) (*machineapi.UpgradeResponse, error) {
	m.mu.Lock()
	m.upgrades = append(m.upgrades, request.GetImage())
	_, m.version, _ = cutLast(request.GetImage(), ":")
	m.mu.Unlock()
	m.boot()
	return &machineapi.UpgradeResponse{Messages: []*machineapi.Upgrade{{}}}, nil
}

func cutLast(text, separator string) (before, after string, found bool) {
	at := strings.LastIndex(text, separator)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(separator):], true
}

// serveKubernetes is an API server that is ready and remembers who asked.
func (m *fakeMachine) serveKubernetes(provider config.Provider) {
	m.stopKubernetes()
	authority, err := x509.NewCertificateAuthorityFromCertificateAndKey(provider.Cluster().IssuingCA())
	if err != nil {
		panic(err)
	}
	pair, err := x509.NewKeyPair(authority, x509.DNSNames([]string{apiServerName}), x509.NotAfter(time.Now().Add(time.Hour)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature), x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}))
	if err != nil {
		panic(err)
	}
	trusted := stdx509.NewCertPool()
	trusted.AppendCertsFromPEM(provider.Cluster().IssuingCA().Crt)
	settings := &tls.Config{Certificates: []tls.Certificate{*pair.Certificate}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	m.mu.Lock()
	defer m.mu.Unlock()
	var listener net.Listener
	err = m.space.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(m.address.String(), apiServerPort))
		return err
	})
	if err != nil {
		panic(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.asked = r.Header.Clone()
		m.mu.Unlock()
		fmt.Fprint(w, "ok ", r.URL.Path)
	})}
	m.kubernetes = server
	go func() { _ = server.Serve(tls.NewListener(listener, settings)) }()
}

func (m *fakeMachine) stopKubernetes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kubernetes != nil {
		m.kubernetes.Close()
		m.kubernetes = nil
	}
}
