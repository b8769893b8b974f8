// Package guestinfo reads what the hypervisor tells a machine: its network and its first configuration.
package guestinfo

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/constants"
	"gopkg.in/yaml.v3"
)

// Network is what the VMware platform tells Talos about the network
// (Talos 1.13.9, internal/app/machined/pkg/runtime/v1alpha1/platform/vmware/metadata.go).
type Network struct {
	Hostname   string
	InstanceID string
	Addresses  []netip.Prefix
	// Cards are the addresses of further network cards, by name.
	Cards     map[string][]netip.Prefix
	Gateway   netip.Addr
	Resolvers []netip.Addr
}

// metadata is guestinfo.metadata: the part of cloud-init's network configuration version 2 that Talos reads.
type metadata struct {
	InstanceID    string `yaml:"instance-id"`
	LocalHostname string `yaml:"local-hostname"`
	Network       struct {
		Version   int                 `yaml:"version"`
		Ethernets map[string]ethernet `yaml:"ethernets"`
	} `yaml:"network"`
}

type ethernet struct {
	SetName     string   `yaml:"set-name"`
	Addresses   []string `yaml:"addresses"`
	Gateway4    string   `yaml:"gateway4"`
	Gateway6    string   `yaml:"gateway6"`
	Nameservers struct {
		Addresses []string `yaml:"addresses"`
	} `yaml:"nameservers"`
}

// readValue decodes a guestinfo key; a missing or empty one is no value and no error.
//
// Talos decodes base64 only and never looks at guestinfo.<key>.encoding; a "gzip+base64" value therefore
// is refused here as Talos refuses it: the decoded bytes are not YAML.
func readValue(guestInfo map[string]string, key string) ([]byte, error) {
	key = constants.VMwareGuestInfoPrefix + key

	decoded, err := base64.StdEncoding.DecodeString(guestInfo[key])
	if err != nil {
		return nil, fmt.Errorf("failed to decode extraConfig %s: %w", key, err)
	}

	if isGzip(decoded) {
		return nil, fmt.Errorf("extraConfig %s is gzip+base64, and Talos reads base64 only: %s", key, firstLine(decoded))
	}

	return decoded, nil
}

func isGzip(data []byte) bool {
	return len(data) > 1 && data[0] == 0x1f && data[1] == 0x8b
}

// firstLine names compressed data by its first line, for an error message.
func firstLine(compressed []byte) string {
	reader, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return "damaged"
	}

	plain, err := io.ReadAll(io.LimitReader(reader, 80))
	if err != nil {
		return "damaged"
	}

	line, _, _ := strings.Cut(string(plain), "\n")

	return "begins with " + line
}

// ReadNetwork reads guestinfo.metadata; nil when there is none.
func ReadNetwork(guestInfo map[string]string) (*Network, error) {
	data, err := readValue(guestInfo, constants.VMwareGuestInfoMetadataKey)
	if err != nil || len(data) == 0 {
		return nil, err
	}

	var metadata metadata
	if err := yaml.Unmarshal(data, &metadata); err != nil {
		return nil, fmt.Errorf("failed to unmarshall metadata '%s'. Error '%w'", data, err)
	}

	if metadata.Network.Version != 2 {
		return nil, fmt.Errorf("GuestInfo version=%d is not supported. GuestInfo: %s", metadata.Network.Version, data)
	}

	platform := &Network{Hostname: metadata.LocalHostname, InstanceID: metadata.InstanceID, Cards: map[string][]netip.Prefix{}}

	for name, ethernet := range metadata.Network.Ethernets {
		if ethernet.SetName != "" {
			name = ethernet.SetName
		}

		if name != "eth0" {
			addresses, err := prefixes(ethernet.Addresses)
			if err != nil {
				return nil, fmt.Errorf("failed to apply metadata '%s'. Error '%w'", data, err)
			}

			platform.Cards[name] = addresses

			continue
		}

		if err := platform.add(ethernet); err != nil {
			return nil, fmt.Errorf("failed to apply metadata '%s'. Error '%w'", data, err)
		}
	}

	return platform, nil
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	var found []netip.Prefix

	for _, text := range texts {
		address, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}

		found = append(found, address)
	}

	return found, nil
}

func (p *Network) add(ethernet ethernet) error {
	addresses, err := prefixes(ethernet.Addresses)
	if err != nil {
		return err
	}

	p.Addresses = append(p.Addresses, addresses...)

	for _, text := range []string{ethernet.Gateway6, ethernet.Gateway4} {
		if text == "" {
			continue
		}

		gateway, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}

		p.Gateway = gateway
	}

	for _, text := range ethernet.Nameservers.Addresses {
		resolver, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}

		p.Resolvers = append(p.Resolvers, resolver)
	}

	return nil
}

// ReadConfig is the machine configuration that the hypervisor gives: guestinfo.talos.config, else
// guestinfo.userdata. Empty when neither is there.
func ReadConfig(guestInfo map[string]string) ([]byte, error) {
	for _, key := range []string{constants.VMwareGuestInfoConfigKey, constants.VMwareGuestInfoFallbackKey} {
		data, err := readValue(guestInfo, key)
		if err != nil || len(data) > 0 {
			return data, err
		}
	}

	return nil, nil
}
