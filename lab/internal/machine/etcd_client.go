package machine

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
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

func etcdURL(address netip.Addr, port int) string {
	return fmt.Sprintf("https://%s", net.JoinHostPort(address.String(), fmt.Sprint(port)))
}

// client connects to etcd from inside the machine.
func (e *etcd) client(addresses ...netip.Addr) (*clientv3.Client, error) {
	provider := e.boot.Provider()

	pair, err := tls.LoadX509KeyPair(e.boot.secrets.path("etcd/admin.crt"), e.boot.secrets.path("etcd/admin.key"))
	if err != nil {
		return nil, err
	}

	pool := stdx509.NewCertPool()
	pool.AppendCertsFromPEM(provider.Cluster().Etcd().CA().Crt)

	var endpoints []string
	for _, address := range addresses {
		endpoints = append(endpoints, etcdURL(address, etcdClientPort))
	}

	return clientv3.New(clientv3.Config{
		Context:     e.boot.Context(),
		Endpoints:   endpoints,
		DialTimeout: dialTimeout,
		TLS:         &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12},
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return e.boot.network.DialContext(ctx, "tcp", strings.TrimPrefix(address, "https://"))
			}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.3, MaxDelay: time.Second},
				MinConnectTimeout: time.Second,
			}),
		},
	})
}

// local connects to the machine's own etcd.
func (e *etcd) local() (*clientv3.Client, error) {
	if e.running() == nil {
		return nil, errNotBootstrapped
	}

	return e.client(loopback4)
}

// cluster connects to all control planes' etcd.
func (e *etcd) cluster() (*clientv3.Client, error) {
	addresses := e.boot.machine.fleet.discovery.ControlPlanes(e.boot.Provider().Cluster().ID())
	if len(addresses) == 0 {
		return e.local()
	}

	return e.client(addresses...)
}
