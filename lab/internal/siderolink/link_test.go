package siderolink

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/siderolabs/siderolink/pkg/wireguard"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/disk"
	machineevents "platform.lab/lab/internal/machine/events"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/isolated"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/logs"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/siderolink/linktest"
)

const (
	uuid  = "42000000-0000-4000-8000-000000000001"
	fixed = "fdae:41e4:649b:9303::51"
)

// TestMain runs the tests in namespaces of their own.
func TestMain(m *testing.M) { isolated.Main(m) }

// site is where the one machine of the tests lives, which has the same address each time.
type site struct{ *linktest.Site }

func newSite(t *testing.T) site {
	t.Helper()

	return site{linktest.NewSite(t, map[string]netip.Addr{uuid: netip.MustParseAddr(fixed)})}
}

// machine is what of a machine a link needs.
type machine struct {
	*lifetime.Lifetime

	network *guestnetwork.Network
	events  *machineevents.Stream
	disk    disk.Disk
	link    *Link
	log     *lines

	mu       sync.Mutex
	provider config.Provider
	token    string
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()

	return l.text.Write(data)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()

	return l.text.String()
}

func (m *machine) configuration() config.Provider {
	m.mu.Lock()
	defer m.mu.Unlock()

	return m.provider
}

func (m *machine) uniqueToken() string {
	m.mu.Lock()
	defer m.mu.Unlock()

	return m.token
}

func (m *machine) setToken(token string) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.token = token
}

// configure gives the machine documents; none: it has no configuration.
func (m *machine) configure(t *testing.T, documents string) {
	t.Helper()

	var provider config.Provider

	if documents != "" {
		var err error
		if provider, err = configloader.NewFromBytes([]byte(documents)); err != nil {
			t.Fatal(err)
		}
	}

	m.mu.Lock()
	defer m.mu.Unlock()

	m.provider = provider
}

// boot makes a machine at the site; change changes its link before it runs.
func (s site) boot(change func(*Link)) *machine {
	s.Helper()

	metadata := "network:\n  version: 2\n  ethernets:\n    eth0: {addresses: [172.16.20.51/24], gateway4: 172.16.20.1}\n"
	vm := hardware.VM{ID: uuid, Name: "node01", GuestInfo: map[string]string{"guestinfo.metadata": base64.StdEncoding.EncodeToString([]byte(metadata))}}
	m := &machine{log: &lines{}, disk: disk.Disk(s.TempDir())}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(m.log, s.Output()), nil))
	m.Lifetime, m.events = lifetime.New(s.Context(), log), machineevents.New(log)

	var err error
	if m.network, err = guestnetwork.New(m.Lifetime, &configuration.Active{}, vm, s.Bridge, nil); err != nil {
		s.Fatal(err)
	}

	m.network.ApplyPlatform()

	if err := os.MkdirAll(m.disk.Path(disk.LogsFolder), 0o700); err != nil {
		s.Fatal(err)
	}

	m.link, err = New(Machine{
		Lifetime: m.Lifetime, Network: m.network, Configuration: m.configuration, UUID: func() string { return uuid }, UniqueToken: m.uniqueToken,
		TalosVersion: func() string { return "v1.13.9" }, Roots: x509.SystemCertPool,
	})
	if err != nil {
		s.Fatal(err)
	}

	change(m.link)
	m.Go(m.link.Run)

	s.Cleanup(func() {
		m.Cut()
		m.Wait()

		if err := m.network.Close(); err != nil {
			s.Error(err)
		}
	})

	return m
}

// answers says whether the server reaches a port of the machine, at the machine's address at SideroLink.
func (s site) answers(m *machine) bool {
	s.Helper()

	address, _ := m.network.SideroLink()
	if !address.IsValid() {
		return false
	}

	listener, err := m.network.Listen("tcp", net.JoinHostPort(address.Addr().String(), "0"))
	if err != nil {
		return false // the address is being changed
	}
	defer listener.Close()

	conn, err := net.DialTimeout("tcp", listener.Addr().String(), time.Second)
	if err != nil {
		return false
	}

	conn.Close()

	return true
}

func unchanged(*Link) {}

func TestAMachineJoinsInsideGRPCAndSendsItsEventsAndItsKernelsLog(t *testing.T) {
	s := newSite(t)
	s.Serve()
	sink, kernel := s.Receive()
	m := s.boot(unchanged)

	// Before anybody asks for it: nothing of the boot is to be missed.
	m.events.Sequence("initialize", machineapi.SequenceEvent_START)
	m.Go((&Sink{Lifetime: m.Lifetime, Configuration: m.configuration, Events: m.events, Dial: m.network.Dial}).Run)

	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	status := m.link.Status()
	if status.Link != "siderolinktun" || !status.Tunnelled || status.Address.String() != fixed+"/64" {
		t.Errorf("%+v", status)
	}

	event := linktest.Next(t, sink)
	if sequence, ok := event.Payload.(*machineapi.SequenceEvent); !ok || sequence.Sequence != "initialize" || !strings.HasPrefix(event.Node, "["+fixed+"]:") {
		t.Errorf("%+v", event)
	}

	active := &configuration.Active{}
	active.Set(m.configuration())
	m.Go(logs.Machine{Lifetime: m.Lifetime, Active: active, Disk: m.disk, Begun: time.Now(), Dial: m.network.Dial}.Ship)

	// The log of the system is sent from the end that it has when the machine boots.
	written := logs.OfService(slog.New(slog.DiscardHandler), m.disk, "machined")
	stop := make(chan struct{})

	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				written.Info("stage maintenance")
			}
		}
	}()
	defer close(stop)

	if line := linktest.Next(t, kernel); line != fixed+" [talos] stage maintenance\n" {
		t.Errorf("%q", line)
	}
}

