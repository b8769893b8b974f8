// Package omni is the simulated Omni: it answers omnictl and the machines as Sidero Omni does, over the vendor's own
// protocols and its modules under the Mozilla Public License. Nothing of the real server is in it. README.md says for
// each answer which source says so.
package omni

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/siderolabs/omni/client/api/omni/management"
	"github.com/siderolabs/omni/client/pkg/compression"
	"github.com/siderolabs/omni/client/pkg/constants"
	"github.com/siderolabs/siderolink/pkg/wireguard"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // omnictl compresses its calls
	"google.golang.org/grpc/keepalive"
)

// Version is the Omni whose answers are simulated.
const Version = "1.9.3"

// apiVersion is what an omnictl of Version compares with its own.
const apiVersion = 2

// Options say where the simulated Omni is and what it offers.
type Options struct {
	// Dir keeps what Omni knows, so that another process can go on with it; empty keeps it in memory.
	Dir string
	// Name is the account's; empty is "lab".
	Name string
	// Endpoint, MachineAPI and KubernetesProxy are the advertised URLs, such as https://omni.example.net,
	// grpc://omni.example.net:8090 and https://omni.example.net:8095.
	Endpoint, MachineAPI, KubernetesProxy string
	// EventPort and LogPort are where machines send events and kernel logs, inside SideroLink; 0 is 8091 and 8092.
	EventPort, LogPort int
	// Tunnel makes every machine join through the gRPC tunnel, whatever its join documents say.
	Tunnel bool
	// TalosVersions and KubernetesVersions are on offer, without a leading v.
	TalosVersions, KubernetesVersions []string
	// ImageFactory is the host of the image factory; empty is factory.talos.dev.
	ImageFactory string
	// Schematic registers a schematic at the image factory and returns its id; nil: the lab has no factory.
	Schematic func(ctx context.Context, schematic []byte) (string, error)
	// Hour is how long an hour of the backup's schedule takes; 0 is an hour.
	Hour time.Duration
	// Log takes what the simulation does.
	Log *slog.Logger
}

const (
	defaultEventPort = 8091
	defaultLogPort   = 8092
)

// Omni is the simulated Omni. It is safe for concurrent use.
type Omni struct {
	options Options
	// state is all that Omni knows, without checks; what a client says goes through guarded.
	state     state.State
	close     func() error
	log       *slog.Logger
	tasks     sync.WaitGroup
	logs      machineLogs
	snapshots snapshotStore
	// tokenKey signs the tokens of kubeconfigs.
	tokenKey *ecdsa.PrivateKey
	// settle is settleTime, but in tests.
	settle time.Duration
	talos  talosClients
	// peerDown is how long ago the last handshake of a machine is that is no longer connected.
	peerDown time.Duration
}

// New makes a simulated Omni, with what an earlier one left in Options.Dir.
func New(ctx context.Context, options Options) (*Omni, error) {
	options = options.withDefaults()
	if err := options.check(); err != nil {
		return nil, err
	}
	if err := compression.InitConfig(true); err != nil {
		return nil, err
	}
	resources, closeState, err := openState(ctx, options.Dir)
	if err != nil {
		return nil, err
	}
	key, err := loadTokenKey(options.Dir)
	if err != nil {
		return nil, errors.Join(err, closeState())
	}
	o := &Omni{tokenKey: key, options: options, state: resources, close: closeState, log: options.Log, peerDown: wireguard.PeerDownInterval, settle: settleTime}
	if options.Dir != "" {
		o.snapshots.dir = filepath.Join(options.Dir, "backups")
	}
	if err := errors.Join(o.offer(ctx), o.firstToken(ctx)); err != nil {
		return nil, errors.Join(err, closeState())
	}
	return o, nil
}

func (options Options) withDefaults() Options {
	if options.Name == "" {
		options.Name = "lab"
	}
	if options.EventPort == 0 {
		options.EventPort = defaultEventPort
	}
	if options.LogPort == 0 {
		options.LogPort = defaultLogPort
	}
	if options.ImageFactory == "" {
		options.ImageFactory = "factory.talos.dev"
	}
	if options.Hour == 0 {
		options.Hour = time.Hour
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	return options
}

func (options Options) check() error {
	for name, value := range map[string]string{
		"Endpoint": options.Endpoint, "MachineAPI": options.MachineAPI, "KubernetesProxy": options.KubernetesProxy,
	} {
		if value == "" {
			return fmt.Errorf("simulated Omni: %s is empty: give the URL under which it is advertised", name)
		}
	}
	if len(options.TalosVersions) == 0 || len(options.KubernetesVersions) == 0 {
		return errors.New("simulated Omni: TalosVersions and KubernetesVersions need at least the settings' versions")
	}
	return nil
}

// Close ends what New began; the servers and loops have ended before.
func (o *Omni) Close() error {
	o.tasks.Wait()
	return errors.Join(o.talos.close(), o.close())
}

// ServeAPI answers omnictl on a listener until the context ends.
func (o *Omni) ServeAPI(ctx context.Context, listener net.Listener, certificate *tls.Certificate) error {
	options := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(o.authenticateUnary),
		grpc.ChainStreamInterceptor(o.authenticateStream),
		grpc.MaxRecvMsgSize(constants.GRPCMaxMessageSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
	}
	if certificate != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12,
		})))
	}
	answer := grpc.NewServer(options...)
	v1alpha1.RegisterStateServer(answer, server.NewState(o.guarded()))
	management.RegisterManagementServiceServer(answer, &managementServer{omni: o})
	return serveGRPC(ctx, answer, listener)
}

// serveGRPC ends with its context; watches that are open end with it.
func serveGRPC(ctx context.Context, answer *grpc.Server, listener net.Listener) error {
	stop := context.AfterFunc(ctx, answer.Stop)
	defer stop()
	if err := answer.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return err
	}
	return nil
}
