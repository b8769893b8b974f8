package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	usualFile = "/usr/local/etc/haproxy/haproxy.cfg"
	// checkPause is between two looks at the servers.
	checkPause = time.Second
	headerTime = 10 * time.Second
)

// section is a frontend, a backend or both of a configuration of HAProxy, as far as the stand-in honours it: where it
// listens, which servers it has, and its page of health.
type section struct {
	name, bind, backend, monitor string
	servers                      []string
	http                         bool
}

// sections reads what a configuration names; what else it says has no effect here.
func sections(text io.Reader) []section {
	var all []section

	for lines := bufio.NewScanner(text); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}

		switch words[0] {
		case "global", "defaults", "frontend", "backend", "listen":
			all = append(all, section{name: words[1]})

			continue
		}

		if len(all) == 0 {
			continue
		}

		one := &all[len(all)-1]

		switch words[0] {
		case "bind":
			one.bind = strings.TrimPrefix(words[1], "*")
		case "mode":
			one.http = words[1] == "http"
		case "use_backend", "default_backend":
			one.backend = words[1]
		case "monitor-uri":
			one.monitor = words[1]
		case "server":
			if len(words) > 2 {
				one.servers = append(one.servers, words[2])
			}
		}
	}

	return all
}

// balance is haproxy: connections go to the first server that answers, and end when another takes its place.
func balance(ctx context.Context, arguments []string, log *slog.Logger) error {
	path := usualFile
	if len(arguments) == 2 && arguments[0] == "-f" {
		path = arguments[1]
	} else if len(arguments) > 0 {
		return fmt.Errorf("%w: haproxy [-f FILE]", errUsage)
	}

	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()

	all := sections(file)
	byName := map[string]section{}

	for _, one := range all {
		byName[one.name] = one
	}

	failed := make(chan error, len(all))
	listens := 0

	for _, one := range all {
		servers := one.servers
		if one.backend != "" {
			servers = byName[one.backend].servers
		}

		switch {
		case one.bind == "":
			continue
		case one.http:
			go func() { failed <- pages(ctx, one) }()
		default:
			go func() { failed <- (&proxy{servers: servers, log: log}).run(ctx, one.bind) }()
		}

		listens++

		log.Info("Proxy started (a stand-in)", "name", one.name, "address", one.bind, "servers", servers)
	}

	if listens == 0 {
		return fmt.Errorf("%w: %s binds no address", errUsage, path)
	}

	select {
	case err := <-failed:
		if ctx.Err() == nil {
			return err
		}
	case <-ctx.Done():
	}

	return nil
}

// pages serve health and metrics.
func pages(ctx context.Context, one section) error {
	routes := http.NewServeMux()

	if one.monitor != "" {
		routes.HandleFunc(one.monitor, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "200 OK") })
	}

	routes.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "# TYPE haproxy_process_build_info gauge\nhaproxy_process_build_info{version=\"stand-in\"} 1")
	})

	return serveHTTP(ctx, one.bind, routes)
}

func serveHTTP(ctx context.Context, address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: headerTime}

	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()

	return server.ListenAndServe()
}

// proxy brings connections to the first of its servers that answers.
type proxy struct {
	servers []string
	log     *slog.Logger

	mu      sync.Mutex
	present string
	open    map[net.Conn]bool
}

func (p *proxy) run(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer listener.Close()

	p.open = map[net.Conn]bool{}

	go p.check(ctx)

	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}

		go p.carry(conn)
	}
}

// check looks for the first server that answers, again and again.
func (p *proxy) check(ctx context.Context) {
	for ctx.Err() == nil {
		found := firstThatAnswers(p.servers)

		p.mu.Lock()
		if found != p.present {
			p.log.Info("another server", "before", p.present, "now", found)
			p.present = found

			for conn := range p.open {
				conn.Close()
			}
		}
		p.mu.Unlock()

		select {
		case <-ctx.Done():
		case <-time.After(checkPause):
		}
	}
}

func (p *proxy) carry(conn net.Conn) {
	defer conn.Close()

	p.mu.Lock()
	server := p.present
	p.open[conn] = true
	p.mu.Unlock()

	defer func() {
		p.mu.Lock()
		delete(p.open, conn)
		p.mu.Unlock()
	}()

	if server == "" {
		return // as HAProxy, which closes it too
	}

	other, err := net.DialTimeout("tcp", server, askTime)
	if err != nil {
		return
	}
	defer other.Close()

	go func() {
		_, _ = io.Copy(other, conn)
		other.Close()
	}()

	_, _ = io.Copy(conn, other)
}

// export is redis_exporter: whether the server answers.
func export(ctx context.Context, log *slog.Logger) error {
	server, err := url.Parse(os.Getenv("REDIS_ADDR"))
	if err != nil || server.Host == "" {
		return fmt.Errorf("%w: REDIS_ADDR=%q is not redis://HOST:PORT", errUsage, os.Getenv("REDIS_ADDR"))
	}

	routes := http.NewServeMux()
	routes.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		up := 1
		if answers(server.Host, os.Getenv("REDIS_PASSWORD")) != nil {
			up = 0
		}

		fmt.Fprintf(w, "# TYPE redis_up gauge\nredis_up %d\n", up)
	})

	log.Info("Providing metrics (a stand-in)", "address", ":9121", "of", server.Host)

	if err := serveHTTP(ctx, ":9121", routes); ctx.Err() == nil {
		return err
	}

	return nil
}
