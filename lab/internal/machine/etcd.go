package machine

import (
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	etcdClientPort = 2379
	etcdPeerPort   = 2380

	// joinInterval and promoteInterval are Talos' 3 s and 15 s, shortened.
	joinInterval    = 500 * time.Millisecond
	promoteInterval = 250 * time.Millisecond
	// memberTimeout bounds a membership call: one can hang while another member is promoted.
	memberTimeout = 5 * time.Second
	dialTimeout   = 3 * time.Second
)

// simulationFlags make etcd quick in the lab. They are not Talos': nothing is flushed to disk, and a member
// may join while another one has just done so (else etcd makes it wait 5 s).
var simulationFlags = map[string]string{"unsafe-no-fsync": "true", "strict-reconfig-check": "false"}

var errNotBootstrapped = errors.New("etcd is not running on this machine: it is neither bootstrapped nor has it joined a cluster")

// bootstrapRequest asks a machine whose etcd waits to join to begin a new cluster instead.
type bootstrapRequest struct {
	recover       bool
	skipHashCheck bool
	result        chan error
}

// etcd is Talos' etcd service: bootstrapped on demand, else joining as a learner, else resuming from its data.
type etcd struct {
	boot       *boot
	bootstraps chan bootstrapRequest

	mu      sync.Mutex
	process *process
}

func newEtcd(b *boot) *etcd {
	return &etcd{boot: b, bootstraps: make(chan bootstrapRequest)}
}

func (e *etcd) data() string { return e.boot.machine.path(etcdFolder) }

func (e *etcd) hasData() bool { return hasEntries(e.data()) }

// run is the service from the machine's boot to its end.
func (e *etcd) run() {
	b := e.boot

	b.services.set("etcd", statePreparing, "Running pre state")

	for !b.isStopping() {
		provider := b.provider()

		err := b.secrets.writeEtcd(provider)
		if err == nil {
			err = e.begin(provider)
		}

		if err == nil {
			break
		}

		b.log.Warn("etcd does not start yet", "error", err)

		if !b.sleep(joinInterval) {
			return
		}
	}

	e.watch()
}

// begin starts etcd in one of its three ways and returns when it runs.
func (e *etcd) begin(provider config.Provider) error {
	if e.hasData() {
		return e.start(provider, nil)
	}

	nagged := time.Time{}

	for {
		if time.Since(nagged) > time.Minute {
			e.boot.log.Info("etcd waits to join the cluster; if this is its first machine: talosctl bootstrap")
			nagged = time.Now()
		}

		select {
		case <-e.boot.ctx.Done():
			return nil
		case <-e.boot.stopping:
			return nil
		case request := <-e.bootstraps:
			err := e.bootstrap(provider, request)
			request.result <- err

			if err == nil {
				return nil
			}
		case <-time.After(joinInterval):
			joined, err := e.join(provider)
			if joined || err != nil {
				return err
			}
		}
	}
}

// advertised is the machine's address among cluster.etcd.advertisedSubnets.
func (e *etcd) advertised(provider config.Provider) (netip.Addr, error) {
	subnets := provider.Cluster().Etcd().AdvertisedSubnets()

	for _, address := range e.boot.nodeAddresses() {
		if len(subnets) == 0 || slices.ContainsFunc(subnets, func(subnet string) bool {
			prefix, err := netip.ParsePrefix(subnet)

			return err == nil && prefix.Contains(address)
		}) {
			return address, nil
		}
	}

	return netip.Addr{}, fmt.Errorf("no address of the machine %v lies in cluster.etcd.advertisedSubnets %v", e.boot.nodeAddresses(), subnets)
}

func etcdURL(address netip.Addr, port int) string {
	return fmt.Sprintf("https://%s", net.JoinHostPort(address.String(), fmt.Sprint(port)))
}

// start runs etcd; `initial` are flags for its first start.
func (e *etcd) start(provider config.Provider, initial map[string]string) error {
	address, err := e.advertised(provider)
	if err != nil {
		return err
	}

	list, err := e.arguments(provider, address, initial)
	if err != nil {
		return err
	}

	e.mu.Lock()
	defer e.mu.Unlock()

	if e.boot.isStopping() {
		return nil
	}

	e.process = e.boot.startProcess("etcd", list, nil)
	e.boot.services.set("etcd", stateRunning, "Started task etcd")
	e.boot.services.health("etcd", errors.New("not checked yet"))

	return nil
}

