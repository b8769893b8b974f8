package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// insideVariable marks the copy of the test binary that runs in its own namespaces.
const insideVariable = "LAB_NETWORK_TEST_INSIDE"

// TestMain runs the tests in a user and network namespace of their own.
func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		os.Exit(m.Run())
	}

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}

	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

var (
	gateway = netip.MustParsePrefix("192.0.2.254/24")
	first   = netip.MustParsePrefix("192.0.2.11/24")
	second  = netip.MustParsePrefix("192.0.2.12/24")
	shared  = netip.MustParsePrefix("192.0.2.250/32")
)

func newBridge(t *testing.T) *Bridge {
	t.Helper()

	bridge, err := NewBridge("lab0", gateway)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		if err := bridge.Close(); err != nil {
			t.Error(err)
		}
	})

	return bridge
}

func newNamespace(t *testing.T, bridge *Bridge, name string, address netip.Prefix) *Namespace {
	t.Helper()

	namespace, err := bridge.NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { namespace.Close() })

	if err := namespace.AddAddress(address); err != nil {
		t.Fatal(err)
	}

	return namespace
}

// patience is how long a test waits for what must come. On a busy machine a thread may not run for seconds.
const patience = 20 * time.Second

// serve answers every connection to the namespace with its own name.
func serve(t *testing.T, namespace *Namespace) {
	t.Helper()

	listener, err := namespace.Listen("tcp", "0.0.0.0:9")
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { listener.Close() })

	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}

			_, _ = io.WriteString(conn, namespace.name)
			conn.Close()
		}
	}()
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// answerOf is what the server says to a connection, or why there is none.
func answerOf(t *testing.T, dial dialer, address netip.Prefix) string {
	t.Helper()

	return answerWithin(t, patience, dial, address)
}

// isSilent says whether nobody answers; who would answer has a second to do so.
func isSilent(t *testing.T, name string, dial dialer, address netip.Prefix) bool {
	t.Helper()

	return answerWithin(t, time.Second, dial, address) != name
}

func answerWithin(t *testing.T, limit time.Duration, dial dialer, address netip.Prefix) string {
	t.Helper()

	answer, err := ask(t, limit, dial, netip.AddrPortFrom(address.Addr(), 9))
	if err != nil {
		return err.Error()
	}

	return answer
}

// ask gives all that a server says to a connection.
func ask(t *testing.T, limit time.Duration, dial dialer, at netip.AddrPort) (string, error) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()

	conn, err := dial(ctx, "tcp", at.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()

	answer, err := io.ReadAll(conn)

	return string(answer), err
}

func TestNamespacesReachEachOtherAndTheBridge(t *testing.T) {
	bridge := newBridge(t)
	one, two := newNamespace(t, bridge, "one", first), newNamespace(t, bridge, "two", second)
	serve(t, two)

	if got := answerOf(t, one.DialContext, second); got != "two" {
		t.Errorf("from the other namespace: %q", got)
	}

	if got := answerOf(t, new(net.Dialer).DialContext, second); got != "two" {
		t.Errorf("from the bridge: %q", got)
	}

	if err := one.SetDefaultRoute(gateway.Addr()); err != nil {
		t.Error(err)
	}
}

func TestAFurtherCardIsInANetworkOfItsOwn(t *testing.T) {
	bridge := newBridge(t)
	one, two := newNamespace(t, bridge, "one", first), newNamespace(t, bridge, "two", second)

	storage, err := NewSwitch("lab1")
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = storage.Close() })

	far := netip.MustParsePrefix("198.51.100.12/24")
	for namespace, address := range map[*Namespace]netip.Prefix{one: netip.MustParsePrefix("198.51.100.11/24"), two: far} {
		if err := namespace.AddCard(storage); err != nil {
			t.Fatal(err)
		}

		if err := namespace.AddAddressTo("eth1", address); err != nil {
			t.Fatal(err)
		}
	}

	serve(t, two)

	if got := answerOf(t, one.DialContext, far); got != "two" {
		t.Errorf("by the further card: %q", got)
	}

	if err := two.RemoveAddressFrom("eth1", far); err != nil {
		t.Error(err)
	}

	if !isSilent(t, "two", one.DialContext, far) {
		t.Error("the address is still there")
	}
}

func TestTheGatewayKeepsItsHardwareAddressWhenMachinesComeAndGo(t *testing.T) {
	bridge := newBridge(t)

	own := func() string {
		link, err := netlink.LinkByName(bridge.name)
		if err != nil {
			t.Fatal(err)
		}

		return link.Attrs().HardwareAddr.String()
	}
	before := own()

	// A bridge without an address of its own takes the lowest of its ports: with eight ports it would have changed.
	for _, name := range strings.Split("abcdefgh", "") {
		namespace, err := bridge.NewNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		defer namespace.Close()

		if now := own(); now != before {
			t.Fatalf("%s before, %s with machine %s", before, now, name)
		}
	}
}

