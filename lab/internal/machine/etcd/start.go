package etcd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"platform.lab/lab/internal/machine/arguments"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/services"
)

// simulationFlags make etcd quick in the lab. They are not Talos': nothing is flushed to disk, and a member
// may join while another one has just done so (else etcd makes it wait 5 s).
var simulationFlags = map[string]string{"unsafe-no-fsync": "true", "strict-reconfig-check": "false"}

// advertised is the machine's address among cluster.etcd.advertisedSubnets.
func (e *Service) advertised(provider config.Provider) (netip.Addr, error) {
	subnets := provider.Cluster().Etcd().AdvertisedSubnets()

	if address := e.Network.AddressIn(subnets); address.IsValid() {
		return address, nil
	}

	return netip.Addr{}, fmt.Errorf("no address of the machine %v lies in cluster.etcd.advertisedSubnets %v", e.Network.NodeAddresses(), subnets)
}

// start runs etcd; `initial` are flags for its first start.
func (e *Service) start(provider config.Provider, initial map[string]string) error {
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

	if e.IsStopping() {
		return nil
	}

	e.process = e.Programs.Start("etcd", list, nil)
	e.Services.Set("etcd", services.StateRunning, "Started task etcd")
	e.Services.Health("etcd", errors.New("not checked yet"))

	return nil
}

// arguments are Talos' flags (services/etcd.go, argsForControlPlane), the configuration's and the lab's.
func (e *Service) arguments(provider config.Provider, address netip.Addr, initial map[string]string) ([]string, error) {
	secret := e.Secrets.Path
	own := arguments.Of(map[string]string{
		"name":                               e.Network.Hostname(),
		"auto-tls":                           "false",
		"peer-auto-tls":                      "false",
		"data-dir":                           e.data(),
		"listen-peer-urls":                   urlOf(netip.IPv4Unspecified(), peerPort),
		"listen-client-urls":                 urlOf(netip.IPv4Unspecified(), ClientPort),
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

	notAllowed := map[string]arguments.Policy{}
	for key := range own {
		notAllowed[key] = arguments.Denied
	}

	for _, more := range []map[string]string{
		{
			"advertise-client-urls":       urlOf(address, ClientPort),
			"initial-advertise-peer-urls": urlOf(address, peerPort),
			"log-level":                   "warn",
		}, initial, simulationFlags,
	} {
		for key, value := range more {
			own[key] = []string{value}
		}
	}

	if err := own.Merge(provider.Cluster().Etcd().ExtraArgs(), notAllowed); err != nil {
		return nil, err
	}

	return own.Lines(), nil
}

// beginCluster begins a new cluster of one member, from the uploaded snapshot when asked to.
func (e *Service) beginCluster(provider config.Provider, request BootstrapRequest) error {
	address, err := e.advertised(provider)
	if err != nil {
		return err
	}

	name, peer := e.Network.Hostname(), urlOf(address, peerPort)
	initial := map[string]string{"initial-cluster-state": "new", "initial-cluster": name + "=" + peer}

	if request.Recover {
		if err := e.restore(name, peer, request.SkipHashCheck); err != nil {
			return err
		}

		initial = nil
	}

	e.Log.Info("etcd bootstrap", "recover", request.Recover)
	e.Bootstrapped(provider.Cluster().ID())

	return e.start(provider, initial)
}

func (e *Service) restore(name, peer string, skipHashCheck bool) error {
	path := e.Disk.Path(disk.RecoveryFile)
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