// arguments are Talos' flags (services/etcd.go, argsForControlPlane), the configuration's and the lab's.
func (e *etcd) arguments(provider config.Provider, address netip.Addr, initial map[string]string) ([]string, error) {
	secret := e.boot.secrets.path
	own := flags(map[string]string{
		"name":                               e.boot.hostname(),
		"auto-tls":                           "false",
		"peer-auto-tls":                      "false",
		"data-dir":                           e.data(),
		"listen-peer-urls":                   etcdURL(netip.IPv4Unspecified(), etcdPeerPort),
		"listen-client-urls":                 etcdURL(netip.IPv4Unspecified(), etcdClientPort),
		"client-cert-auth":                   "true",
		"cert-file":                          secret("etcd/server.crt"),
		"key-file":                           secret("etcd/server.key"),
		"trusted-ca-file":                    secret("etcd/ca.crt"),
		"peer-client-cert-auth":              "true",
		"peer-cert-file":                     secret("etcd/peer.crt"),
		"peer-key-file":                      secret("etcd/peer.key"),
		"peer-trusted-ca-file":               secret("etcd/ca.crt"),
		"experimental-initial-corrupt-check": "true",
		"experimental-watch-progress-notify-interval": "5s",
		"experimental-compact-hash-check-enabled":     "true",
	})

	notAllowed := map[string]mergePolicy{}
	for key := range own {
		notAllowed[key] = denied
	}

	for _, more := range []map[string]string{
		{
			"advertise-client-urls":       etcdURL(address, etcdClientPort),
			"initial-advertise-peer-urls": etcdURL(address, etcdPeerPort),
			"log-level":                   "warn",
		}, initial, simulationFlags,
	} {
		for key, value := range more {
			own[key] = []string{value}
		}
	}

	if err := own.merge(provider.Cluster().Etcd().ExtraArgs(), notAllowed); err != nil {
		return nil, err
	}

	return own.list(), nil
}

// bootstrap begins a new cluster of one member, from the uploaded snapshot when asked to.
func (e *etcd) bootstrap(provider config.Provider, request bootstrapRequest) error {
	address, err := e.advertised(provider)
	if err != nil {
		return err
	}

	name, peer := e.boot.hostname(), etcdURL(address, etcdPeerPort)
	initial := map[string]string{"initial-cluster-state": "new", "initial-cluster": name + "=" + peer}

	if request.recover {
		if err := e.restore(name, peer, request.skipHashCheck); err != nil {
			return err
		}

		initial = nil
	}

	e.boot.log.Info("etcd bootstrap", "recover", request.recover)
	e.boot.machine.fleet.kwok.restart(provider.Cluster().ID())

	return e.start(provider, initial)
}

func (e *etcd) restore(name, peer string, skipHashCheck bool) error {
	path := e.boot.machine.path(recoveryFile)
	manager := snapshot.NewV3(zap.NewNop())

	if _, err := manager.Status(path); err != nil {
		return fmt.Errorf("error verifying snapshot: %w", err)
	}

	if err := manager.Restore(snapshot.RestoreConfig{
		SnapshotPath: path, Name: name, OutputDataDir: e.data(), PeerURLs: []string{peer},
		InitialCluster: name + "=" + peer, SkipHashCheck: skipHashCheck,
	}); err != nil {
		return fmt.Errorf("error recovering from the snapshot: %w", err)
	}

	return os.Remove(path)
}

// join adds the machine to the members as a learner and starts it; false while there is no cluster to join.
func (e *etcd) join(provider config.Provider) (bool, error) {
	peers := e.peers(provider)
	if len(peers) == 0 {
		return false, nil
	}

	address, err := e.advertised(provider)
	if err != nil {
		return false, err
	}

	client, err := e.client(peers...)
	if err != nil {
		return false, err
	}

	initial, id, err := e.addMember(client, etcdURL(address, etcdPeerPort))
	if err != nil {
		client.Close()

		return false, err
	}

	if err := e.start(provider, map[string]string{"initial-cluster-state": "existing", "initial-cluster": initial}); err != nil {
		client.Close()

		return false, err
	}

	e.boot.goroutine(func() {
		defer client.Close()

		e.promote(client, id)
	})

	return true, nil
}

// peers are the other control planes whose etcd answers.
func (e *etcd) peers(provider config.Provider) []netip.Addr {
	own := e.boot.nodeAddresses()

	var peers []netip.Addr

	for _, address := range e.boot.machine.fleet.discovery.controlPlanes(provider.Cluster().ID()) {
		if !slices.Contains(own, address) && e.boot.answers(address, etcdClientPort) {
			peers = append(peers, address)
		}
	}

	return peers
}

