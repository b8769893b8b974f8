// Package etcd is Talos' etcd service on a control plane: it runs the real etcd as a member of its cluster.
package etcd

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
	// ClientPort is where etcd's clients connect to.
	ClientPort = 2379
	peerPort   = 2380

	// joinInterval and promoteInterval are Talos' 3 s and 15 s, shortened.
	joinInterval    = 500 * time.Millisecond
	promoteInterval = 250 * time.Millisecond
	// MemberTimeout bounds a membership call: one can hang while another member is promoted.
	MemberTimeout = 5 * time.Second
	dialTimeout   = 3 * time.Second
	revokeTimeout = 10 * time.Second
	// leaveGrace is the time that a member which has left has to end.
	leaveGrace = time.Second
)

var errNotBootstrapped = errors.New("etcd is not running on this machine: it is neither bootstrapped nor has it joined a cluster")

// BootstrapRequest asks a machine whose etcd waits to join to begin a new cluster instead.
type BootstrapRequest struct {
	// Recover begins with the uploaded snapshot.
	Recover bool
	// SkipHashCheck takes a snapshot that was copied from a data directory.
	SkipHashCheck bool
	result        chan error
}

// Machine is what etcd needs of the machine that it runs on.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Disk      disk.Disk
	Network   *guestnetwork.Network
	Programs  process.Programs
	Services  *services.Services
	Secrets   *certificates.Secrets
	Discovery *discovery.Service
	// Bootstrapped is told of a cluster that begins, again or for the first time, before its etcd starts.
	Bootstrapped func(clusterID string)
}

// Service is Talos' etcd service: bootstrapped on demand, else joining as a learner, else resuming from its data.
type Service struct {
	Machine

	bootstraps chan BootstrapRequest

	mu      sync.Mutex
	process *process.Process
}

// New makes the service of a machine that has just begun to boot.
func New(on Machine) *Service {
	return &Service{Machine: on, bootstraps: make(chan BootstrapRequest)}
}

// Bootstrap asks etcd, which waits to join a cluster, to begin a new one instead.
func (e *Service) Bootstrap(request BootstrapRequest) error {
	request.result = make(chan error, 1)

	select {
	case e.bootstraps <- request:
		return <-request.result
	case <-time.After(MemberTimeout):
		return status.Error(codes.FailedPrecondition, "bootstrap is not available yet")
	case <-e.Context().Done():
		return status.Error(codes.Unavailable, "the machine lost its power")
	}
}

func (e *Service) data() string { return e.Disk.Path(disk.EtcdFolder) }

// HasData says whether the machine was a member before.
func (e *Service) HasData() bool { return disk.HasEntries(e.data()) }

// Run is the service from the machine's boot to its end.
func (e *Service) Run() {
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
func (e *Service) begin(provider config.Provider) error {
	if e.HasData() {
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
			err := e.beginCluster(provider, request)
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
func (e *Service) watch() {
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

// Running is etcd's process; nil before it is started.
func (e *Service) Running() *process.Process {
	e.mu.Lock()
	defer e.mu.Unlock()

	return e.process
}

// Stop ends etcd in order.
func (e *Service) Stop(grace time.Duration) {
	if p := e.Running(); p != nil {
		p.Stop(grace)
		e.Services.Set("etcd", services.StateFinished, "Service finished successfully")
	}
}

// Kill ends etcd at once.
func (e *Service) Kill() {
	if p := e.Running(); p != nil {
		p.Stop(0)
	}
}
