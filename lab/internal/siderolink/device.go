package siderolink

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/siderolabs/siderolink/pkg/wireguard"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// device is a WireGuard interface of a machine. It is made in userspace, over a TUN device: the kernel needs no module for
// it, and it lives in the machine's network namespace while this process drives it.
type device struct {
	// name is that of the link.
	name string
	wg   *wgdevice.Device
	// serverKey is the public key of the only peer; "" before there is one.
	serverKey string
}

// newDevice makes the link; it is down and knows no peer.
func newDevice(network Network, name string, bind conn.Bind, log *slog.Logger) (*device, error) {
	made := &device{name: name}

	err := network.Do(func() error {
		link, err := tun.CreateTUN(name, wireguard.LinkMTU)
		if err != nil {
			return fmt.Errorf("link %s: TUN device (/dev/net/tun): %w", name, err)
		}

		made.wg = wgdevice.NewDevice(fixedMTU{link}, insideBind{bind, network}, &wgdevice.Logger{
			Verbosef: wgdevice.DiscardLogf,
			Errorf:   func(format string, values ...any) { log.Warn("wireguard: " + fmt.Sprintf(format, values...)) },
		})

		return nil
	})

	return made, err
}

// configure makes the server the only peer.
func (d *device) configure(private key, serverKey string, endpoint, server netip.Addr, port uint16) error {
	public, err := base64.StdEncoding.DecodeString(serverKey)
	if err != nil {
		return fmt.Errorf("error parsing server public key: %w", err)
	}

	var text strings.Builder

	fmt.Fprintf(&text, "private_key=%s\n", hex.EncodeToString(private[:]))

	if d.serverKey != serverKey { // the same one keeps its session
		text.WriteString("replace_peers=true\n")
	}

	fmt.Fprintf(&text, "public_key=%s\nendpoint=%s\npersistent_keepalive_interval=%d\nreplace_allowed_ips=true\nallowed_ip=%s\n",
		hex.EncodeToString(public), netip.AddrPortFrom(endpoint, port), int(constants.SideroLinkDefaultPeerKeepalive.Seconds()),
		netip.PrefixFrom(server, server.BitLen()))

	if err := d.wg.IpcSet(text.String()); err != nil {
		return fmt.Errorf("link %s: %w", d.name, err)
	}

	d.serverKey = serverKey

	return nil
}

// sinceHandshake is how long ago the server last answered; more than half a century when it never did.
func (d *device) sinceHandshake() (time.Duration, error) {
	state, err := d.wg.IpcGet()
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", d.name, err)
	}

	var seconds int64

	for line := range strings.Lines(state) {
		if text, found := strings.CutPrefix(strings.TrimSpace(line), "last_handshake_time_sec="); found {
			if seconds, err = strconv.ParseInt(text, 10, 64); err != nil {
				return 0, fmt.Errorf("link %s: %w", d.name, err)
			}
		}
	}

	return time.Since(time.Unix(seconds, 0)), nil
}

// close takes the link away.
func (d *device) close() { d.wg.Close() }

// fixedMTU answers for the link's MTU, which only a thread in the machine's namespace could ask the kernel for.
type fixedMTU struct{ tun.Device }

// MTU is that of SideroLink, in bytes.
func (fixedMTU) MTU() (int, error) { return wireguard.LinkMTU, nil }

// insideBind opens the sockets of WireGuard over UDP in the machine's namespace.
type insideBind struct {
	conn.Bind

	network Network
}

// Open opens the sockets; a port of 0 is any.
func (b insideBind) Open(port uint16) (receive []conn.ReceiveFunc, actual uint16, err error) {
	err = b.network.Do(func() error {
		receive, actual, err = b.Bind.Open(port)

		return err
	})

	return receive, actual, err
}

// addrPort reads "address:port"; a name is looked up again each time.
func addrPort(endpoint string) (netip.Addr, uint16, error) {
	resolved, err := net.ResolveUDPAddr("udp", endpoint)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("error resolving endpoint %q: %w", endpoint, err)
	}

	found := resolved.AddrPort()

	return found.Addr().Unmap(), found.Port(), nil
}
