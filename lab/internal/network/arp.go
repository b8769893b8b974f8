package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	arpPacketLength      = 28
	arpHardwareEthernet  = 1
	arpOperationRequest  = 1
	hardwareAddressBytes = 6
)

// Announce sends a gratuitous ARP request for an address of eth0, so that neighbours learn
// that it has moved here (what Talos does for a VIP's new holder). IPv6 addresses are left to the kernel.
func (n *Namespace) Announce(address netip.Addr) error {
	if !address.Is4() {
		return nil
	}

	return n.onInterface("announce "+address.String(), func(link netlink.Link) error {
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		defer unix.Close(socket)

		destination := &unix.SockaddrLinklayer{
			Protocol: networkOrder(unix.ETH_P_ARP),
			Ifindex:  link.Attrs().Index,
			Halen:    hardwareAddressBytes,
			Addr:     [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		}

		return unix.Sendto(socket, gratuitousARP(link.Attrs().HardwareAddr, address), 0, destination)
	})
}

// gratuitousARP is a request in which sender and target are the same address (RFC 5227, section 3).
func gratuitousARP(hardware []byte, address netip.Addr) []byte {
	packet := make([]byte, 0, arpPacketLength)
	packet = binary.BigEndian.AppendUint16(packet, arpHardwareEthernet)
	packet = binary.BigEndian.AppendUint16(packet, unix.ETH_P_IP)
	packet = append(packet, hardwareAddressBytes, net4Bytes)
	packet = binary.BigEndian.AppendUint16(packet, arpOperationRequest)

	for range 2 {
		packet = append(packet, hardware...)
		packet = append(packet, address.AsSlice()...)
	}

	return packet
}

const net4Bytes = 4

func networkOrder(value uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, value))
}
