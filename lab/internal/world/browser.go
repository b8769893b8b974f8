package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// browserPort is tried first, so that an address in a browser stays the same.
	browserPort = 8443
	ingressPort = 443
	// answerTime is what the ingress has to accept a connection.
	answerTime = 10 * time.Second
)

// entrance is a socket in the world's folder that leads to the platform's ingress: whoever is outside of the world's
// network has the same files.
func (l Layout) entrance() string { return l.path("entrance.sock") }

// browser is the file with the port of this computer's loopback that leads to the entrance.
func (l Layout) browser() string { return l.path("browser-port") }

// serveEntrance passes connections on to the ingress until the context ends. Nothing without an ingress.
func serveEntrance(ctx context.Context, serving *sync.WaitGroup, l Layout, s Settings) error {
	if len(s.served()) == 0 {
		return nil
	}
	listener, err := net.Listen("unix", l.entrance())
	if err != nil {
		return fmt.Errorf("entrance for browsers: %w", err)
	}
	to := netip.AddrPortFrom(s.Services.Traefik.Address, ingressPort).String()
	serving.Go(func() { passOn(ctx, listener, "tcp", to) })
	return nil
}

// Browse opens a port of this computer's loopback, which nobody else on the network reaches, until the context ends. What
// connects to it is in the world, at the platform's ingress. Nothing without one.
func Browse(ctx context.Context, l Layout) error {
	spec, err := l.readSpec()
	if err != nil || len(spec.Settings.served()) == 0 {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(browserPort)))
	if err != nil { // another world has it
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("port for browsers: %w", err)
		}
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err == nil {
		err = os.WriteFile(l.browser(), []byte(port), 0o600)
	}
	if err != nil {
		listener.Close()
		return fmt.Errorf("port for browsers: %w", err)
	}
	context.AfterFunc(ctx, func() { os.Remove(l.browser()) })
	go passOn(ctx, listener, "unix", l.entrance())
	return nil
}

// passOn connects who comes with an address, until the context ends.
func passOn(ctx context.Context, listener net.Listener, network, address string) {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			slog.Warn("a browser's connection", "error", err)
			continue
		}
		open.Go(func() { join(ctx, client, network, address) })
	}
}

// join copies between a client and an address until both have ended. The client of an address that does not answer sees
// its connection end.
func join(ctx context.Context, client net.Conn, network, address string) {
	defer client.Close()
	server, err := (&net.Dialer{Timeout: answerTime}).DialContext(ctx, network, address)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
	})
	defer stop()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			if _, err := io.Copy(pair[0], pair[1]); err != nil {
				pair[1].Close()
			}
			if half, ok := pair[0].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // the other way may have ended already
			}
		})
	}
	both.Wait()
}

// howToBrowse says how a browser of this computer gets to the platform's pages; "" where there is no way.
func howToBrowse(l Layout, s Settings) string {
	port, err := os.ReadFile(l.browser())
	names := s.served()
	if err != nil || len(names) == 0 {
		return ""
	}
	var pages []string
	for what, name := range map[string]string{"Traefik": s.Services.Traefik.DashboardDomain, "Argo CD": s.argoCDDomain()} {
		if name != "" {
			pages = append(pages, fmt.Sprintf("%s https://%s:%s", what, name, port))
		}
	}
	if len(pages) == 0 {
		return ""
	}
	if len(pages) > 1 && pages[0] > pages[1] {
		pages[0], pages[1] = pages[1], pages[0]
	}
	return fmt.Sprintf(`  browser     %s
              this computer's port %s leads to the ingress of this world; a browser has to be told so for the names:
              chromium --user-data-dir=/tmp/lab-browser --host-resolver-rules="MAP * 127.0.0.1"
              or, for every browser, a line of this computer's /etc/hosts: 127.0.0.1 %s
              the certificates are the lab's: the browser warns
`, strings.Join(pages, " and "), port, strings.Join(names, " "))
}

func (s Settings) argoCDDomain() string {
	if s.Services.ArgoCD == nil {
		return ""
	}
	return s.Services.ArgoCD.Domain
}
