package world

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
)

// browsed is a world's folder with settings that have an ingress.
func browsed(t *testing.T) (Layout, *Spec) {
	t.Helper()
	l := Layout{Root: t.TempDir()}
	spec := &Spec{Stack: "prod"}
	spec.Settings.Services.Traefik = &struct {
		Address         netip.Addr `json:"address"`
		DashboardDomain string     `json:"dashboardDomain"`
	}{netip.MustParseAddr("127.0.0.1"), "traefik.example.com"}
	if err := l.writeSpec(spec); err != nil {
		t.Fatal(err)
	}
	return l, spec
}

func TestABrowsersConnectionGoesThroughThePortAndTheEntrance(t *testing.T) {
	l, _ := browsed(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := Browse(ctx, l); err != nil {
		t.Fatal(err)
	}
	port, err := os.ReadFile(l.browser())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(text string) string {
		conn, err := net.Dial("tcp", "127.0.0.1:"+string(port))
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, text); err != nil {
			return err.Error()
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil {
			return err.Error()
		}
		return string(answer)
	}
	if got := ask("hello"); strings.Contains(got, "hello") {
		t.Errorf("before the world answers: %q", got)
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	entrance, err := net.Listen("unix", l.entrance())
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { passOn(ctx, entrance, "tcp", server.Addr().String()) })
	if got := ask("hello"); got != "hello" {
		t.Errorf("%q", got)
	}
	cancel()
	serving.Wait()
	if got := ask("hello"); got == "hello" {
		t.Errorf("after its end: %q", got)
	}
}

func TestTheGreetingSaysHowABrowserGetsThereWhereThereIsAWay(t *testing.T) {
	l, spec := browsed(t)
	var out bytes.Buffer
	greet(&out, l, spec, false)
	if strings.Contains(out.String(), "browser") {
		t.Errorf("without a port:\n%s", out.String())
	}
	if err := os.WriteFile(l.browser(), []byte("8443"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	greet(&out, l, spec, false)
	for _, part := range []string{"Traefik https://traefik.example.com:8443", "127.0.0.1 traefik.example.com", "MAP * 127.0.0.1"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q lacks in:\n%s", part, out.String())
		}
	}
}

func TestWithoutAnIngressNoPortIsOpened(t *testing.T) {
	l := Layout{Root: t.TempDir()}
	if err := l.writeSpec(&Spec{}); err != nil {
		t.Fatal(err)
	}
	if err := Browse(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.browser()); err == nil {
		t.Error("a port is open")
	}
}
