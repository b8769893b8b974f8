package machine

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

// affiliate is what a machine tells the others of its cluster.
type affiliate struct {
	NodeID          string
	Hostname        string
	Addresses       []netip.Addr
	MachineType     machinetype.Type
	OperatingSystem string

	expires time.Time
}

// discovery stands in for Talos' discovery service: per cluster, who is there.
type discovery struct {
	mu       sync.Mutex
	clusters map[string]map[string]affiliate
}

func newDiscovery() *discovery {
	return &discovery{clusters: map[string]map[string]affiliate{}}
}

func (d *discovery) announce(cluster string, member affiliate) {
	d.mu.Lock()
	defer d.mu.Unlock()

	if d.clusters[cluster] == nil {
		d.clusters[cluster] = map[string]affiliate{}
	}

	member.expires = time.Now().Add(affiliateLifetime)
	d.clusters[cluster][member.NodeID] = member
}

func (d *discovery) forget(cluster, nodeID string) {
	d.mu.Lock()
	defer d.mu.Unlock()

	delete(d.clusters[cluster], nodeID)
}

// members are a cluster's known machines in the order of their names.
func (d *discovery) members(cluster string) []affiliate {
	d.mu.Lock()
	defer d.mu.Unlock()

	maps.DeleteFunc(d.clusters[cluster], func(_ string, member affiliate) bool { return time.Now().After(member.expires) })

	return slices.SortedFunc(maps.Values(d.clusters[cluster]), func(a, b affiliate) int { return strings.Compare(a.Hostname, b.Hostname) })
}

// controlPlanes are the addresses of a cluster's control planes.
func (d *discovery) controlPlanes(cluster string) []netip.Addr {
	var addresses []netip.Addr

	for _, member := range d.members(cluster) {
		if member.MachineType.IsControlPlane() && len(member.Addresses) > 0 {
			addresses = append(addresses, member.Addresses[0])
		}
	}

	return addresses
}
