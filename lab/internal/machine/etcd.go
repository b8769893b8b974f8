package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/lifetime"
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
	revokeTimeout = 10 * time.Second
	// leaveGrace is the time that a member which has left has to end.
	leaveGrace = time.Second
)

var errNotBootstrapped = errors.New("etcd is not running on this machine: it is neither bootstrapped nor has it joined a cluster")

// bootstrapRequest asks a machine whose etcd waits to join to begin a new cluster instead.
type bootstrapRequest struct {
	// recover begins with the uploaded snapshot.
	recover       bool
	skipHashCheck bool
	result        chan error
}

// etcdMachine is what etcd needs of the machine that it runs on.
type etcdMachine struct {
	*lifetime.Lifetime
	*configuration.Active

	Disk      disk.Disk
	Network   *guestnetwork.Network
	Programs  process.Programs
	Services  *services.Services
	Secrets   *certificates.Secrets
	Discovery *discovery.Service
	// Bootstrapped is told of a cluster that begins, anew or for the first time, before its etcd starts.
	Bootstrapped func(clusterID string)
}

// etcd is Talos' etcd service: bootstrapped on demand, else joining as a learner, else resuming from its data.
type etcd struct {
	etcdMachine

	bootstraps chan bootstrapRequest

	mu      sync.Mutex
	process *process.Process
}

// newEtcd makes the service of a machine that has just begun to boot.
func newEtcd(on etcdMachine) *etcd {
	return &etcd{etcdMachine: on, bootstraps: make(chan bootstrapRequest)}
}

// bootstrapNow asks etcd, which waits to join a cluster, to begin a new one instead.
func (e *etcd) bootstrapNow(request bootstrapRequest) error {
	request.result = make(chan error, 1)

	select {
	case e.bootstraps <- request:
		return <-request.result
	case <-time.After(memberTimeout):
		return status.Error(codes.FailedPrecondition, "bootstrap is not available yet")
	case <-e.Context().Done():
		return status.Error(codes.Unavailable, "the machine lost its power")
	}
}

func (e *etcd) data() string { return e.Disk.Path(disk.EtcdFolder) }

// hasData says whether the machine was a member before.
func (e *etcd) hasData() bool { return disk.HasEntries(e.data()) }

// run is the service from the machine's boot to its end.
func (e *etcd) run() {
	e.Services.Set("etcd", services.StatePreparing, "Running pre state")

	for !e.IsStopping() {
		provider := e.Provider()

		err := e.Secrets.WriteEtcd(provider)
		if err == nil {
			err = e.begin(provider)
		}

		if err == nil {
			break
		}

		e.Log.Warn("etcd does not start yet", "error", err)

		if !e.Sleep(joinInterval) {
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
			e.Log.Info("etcd waits to join the cluster; if this is its first machine: talosctl bootstrap")
			nagged = time.Now()
		}

		select {
		case <-e.Context().Done():
			return nil
		case <-e.Stopping():
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

	for ; !e.IsStopping(); e.Sleep(services.ProbeInterval(err)) {
		if client == nil {
			if client, err = e.client(guestnetwork.Loopback); err != nil {
				e.Services.Health("etcd", err)

				continue
			}

			defer client.Close()
		}

		ctx, cancel := context.WithTimeout(e.Context(), dialTimeout)
		_, err = client.Get(ctx, "health")

		cancel()

		if !e.IsStopping() {
			e.Services.Health("etcd", err)
		}
	}
}

// running is etcd's process; nil before it is started.
func (e *etcd) running() *process.Process {
	e.mu.Lock()
	defer e.mu.Unlock()

	return e.process
}

// stop ends etcd in order.
func (e *etcd) stop(grace time.Duration) {
	if p := e.running(); p != nil {
		p.Stop(grace)
		e.Services.Set("etcd", services.StateFinished, "Service finished successfully")
	}
}

// kill ends etcd at once.
func (e *etcd) kill() {
	if p := e.running(); p != nil {
		p.Stop(0)
	}
}
