package etcd

import (
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"platform.lab/lab/internal/machine/guestnetwork"
)

// LocalURL is the machine's own etcd.
func LocalURL() string { return urlOf(guestnetwork.Loopback, ClientPort) }

func urlOf(address netip.Addr, port int) string {
	return fmt.Sprintf("https://%s", net.JoinHostPort(address.String(), fmt.Sprint(port)))
}

// client connects to etcd from inside the machine.
func (e *Service) client(addresses ...netip.Addr) (*clientv3.Client, error) {
	provider := e.Provider()

	pair, err := tls.LoadX509KeyPair(e.Secrets.Path("etcd/admin.crt"), e.Secrets.Path("etcd/admin.key"))
	if err != nil {
		return nil, err
	}

	pool := stdx509.NewCertPool()
	pool.AppendCertsFromPEM(provider.Cluster().Etcd().CA().Crt)

	var endpoints []string
	for _, address := range addresses {
		endpoints = append(endpoints, urlOf(address, ClientPort))
	}

	return clientv3.New(clientv3.Config{
		Context:     e.Context(),
		Endpoints:   endpoints,
		DialTimeout: dialTimeout,
		TLS:         &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12},
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return e.Network.DialContext(ctx, "tcp", strings.TrimPrefix(address, "https://"))
			}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.3, MaxDelay: time.Second},
				MinConnectTimeout: time.Second,
			}),
		},
	})
}

// Local connects to the machine's own etcd.
func (e *Service) Local() (*clientv3.Client, error) {
	if e.Running() == nil {
		return nil, errNotBootstrapped
	}

	return e.client(guestnetwork.Loopback)
}

// Cluster connects to all control planes' etcd.
func (e *Service) Cluster() (*clientv3.Client, error) {
	addresses := e.Discovery.ControlPlanes(e.Provider().Cluster().ID())
	if len(addresses) == 0 {
		return e.Local()
	}

	return e.client(addresses...)
}

// EndSession revokes the session's lease, and with it the machine's place in the election. A machine without
// power cannot: its lease expires.
func (e *Service) EndSession(client *clientv3.Client, session *concurrency.Session) {
	session.Orphan()

	if e.IsOver() {
		return
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.Context()), revokeTimeout)
	defer cancel()

	_, _ = client.Revoke(ctx, session.Lease())
}
