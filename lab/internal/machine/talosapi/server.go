package talosapi

import (
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/api/cluster"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/api/storage"
	timeapi "github.com/siderolabs/talos/pkg/machinery/api/time"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/siderolink"
)

// Port is Talos' machine API.
const Port = constants.ApidPort

// Everywhere is all addresses of a machine.
var Everywhere = ":" + strconv.Itoa(Port)

// server is apid and machined in one.
type server struct {
	machine     *Machine
	server      *grpc.Server
	maintenance bool

	mu          sync.Mutex
	provider    config.Provider
	sideroLink  netip.Prefix
	certificate *tls.Config
}

// MaintenanceAddress is where the API of maintenance mode listens: everywhere, but on a machine whose configuration has it
// join a server only on its address at SideroLink; "" before it has one (Talos 1.13.9, controllers/runtime/maintenance_config.go).
// Configured machines listen everywhere, joined or not (api_service_config.go): who has no certificate of the cluster's
// authority, which the server keeps, is kept out by that alone.
func (b *Machine) MaintenanceAddress() string {
	if _, joins := siderolink.Of(b.Provider()); !joins {
		return Everywhere
	}

	if address, _ := b.Network.SideroLink(); address.IsValid() {
		return net.JoinHostPort(address.Addr().String(), strconv.Itoa(Port))
	}

	return ""
}

// Serve opens the machine API on an address, in place of the one that is open; on "" it is closed. It is self-signed and for
// everybody in maintenance mode, with mutual TLS under the configuration's CA afterwards.
func (b *Machine) Serve(address string) {
	b.mu.Lock()
	old := b.server
	b.server = nil
	b.mu.Unlock()

	if old != nil {
		old.stop()
	}

	if address == "" {
		return
	}

	api := &server{machine: b, maintenance: b.InMaintenance()}
	api.server = grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(constants.GRPCMaxMessageSize),
		// talosctl pings every 10 s while it follows events.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: api.tlsConfig, NextProtos: []string{"h2"}})),
		grpc.UnaryInterceptor(api.unary),
		grpc.StreamInterceptor(api.stream),
		grpc.UnknownServiceHandler(unknownService),
	)

	machineapi.RegisterMachineServiceServer(api.server, &machineService{})
	machineapi.RegisterImageServiceServer(api.server, &imageService{})
	machineapi.RegisterLifecycleServiceServer(api.server, &lifecycleService{})
	cluster.RegisterClusterServiceServer(api.server, &clusterService{})
	storage.RegisterStorageServiceServer(api.server, &storageService{})
	timeapi.RegisterTimeServiceServer(api.server, &timeService{})
	v1alpha1.RegisterStateServer(api.server, &stateService{})

	listener, err := b.listen(address)
	if err != nil {
		b.LogError("machine API", err)

		return
	}

	b.mu.Lock()
	b.server = api
	b.mu.Unlock()

	b.Go(func() { _ = api.server.Serve(listener) })

	if b.IsOver() { // halted meanwhile: nobody else stops this server
		api.stop()
	}
}

// listen waits for the port while the server before gives it back.
func (b *Machine) listen(address string) (net.Listener, error) {
	for attempt := 0; ; attempt++ {
		listener, err := b.Network.Listen("tcp", address)
		if err == nil || attempt == 20 || !b.Sleep(100*time.Millisecond) {
			return listener, err
		}
	}
}

func (a *server) stop() { a.server.Stop() }

// tlsConfig is recreated when the configuration has changed (another CA, other certSANs), or the address at SideroLink.
func (a *server) tlsConfig(*tls.ClientHelloInfo) (*tls.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()

	provider := a.machine.Provider()
	joined, _ := a.machine.Network.SideroLink()

	if a.certificate != nil && (a.maintenance || provider == a.provider && joined == a.sideroLink) {
		return a.certificate, nil
	}

	settings, err := a.machine.maintenanceTLS()
	if !a.maintenance {
		settings, err = a.machine.mutualTLS(provider)
	}

	if err != nil {
		a.machine.LogError("machine API certificate", err)

		return nil, err
	}

	a.certificate, a.provider, a.sideroLink = settings, provider, joined

	return settings, nil
}

