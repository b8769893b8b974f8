package discovery

import (
	"net/netip"
	"testing"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
)

func TestDiscoveryKnowsAClustersMachinesUntilTheyLeave(t *testing.T) {
	d := New(func() {})
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

func TestDiscoveryTellsOfAMachineThatIsAnotherOneAndOfNoOther(t *testing.T) {
	told := 0
	d := New(func() { told++ })
	member := func(address string) Member {
		return Member{NodeID: "1", Hostname: "node01", Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}

	for _, step := range []struct {
		what   string
		change func()
		told   int
	}{
		{"one comes", func() { d.Announce("a", member("172.16.20.51")) }, 1},
		{"it says the same again", func() { d.Announce("a", member("172.16.20.51")) }, 1},
		{"it has another address", func() { d.Announce("a", member("172.16.20.52")) }, 2},
		{"one goes that nobody knows", func() { d.Forget("a", "2") }, 2},
		{"it goes", func() { d.Forget("a", "1") }, 3},
	} {
		if step.change(); told != step.told {
			t.Errorf("%s: told %d times, not %d", step.what, told, step.told)
		}
	}
}
