// Package discovery stands in for the service by which the machines of a cluster find each other.
package discovery

import (
	"maps"
	"net/netip"
	"reflect"
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
}

// affiliate is a member as the service keeps it.
type affiliate struct {
	Member

	expires time.Time
}

// Service stands in for Talos' discovery service: per cluster, who is there.
type Service struct {
	// changed is told when a cluster's machines are others.
	changed func()

	mu       sync.Mutex
	clusters map[string]map[string]affiliate
}

// New knows no machine yet.
func New(changed func()) *Service {
	return &Service{changed: changed, clusters: map[string]map[string]affiliate{}}
}

// Announce says that a machine of a cluster is there.
func (d *Service) Announce(cluster string, member Member) {
	d.change(cluster, func(known map[string]affiliate) {
		known[member.NodeID] = affiliate{member, time.Now().Add(affiliateLifetime)}
	})
}

// Forget drops a machine that has left its cluster.
func (d *Service) Forget(cluster, nodeID string) {
	d.change(cluster, func(known map[string]affiliate) { delete(known, nodeID) })
}

// change changes a cluster's machines, forgets those that have gone silent, and tells of it.
func (d *Service) change(cluster string, how func(known map[string]affiliate)) {
	d.mu.Lock()

	known := d.clusters[cluster]
	if known == nil {
		known = map[string]affiliate{}
		d.clusters[cluster] = known
	}

	before := maps.Clone(known)

	how(known)
	maps.DeleteFunc(known, func(_ string, one affiliate) bool { return time.Now().After(one.expires) })

	same := maps.EqualFunc(before, known, func(a, b affiliate) bool { return reflect.DeepEqual(a.Member, b.Member) })

	d.mu.Unlock()

	if !same {
		d.changed()
	}
}

// Members are a cluster's known machines in the order of their names.
func (d *Service) Members(cluster string) []Member {
	d.mu.Lock()
	defer d.mu.Unlock()

	var members []Member
	for _, one := range d.clusters[cluster] {
		members = append(members, one.Member)
	}

	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Hostname, b.Hostname) })

	return members
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
