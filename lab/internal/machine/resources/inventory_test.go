package resources

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/vishvananda/netlink"
)

func TestARouteIsDescribedAsTheKernelHasIt(t *testing.T) {
	names := map[int]string{2: "eth0", 3: "siderolink"}
	inside := netlink.Route{
		LinkIndex: 3, Family: netlink.FAMILY_V6, Table: 254, Priority: 256,
		Dst: &net.IPNet{IP: net.ParseIP("fdae:41e4:649b:9303::"), Mask: net.CIDRMask(64, 128)},
	}

	if got := describeRoute(inside, names); got.OutLinkName != "siderolink" || got.Family != nethelpers.FamilyInet6 ||
		got.Destination != netip.MustParsePrefix("fdae:41e4:649b:9303::/64") || got.Priority != 256 || got.Gateway.IsValid() {
		t.Errorf("%+v", got)
	}

	everything := netlink.Route{
		LinkIndex: 2, Family: netlink.FAMILY_V4, Table: 254, Gw: net.IPv4(172, 16, 20, 1), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	}

	if got := describeRoute(everything, names); got.Destination.IsValid() || got.Gateway != netip.MustParseAddr("172.16.20.1") || got.OutLinkName != "eth0" {
		t.Errorf("%+v", got)
	}
}

func TestTheDiscoveryServiceHasThePortOfItsScheme(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://discovery.talos.dev/":            "discovery.talos.dev:443",
		"http://[fdae:41e4:649b:9303::1]:8093":    "[fdae:41e4:649b:9303::1]:8093",
		"http://discovery.example.net/some/where": "discovery.example.net:80",
	} {
		if got, insecure := endpointOf(endpoint); got != want || insecure != strings.HasPrefix(endpoint, "http:") {
			t.Errorf("%s: %s", endpoint, got)
		}
	}
}

func TestTheKernelsArgumentsAreThoseOfTheImageForVMware(t *testing.T) {
	got := kernelArguments("v1.13.9")
	for _, wanted := range []string{"talos.platform=vmware", "talos.config=guestinfo", "net.ifnames=0", "pti=on"} {
		if !strings.Contains(" "+got+" ", " "+wanted+" ") {
			t.Errorf("%s is missing: %s", wanted, got)
		}
	}
}
