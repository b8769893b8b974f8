package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	clientv3 "go.etcd.io/etcd/client/v3"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/process"
	"platform.lab/lab/internal/machine/services"
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
	process *process.Process
}

func newEtcd(b *boot) *etcd {
	return &etcd{boot: b, bootstraps: make(chan bootstrapRequest)}
}

func (e *etcd) data() string { return e.boot.machine.disk.Path(disk.EtcdFolder) }

func (e *etcd) hasData() bool { return disk.HasEntries(e.data()) }

// run is the service from the machine's boot to its end.
func (e *etcd) run() {
	b := e.boot

	b.services.Set("etcd", services.StatePreparing, "Running pre state")

	for !b.IsStopping() {
		provider := b.Provider()

		err := b.secrets.writeEtcd(provider)
		if err == nil {
			err = e.begin(provider)
		}

		if err == nil {
			break
		}

		b.Log.Warn("etcd does not start yet", "error", err)

		if !b.Sleep(joinInterval) {
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
			e.boot.Log.Info("etcd waits to join the cluster; if this is its first machine: talosctl bootstrap")
			nagged = time.Now()
		}

		select {
		case <-e.boot.Context().Done():
			return nil
		case <-e.boot.Stopping():
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

// watch checks etcd's health, as Talos does, with a read that needs a quorum.
func (e *etcd) watch() {
	var client *clientv3.Client

	var err error

	for ; !e.boot.IsStopping(); e.boot.Sleep(probeInterval(err)) {
		if client == nil {
			if client, err = e.client(loopback4); err != nil {
				e.boot.services.Health("etcd", err)

				continue
			}

			defer client.Close()
		}

		ctx, cancel := context.WithTimeout(e.boot.Context(), dialTimeout)
		_, err = client.Get(ctx, "health")

		cancel()

		if !e.boot.IsStopping() {
			e.boot.services.Health("etcd", err)
		}
	}
}

func (e *etcd) running() *process.Process {
	e.mu.Lock()
	defer e.mu.Unlock()

	return e.process
}

func (e *etcd) stop(grace time.Duration) {
	if p := e.running(); p != nil {
		p.Stop(grace)
		e.boot.services.Set("etcd", services.StateFinished, "Service finished successfully")
	}
}

func (e *etcd) kill() {
	if p := e.running(); p != nil {
		p.Stop(0)
	}
}