// addMember replaces a member of the machine's name by a new learner (services/etcd.go, addMember and
// buildInitialCluster): a machine without etcd data that is a member has lost its disk.
func (e *etcd) addMember(client *clientv3.Client, peer string) (initial string, id uint64, err error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(e.boot.ctx), memberTimeout)
	defer cancel()

	name := e.boot.hostname()

	list, err := client.MemberList(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("error getting etcd member list: %w", err)
	}

	for _, member := range list.Members {
		if member.Name == name || slices.Contains(member.PeerURLs, peer) {
			if _, err := client.MemberRemove(ctx, member.ID); err != nil {
				return "", 0, fmt.Errorf("error removing self from the member list: %w", err)
			}
		}
	}

	added, err := client.MemberAddAsLearner(ctx, []string{peer})
	if err != nil {
		return "", 0, fmt.Errorf("error adding member: %w", err)
	}

	var urls []string

	for _, member := range added.Members {
		for _, url := range member.PeerURLs {
			if member.ID == added.Member.ID {
				member.Name = name
			}

			urls = append(urls, member.Name+"="+url)
		}
	}

	return strings.Join(urls, ","), added.Member.ID, nil
}

// promote makes the learner a voter as soon as it has caught up.
func (e *etcd) promote(client *clientv3.Client, id uint64) {
	for !e.boot.isStopping() {
		ctx, cancel := context.WithTimeout(e.boot.ctx, memberTimeout)
		_, err := client.MemberPromote(ctx, id)

		cancel()

		if err == nil || errors.Is(err, rpctypes.ErrMemberNotLearner) || errors.Is(err, rpctypes.ErrMemberNotFound) {
			e.boot.log.Info("etcd member is a voter")

			return
		}

		if !e.boot.sleep(promoteInterval) {
			return
		}
	}
}

// watch checks etcd's health, as Talos does, with a read that needs a quorum.
func (e *etcd) watch() {
	var client *clientv3.Client

	for ; !e.boot.isStopping(); e.boot.sleep(2 * tick) {
		var err error
		if client == nil {
			if client, err = e.client(loopback4); err != nil {
				e.boot.services.health("etcd", err)

				continue
			}

			defer client.Close()
		}

		ctx, cancel := context.WithTimeout(e.boot.ctx, dialTimeout)
		_, err = client.Get(ctx, "health")

		cancel()

		if !e.boot.isStopping() {
			e.boot.services.health("etcd", err)
		}
	}
}

// client connects to etcd from inside the machine.
func (e *etcd) client(addresses ...netip.Addr) (*clientv3.Client, error) {
	provider := e.boot.provider()

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
		Context:     e.boot.ctx,
		Endpoints:   endpoints,
		DialTimeout: dialTimeout,
		TLS:         &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12},
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return e.boot.namespace.DialContext(ctx, "tcp", strings.TrimPrefix(address, "https://"))
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
	addresses := e.boot.machine.fleet.discovery.controlPlanes(e.boot.provider().Cluster().ID())
	if len(addresses) == 0 {
		return e.local()
	}

	return e.client(addresses...)
}

// memberID is the number of the machine's own member.
func (e *etcd) memberID(ctx context.Context) (uint64, error) {
	client, err := e.local()
	if err != nil {
		return 0, err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()

	status, err := client.Status(ctx, etcdURL(loopback4, etcdClientPort))
	if err != nil {
		return 0, err
	}

	return status.Header.MemberId, nil
}

// leave removes the machine from the members, stops its etcd and throws the data away.
func (e *etcd) leave(ctx context.Context) error {
	id, err := e.memberID(ctx)
	if errors.Is(err, errNotBootstrapped) {
		return nil
	} else if err != nil {
		return err
	}

	// Another member is asked: one that removes itself may be gone before it answers.
	others := e.peers(e.boot.provider())
	if len(others) == 0 {
		others = []netip.Addr{loopback4}
	}

	client, err := e.client(others...)
	if err != nil {
		return err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()

	if _, err := client.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("failed to remove member %d: %w", id, err)
	}

	e.stop(podGrace)

	return os.RemoveAll(e.data())
}

func (e *etcd) running() *process {
	e.mu.Lock()
	defer e.mu.Unlock()

	return e.process
}

func (e *etcd) stop(grace time.Duration) {
	if p := e.running(); p != nil {
		p.stop(grace)
		e.boot.services.set("etcd", stateFinished, "Service finished successfully")
	}
}

func (e *etcd) kill() {
	if p := e.running(); p != nil {
		p.stop(0)
	}
}
