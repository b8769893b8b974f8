package guestinfo

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func withMetadata(text string) map[string]string {
	return map[string]string{"guestinfo.metadata": base64.StdEncoding.EncodeToString([]byte(text))}
}

func TestTheStaticAddressComesFromTheMetadata(t *testing.T) {
	platform, err := ReadNetwork(withMetadata(`
instance-id: node01-id
local-hostname: node01
network:
  version: 2
  ethernets:
    nic:
      set-name: eth0
      addresses: [172.16.20.51/24]
      gateway4: 172.16.20.1
      nameservers: {addresses: [172.16.20.2, 172.16.20.3]}
    ens192:
      addresses: [10.0.0.1/8]
`))
	if err != nil {
		t.Fatal(err)
	}

	if platform.Hostname != "node01" || platform.InstanceID != "node01-id" || platform.Gateway.String() != "172.16.20.1" {
		t.Errorf("%+v", platform)
	}

	if !slices.Equal(platform.Addresses, []netip.Prefix{netip.MustParsePrefix("172.16.20.51/24")}) {
		t.Errorf("addresses %v", platform.Addresses)
	}

	if len(platform.Resolvers) != 2 {
		t.Errorf("resolvers %v", platform.Resolvers)
	}
}

func TestWithoutMetadataThereIsNoNetwork(t *testing.T) {
	platform, err := ReadNetwork(nil)
	if platform != nil || err != nil {
		t.Errorf("%v, %v", platform, err)
	}
}

func TestMetadataThatTalosRefusesIsRefused(t *testing.T) {
	var compressed bytes.Buffer

	writer := gzip.NewWriter(&compressed)
	_, _ = writer.Write([]byte("network: {version: 2}"))
	writer.Close()

	for name, c := range map[string]struct {
		guestInfo map[string]string
		want      string
	}{
		"not base64":   {map[string]string{"guestinfo.metadata": "network: {}"}, "failed to decode extraConfig guestinfo.metadata"},
		"gzip":         {map[string]string{"guestinfo.metadata": base64.StdEncoding.EncodeToString(compressed.Bytes())}, "Talos reads base64 only: begins with network"},
		"version 1":    {withMetadata("network: {version: 1}"), "GuestInfo version=1 is not supported"},
		"no prefix":    {withMetadata("network: {version: 2, ethernets: {eth0: {addresses: [172.16.20.51]}}}"), "failed to apply metadata"},
		"bad gateway":  {withMetadata("network: {version: 2, ethernets: {eth0: {gateway4: nowhere}}}"), "failed to apply metadata"},
		"bad resolver": {withMetadata("network: {version: 2, ethernets: {eth0: {nameservers: {addresses: [dns.example]}}}}"), "failed to apply metadata"},
		"no YAML":      {withMetadata("a: b: c"), "failed to unmarshall metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadNetwork(c.guestInfo)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheConfigurationOfTheHypervisorComesFromTalosConfigFirst(t *testing.T) {
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

	for want, guestInfo := range map[string]map[string]string{
		"first":  {"guestinfo.talos.config": encode("first"), "guestinfo.userdata": encode("second")},
		"second": {"guestinfo.userdata": encode("second")},
		"":       {},
	} {
		data, err := ReadConfig(guestInfo)
		if err != nil || string(data) != want {
			t.Errorf("%q, %v, not %q", data, err, want)
		}
	}
}