func TestAPulledCableCutsTheMachineOffAndPluggedInItIsBack(t *testing.T) {
	bridge := newBridge(t)
	one := newNamespace(t, bridge, "one", first)
	serve(t, one)

	if err := one.SetLink(false); err != nil {
		t.Fatal(err)
	}

	if !isSilent(t, "one", new(net.Dialer).DialContext, first) {
		t.Error("the machine answers without a cable")
	}

	if err := one.SetLink(true); err != nil {
		t.Fatal(err)
	}

	for end := time.Now().Add(patience); isSilent(t, "one", new(net.Dialer).DialContext, first); {
		if time.Now().After(end) {
			t.Fatal("the machine does not answer with its cable plugged in")
		}
	}
}

func TestAMovedAddressAnswersAtOnceAfterItsAnnouncement(t *testing.T) {
	bridge := newBridge(t)
	one, two := newNamespace(t, bridge, "one", first), newNamespace(t, bridge, "two", second)
	serve(t, one)
	serve(t, two)

	holders := []*Namespace{one, two, one}
	for i, holder := range holders {
		if i > 0 {
			if err := holders[i-1].RemoveAddress(shared); err != nil {
				t.Fatal(err)
			}

			// A neighbour's entry is locked for a second after it was learnt (net.ipv4.neigh.*.locktime).
			time.Sleep(1100 * time.Millisecond)
		}

		if err := holder.AddAddress(shared); err != nil {
			t.Fatal(err)
		}

		if err := holder.Announce(shared.Addr()); err != nil {
			t.Fatal(err)
		}

		// Without the announcement the kernel would ask for the old holder for half a minute.
		if got := answerWithin(t, patience/2, new(net.Dialer).DialContext, shared); got != holder.name {
			t.Errorf("move %d: %q answers, not %q", i, got, holder.name)
		}
	}
}

func TestAProgramRunsInsideAndDoIsUndone(t *testing.T) {
	bridge := newBridge(t)
	one := newNamespace(t, bridge, "one", first)

	var output bytes.Buffer

	cmd := exec.Command("cat", "/proc/self/net/fib_trie")
	cmd.Stdout = &output

	if err := one.Start(cmd); err != nil {
		t.Fatal(err)
	}

	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	if !strings.Contains(output.String(), first.Addr().String()) || strings.Contains(output.String(), gateway.Addr().String()) {
		t.Errorf("the program did not see the machine's addresses only:\n%s", output.String())
	}

	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}

	for _, i := range interfaces {
		if i.Name == interfaceName {
			t.Error("eth0 is visible outside the namespace")
		}
	}
}

func TestAClosedNamespaceLeavesNoLink(t *testing.T) {
	bridge := newBridge(t)
	one := newNamespace(t, bridge, "one", first)

	if err := one.Close(); err != nil {
		t.Fatal(err)
	}

	if _, err := net.InterfaceByName("one"); err == nil {
		t.Error("the bridge's end of the cable is still there")
	}
}

func TestLoopbackCarriesFurtherAddresses(t *testing.T) {
	further := netip.MustParseAddr("198.51.100.7")
	if err := AddLoopback(further); err != nil {
		t.Fatal(err)
	}

	listener, err := net.Listen("tcp", net.JoinHostPort(further.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}

	listener.Close()

	for range 2 { // the second time it is not there
		if err := RemoveLoopback(further); err != nil {
			t.Fatal(err)
		}
	}

	if listener, err := net.Listen("tcp", net.JoinHostPort(further.String(), "0")); err == nil {
		listener.Close()
		t.Error("the address is still there")
	}
}

func TestAFurtherAddressOfTheBridgeIsANeighbourUntilItIsRemoved(t *testing.T) {
	bridge := newBridge(t)
	namespace := newNamespace(t, bridge, "one", first)

	if err := bridge.AddAddress(shared.Addr()); err != nil {
		t.Fatal(err)
	}

	listener, err := net.Listen("tcp", net.JoinHostPort(shared.Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	conn, err := namespace.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}

	conn.Close()

	for range 2 { // the second time it is not there
		if err := bridge.RemoveAddress(shared.Addr()); err != nil {
			t.Fatal(err)
		}
	}

	if listener, err := net.Listen("tcp", net.JoinHostPort(shared.Addr().String(), "0")); err == nil {
		listener.Close()
		t.Error("the address is still there")
	}
}

func TestConnectionsComeFromTheSourceThatIsSet(t *testing.T) {
	bridge := newBridge(t)
	namespace := newNamespace(t, bridge, "one", first)

	source := netip.MustParseAddr("198.51.100.7")
	if err := errors.Join(AddLoopback(source), bridge.SetSource(gateway, source), namespace.SetDefaultRoute(gateway.Addr())); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = RemoveLoopback(source) })

	listener, err := namespace.Listen("tcp", "0.0.0.0:9")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	conn, err := (&net.Dialer{Timeout: patience}).Dial("tcp", net.JoinHostPort(first.Addr().String(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	if got := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != source {
		t.Errorf("the connection comes from %s", got)
	}
}

func TestANameTooLongForTheKernelIsRefused(t *testing.T) {
	if _, err := newBridge(t).NewNamespace(strings.Repeat("n", maxLinkName+1)); err == nil {
		t.Error("accepted")
	}
}