// maintenanceTLS is a self-signed certificate.
func (b *Machine) maintenanceTLS() (*tls.Config, error) {
	ca, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true))
	if err != nil {
		return nil, err
	}

	pair, err := certificates.Issue(x509.NewCertificateAndKeyFromCertificateAuthority(ca), certificates.Request{
		CommonName: "maintenance-service.talos.dev", Names: []string{"maintenance-service.talos.dev"},
		Addresses: append(b.Network.CertificateAddresses(), guestnetwork.Loopback), Usage: certificates.ForServer,
	})
	if err != nil {
		return nil, err
	}

	return serverTLS(pair)
}

// mutualTLS lets only certificates of the configuration's CAs in.
func (b *Machine) mutualTLS(provider config.Provider) (*tls.Config, error) {
	pair, err := b.apiCertificate(provider)
	if err != nil {
		return nil, err
	}

	settings, err := serverTLS(pair)
	if err != nil {
		return nil, err
	}

	security := provider.Machine().Security()
	settings.ClientAuth, settings.ClientCAs = tls.RequireAndVerifyClientCert, stdx509.NewCertPool()

	if ca := security.IssuingCA(); ca != nil {
		settings.ClientCAs.AppendCertsFromPEM(ca.Crt)
	}

	for _, ca := range security.AcceptedCAs() {
		settings.ClientCAs.AppendCertsFromPEM(ca.Crt)
	}

	return settings, nil
}

func serverTLS(pair *x509.PEMEncodedCertificateAndKey) (*tls.Config, error) {
	certificate, err := tls.X509KeyPair(pair.Crt, pair.Key)
	if err != nil {
		return nil, err
	}

	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}, nil
}

// targetKey holds the machine that a call is for.
type targetKey struct{}

func at(ctx context.Context) *Machine {
	b, _ := ctx.Value(targetKey{}).(*Machine)

	return b
}

// targets are the machines that a call is for: apid forwards by the metadata "node" (one) or "nodes" (many,
// whose answers are merged). Simulated: the other machine is asked within the process, if it can be reached.
func (a *server) targets(ctx context.Context) (names []string, multi bool) {
	headers, _ := metadata.FromIncomingContext(ctx)

	for _, value := range headers.Get("nodes") {
		names = append(names, strings.Split(value, ",")...)
	}

	if len(names) > 0 && !a.maintenance {
		return names, true
	}

	if one := headers.Get("node"); len(one) > 0 && !a.maintenance {
		return one[:1], false
	}

	return nil, false
}

// resolve finds a machine by address or host name and makes sure that it answers under the same CA.
func (a *server) resolve(name string) (*Machine, error) {
	if name == "" || a.machine.isAtSideroLink(name) {
		return a.machine, nil
	}

	for _, other := range a.machine.All() {
		if other.Network.Hostname() != name && !other.Network.HasAddress(name) {
			continue
		}

		if !a.machine.canReach(other) {
			break
		}

		if other != a.machine && !sameCA(a.machine.Provider(), other.Provider()) {
			return nil, status.Error(codes.Unavailable,
				`connection error: desc = "transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"`)
		}

		return other, nil
	}

	return nil, status.Errorf(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp %s:%d: connect: no route to host"`, name, Port)
}

// isAtSideroLink says whether a name is the machine's own address there: no other machine can be reached by its own.
func (b *Machine) isAtSideroLink(name string) bool {
	joined, _ := b.Network.SideroLink()

	return joined.IsValid() && joined.Addr().String() == name
}

func sameCA(a, b config.Provider) bool {
	if a == nil || b == nil || a.Machine() == nil || b.Machine() == nil {
		return false
	}

	return string(caOf(a)) == string(caOf(b))
}

func caOf(provider config.Provider) []byte {
	security := provider.Machine().Security()
	if ca := security.IssuingCA(); ca != nil && len(ca.Crt) > 0 {
		return ca.Crt
	}

	for _, ca := range security.AcceptedCAs() {
		return ca.Crt
	}

	return nil
}

func (a *server) unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	roles := a.roles(ctx)
	if err := authorize(info.FullMethod, roles); err != nil {
		return nil, err
	}

	ctx = context.WithValue(ctx, rolesKey{}, roles)

	names, multi := a.targets(ctx)
	if !multi {
		names = append(names, "")

		target, err := a.resolve(names[0])
		if err != nil {
			return nil, err
		}

		out, err := handle(context.WithValue(ctx, targetKey{}, target), in)

		return out, explained(info.FullMethod, err)
	}

	var merged merger

	for _, name := range names {
		target, err := a.resolve(name)

		var out any
		if err == nil {
			out, err = handle(context.WithValue(ctx, targetKey{}, target), in)
			err = explained(info.FullMethod, err)
		}

		if err != nil {
			merged.fail(name, err)
		} else if !merged.add(name, out) {
			return out, nil
		}
	}

	return merged.result()
}

