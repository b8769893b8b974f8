// Package discovery stands in for the service by which the machines of a cluster find each other.
package discovery

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
)

// affiliateLifetime is how long the discovery service remembers a machine that has gone silent (Talos: 30 minutes).
const affiliateLifetime = 30 * time.Minute

// Member is what a machine tells the others of its cluster.
type Member struct {
	NodeID          string
	Hostname        string
	Addresses       []netip.Addr
	MachineType     machinetype.Type
	OperatingSystem string

	expires time.Time
}

// Service stands in for Talos' discovery service: per cluster, who is there.
type Service struct {
	mu       sync.Mutex
	clusters map[string]map[string]Member
}

// New knows no machine yet.
func New() *Service {
	return &Service{clusters: map[string]map[string]Member{}}
}

// Announce says that a machine of a cluster is there.
func (d *Service) Announce(cluster string, member Member) {
	d.mu.Lock()
	defer d.mu.Unlock()

	if d.clusters[cluster] == nil {
		d.clusters[cluster] = map[string]Member{}
	}

	member.expires = time.Now().Add(affiliateLifetime)
	d.clusters[cluster][member.NodeID] = member
}

// Forget drops a machine that has left its cluster.
func (d *Service) Forget(cluster, nodeID string) {
	d.mu.Lock()
	defer d.mu.Unlock()

	delete(d.clusters[cluster], nodeID)
}

// Members are a cluster's known machines in the order of their names.
func (d *Service) Members(cluster string) []Member {
	d.mu.Lock()
	defer d.mu.Unlock()

	maps.DeleteFunc(d.clusters[cluster], func(_ string, member Member) bool { return time.Now().After(member.expires) })

	return slices.SortedFunc(maps.Values(d.clusters[cluster]), func(a, b Member) int { return strings.Compare(a.Hostname, b.Hostname) })
}

// ControlPlanes are the addresses of a cluster's control planes.
func (d *Service) ControlPlanes(cluster string) []netip.Addr {
	var addresses []netip.Addr

	for _, member := range d.Members(cluster) {
		if member.MachineType.IsControlPlane() && len(member.Addresses) > 0 {
			addresses = append(addresses, member.Addresses[0])
		}
	}

	return addresses
}
