package guestnetwork

import (
	"net/netip"
	"slices"
	"testing"

	"platform.lab/lab/internal/machine/configtest"
	"platform.lab/lab/internal/machine/guestinfo"
)

func TestTheMachineConfigurationAddsToThePlatformsNetwork(t *testing.T) {
	platform := &guestinfo.Network{Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.20.51/24")}, Gateway: netip.MustParseAddr("172.16.20.1")}
	provider := configtest.Patched(t, configtest.Base(t), "apiVersion: v1alpha1\nkind: LinkConfig\nname: eth0\n"+
		"addresses: [{address: 172.16.20.51/24}, {address: 172.16.20.61/24}]\nroutes: [{gateway: 172.16.20.254}]\n")

	addresses, gateway := wantedNetwork(platform, provider)
	if want := []netip.Prefix{netip.MustParsePrefix("172.16.20.51/24"), netip.MustParsePrefix("172.16.20.61/24")}; !slices.Equal(addresses, want) {
		t.Errorf("addresses %v", addresses)
	}

	if gateway.String() != "172.16.20.254" {
		t.Errorf("gateway %s", gateway)
	}
}

func TestTheVIPComesFromItsDocumentAndFromTheOlderField(t *testing.T) {
	for name, patch := range map[string]string{
		"document": "apiVersion: v1alpha1\nkind: Layer2VIPConfig\nname: 172.16.20.250\nlink: eth0\n",
		"field":    `machine: {network: {interfaces: [{interface: eth0, vip: {ip: 172.16.20.250}}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			vip, ok := VirtualIP(configtest.Patched(t, configtest.Base(t), patch))
			if !ok || vip.String() != "172.16.20.250" {
				t.Errorf("%s, %t", vip, ok)
			}
		})
	}

	if vip, ok := VirtualIP(configtest.Base(t)); ok {
		t.Errorf("a VIP from nowhere: %s", vip)
	}
}