// merger puts the answers of several machines into one, each marked with its machine (apid's backend).
type merger struct {
	out    protoreflect.Message
	failed []failure
}

type failure struct {
	name string
	err  error
}

// add takes the messages of an answer; false when its kind cannot be merged.
func (m *merger) add(name string, out any) bool {
	answer, ok := out.(proto.Message)
	if !ok {
		return false
	}

	message := answer.ProtoReflect()

	field := message.Descriptor().Fields().ByName("messages")
	if field == nil {
		return false
	}

	if m.out == nil {
		m.out = message.New()
	}

	list := message.Get(field).List()
	for i := range list.Len() {
		mark(list.Get(i).Message(), "hostname", protoreflect.ValueOfString(name))
		m.out.Mutable(field).List().Append(list.Get(i))
	}

	return true
}

func (m *merger) fail(name string, err error) { m.failed = append(m.failed, failure{name, err}) }

// result is the merged answer with the failed machines in it; an error when all failed.
func (m *merger) result() (any, error) {
	if m.out == nil {
		if len(m.failed) == 0 {
			return nil, status.Error(codes.InvalidArgument, "no machine named")
		}

		return nil, m.failed[0].err
	}

	list := m.out.Mutable(m.out.Descriptor().Fields().ByName("messages")).List()

	for _, f := range m.failed {
		entry := list.NewElement()
		mark(entry.Message(), "hostname", protoreflect.ValueOfString(f.name))
		mark(entry.Message(), "error", protoreflect.ValueOfString(f.err.Error()))
		list.Append(entry)
	}

	return m.out.Interface(), nil
}

// mark sets a field of an answer's metadata.
func mark(message protoreflect.Message, field protoreflect.Name, value protoreflect.Value) {
	if described := message.Descriptor().Fields().ByName("metadata"); described != nil {
		inner := message.Mutable(described).Message()
		inner.Set(inner.Descriptor().Fields().ByName(field), value)
	}
}

// markedStream carries the target of a streaming call and marks its answers with it.
type markedStream struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // grpc's own shape
	name string
}

func (s markedStream) Context() context.Context { return s.ctx }

func (s markedStream) SendMsg(message any) error {
	if answer, ok := message.(proto.Message); ok && s.name != "" {
		mark(answer.ProtoReflect(), "hostname", protoreflect.ValueOfString(s.name))
	}

	return s.ServerStream.SendMsg(message)
}

func (a *server) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	roles := a.roles(stream.Context())
	if err := authorize(info.FullMethod, roles); err != nil {
		return err
	}

	ctx := context.WithValue(stream.Context(), rolesKey{}, roles)

	names, multi := a.targets(ctx)
	if !multi {
		names = append(names, "")[:1]
	}

	return eachError(names, func(name string) error {
		target, err := a.resolve(name)
		if err != nil {
			return err
		}

		wrapped := markedStream{ServerStream: stream, ctx: context.WithValue(ctx, targetKey{}, target)}
		if multi {
			wrapped.name = name
		}

		return explained(info.FullMethod, handle(service, wrapped))
	})
}

// eachError asks all machines at the same time and gives the first error.
func eachError(names []string, job func(string) error) error {
	if len(names) == 1 {
		return job(names[0])
	}

	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		first error
	)

	for _, name := range names {
		wait.Go(func() {
			if err := job(name); err != nil {
				mu.Lock()
				defer mu.Unlock()

				if first == nil {
					first = err
				}
			}
		})
	}

	wait.Wait()

	return first
}
