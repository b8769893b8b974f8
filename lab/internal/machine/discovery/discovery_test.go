package discovery

import (
	"net/netip"
	"testing"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
)

func TestDiscoveryKnowsAClustersMachinesUntilTheyLeave(t *testing.T) {
	d := New()
	d.Announce("a", Member{NodeID: "2", Hostname: "node02", Addresses: []netip.Addr{netip.MustParseAddr("172.16.20.52")}, MachineType: machinetype.TypeWorker})
	d.Announce("a", Member{NodeID: "1", Hostname: "node01", Addresses: []netip.Addr{netip.MustParseAddr("172.16.20.51")}, MachineType: machinetype.TypeControlPlane})
	d.Announce("b", Member{NodeID: "3", Hostname: "other"})

	if members := d.Members("a"); len(members) != 2 || members[0].Hostname != "node01" {
		t.Errorf("%v", members)
	}

	if planes := d.ControlPlanes("a"); len(planes) != 1 || planes[0].String() != "172.16.20.51" {
		t.Errorf("%v", planes)
	}

	d.Forget("a", "1")

	if planes := d.ControlPlanes("a"); len(planes) != 0 {
		t.Errorf("%v", planes)
	}
}
