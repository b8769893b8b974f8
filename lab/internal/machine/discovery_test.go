package machine

import (
	"net/netip"
	"testing"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
)

func TestDiscoveryKnowsAClustersMachinesUntilTheyLeave(t *testing.T) {
	d := newDiscovery()
	d.announce("a", affiliate{NodeID: "2", Hostname: "node02", Addresses: []netip.Addr{netip.MustParseAddr("172.16.20.52")}, MachineType: machinetype.TypeWorker})
	d.announce("a", affiliate{NodeID: "1", Hostname: "node01", Addresses: []netip.Addr{netip.MustParseAddr("172.16.20.51")}, MachineType: machinetype.TypeControlPlane})
	d.announce("b", affiliate{NodeID: "3", Hostname: "other"})

	if members := d.members("a"); len(members) != 2 || members[0].Hostname != "node01" {
		t.Errorf("%v", members)
	}

	if planes := d.controlPlanes("a"); len(planes) != 1 || planes[0].String() != "172.16.20.51" {
		t.Errorf("%v", planes)
	}

	d.forget("a", "1")

	if planes := d.controlPlanes("a"); len(planes) != 0 {
		t.Errorf("%v", planes)
	}
}