func TestAMachineJoinsOverUDPWithoutAKernelsHelp(t *testing.T) {
	s := newSite(t)
	s.Serve()
	m := s.boot(unchanged)
	m.configure(t, linktest.Documents("jointoken=right"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	if status := m.link.Status(); status.Link != "siderolink" || status.Tunnelled {
		t.Errorf("%+v", status)
	}
}

// TestAFirewallLetsTheServerInOverUDPAndThroughATunnelOnlyByARule is how Talos 1.13.9 builds it: it trusts the link siderolink,
// not siderolinktun (controllers/network/nftables_chain_config.go).
func TestAFirewallLetsTheServerInOverUDPAndThroughATunnelOnlyByARule(t *testing.T) {
	s := newSite(t)
	s.Serve()
	m := s.boot(unchanged)
	blocked := network.Firewall{Block: true}

	m.configure(t, linktest.Documents("jointoken=right"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	if err := m.network.SetFirewall(&blocked); err != nil {
		t.Fatal(err)
	}

	s.Until("the server still reaches the machine", func() bool { return s.answers(m) })

	if err := m.network.SetFirewall(nil); err != nil {
		t.Fatal(err)
	}

	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine through the tunnel", func() bool { return m.link.Status().Tunnelled && s.answers(m) })

	if err := m.network.SetFirewall(&blocked); err != nil {
		t.Fatal(err)
	}

	if s.answers(m) {
		t.Error("the firewall let the server in")
	}

	blocked.Rules = []network.FirewallRule{{Protocol: network.TCP, Ports: [][2]uint16{{1, 65535}}, From: []netip.Prefix{wireguard.NetworkPrefix("")}}}
	if err := m.network.SetFirewall(&blocked); err != nil {
		t.Fatal(err)
	}

	s.Until("the server reaches the machine by a rule", func() bool { return s.answers(m) })
}

func TestAWrongTokenIsRefusedInTheServersWordsAndTheRightOneIsTakenLater(t *testing.T) {
	s := newSite(t)
	s.Serve()
	m := s.boot(unchanged)
	m.configure(t, linktest.Documents("jointoken=wrong&grpc_tunnel=true"))

	const words = "error provisioning: rpc error: code = PermissionDenied desc = invalid join token"
	s.Until("two refusals", func() bool { return strings.Count(m.log.String(), words) > 1 })

	if status := m.link.Status(); status.Link != "" || s.Peers() > 0 {
		t.Errorf("%+v, %d peers", status, s.Peers())
	}

	if strings.Contains(m.log.String(), "wrong") {
		t.Error("the log shows the token")
	}

	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })
}

func TestAnotherUniqueTokenAsksForAnotherPlace(t *testing.T) {
	s := newSite(t)
	s.Serve()
	m := s.boot(unchanged)
	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	before := m.link.Status().Peer
	m.setToken("told-apart")
	s.Until("another place", func() bool { return m.link.Status().Peer != before })
	s.Until("the server reaches the machine again", func() bool { return s.answers(m) })

	if s.Peers() < 2 {
		t.Error(s.Peers())
	}
}

func TestAMachineWhoseConfigurationNamesNoServerLeaves(t *testing.T) {
	s := newSite(t)
	s.Serve()
	m := s.boot(unchanged)
	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	m.configure(t, "")
	s.Until("the machine has left", func() bool { return m.link.Status() == Status{} })

	if address, _ := m.network.SideroLink(); address.IsValid() {
		t.Error(address)
	}

	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine again", func() bool { return s.answers(m) })
}

// TestAServerThatForgotTheMachineIsAskedAgain is with shorter times than Talos': it waits 275 s for a silent server.
func TestAServerThatForgotTheMachineIsAskedAgain(t *testing.T) {
	s := newSite(t)
	stop := s.Serve()
	m := s.boot(func(l *Link) { l.downAfter, l.checkEvery = 20*time.Second, time.Second })
	m.configure(t, linktest.Documents("jointoken=right&grpc_tunnel=true"))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	stop()
	s.Serve() // with another key, and without peers
	s.Until("the server reaches the machine again", func() bool { return s.answers(m) })
}

func TestABrokenStreamIsOpenedAgainToTheSamePlace(t *testing.T) {
	s := newSite(t)
	s.Serve()

	between, cut := s.proxy()
	m := s.boot(unchanged)
	m.configure(t, strings.Replace(linktest.Documents("jointoken=right&grpc_tunnel=true"), linktest.API, between, 1))
	s.Until("the server reaches the machine", func() bool { return s.answers(m) })

	before := m.link.Status().Peer

	cut()
	s.Until("the server reaches the machine again", func() bool { return s.answers(m) })

	if after := m.link.Status().Peer; after != before || s.Peers() != 1 {
		t.Errorf("%s became %s, %d peers", before, after, s.Peers())
	}
}

// proxy is a way to the API whose connections can be cut.
func (s site) proxy() (address string, cut func()) {
	s.Helper()

	listener, err := net.Listen("tcp", "172.16.20.1:0")
	if err != nil {
		s.Fatal(err)
	}

	s.Cleanup(func() { listener.Close() })

	var (
		mu   sync.Mutex
		open []net.Conn
	)

	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}

			far, err := net.Dial("tcp", linktest.API)
			if err != nil {
				near.Close()

				continue
			}

			mu.Lock()
			open = append(open, near, far)
			mu.Unlock()

			go func() { _, _ = io.Copy(near, far) }()
			go func() { _, _ = io.Copy(far, near) }()
		}
	}()

	return listener.Addr().String(), func() {
		mu.Lock()
		defer mu.Unlock()

		for _, conn := range open {
			conn.Close()
		}

		open = nil
	}
}
