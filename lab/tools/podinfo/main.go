// Command podinfo is a stand-in for github.com/stefanprodan/podinfo, the example application: the paths, ports, probes and
// figures of it that the platform and its tests use. Its answers say that it is a stand-in.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	message = "greetings from a stand-in for podinfo"
	// headerTime is what a client has to say what it wants.
	headerTime = 10 * time.Second
	// drainTime is what requests that have begun may still take.
	drainTime = 5 * time.Second
)

func main() {
	if filepath.Base(os.Args[0]) == "podcli" {
		if err := client(context.Background(), os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}

		return
	}

	port := flag.Int("port", 9898, "HTTP port")
	metrics := flag.Int("port-metrics", 0, "port of the metrics; 0: the HTTP port")
	level := flag.String("level", "info", "log level")
	flag.Parse()

	var logLevel slog.Level
	if err := logLevel.UnmarshalText([]byte(*level)); err != nil {
		fmt.Fprintln(os.Stderr, "--level:", err)
		os.Exit(2)
	}

	app := &app{log: slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: logLevel}))}
	app.ready.Store(true)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if err := app.run(ctx, *port, *metrics); err != nil {
		app.log.Error("ended", "error", err)
		os.Exit(1)
	}
}

type app struct {
	log      *slog.Logger
	ready    atomic.Bool
	requests atomic.Int64
}

// run serves until the context ends, and then until what has begun is answered.
func (a *app) run(ctx context.Context, port, metrics int) error {
	servers := []*http.Server{{Addr: fmt.Sprintf(":%d", port), Handler: a.count(a.routes()), ReadHeaderTimeout: headerTime}}
	if metrics != 0 && metrics != port {
		routes := http.NewServeMux()
		routes.HandleFunc("/metrics", a.figures)
		servers = append(servers, &http.Server{Addr: fmt.Sprintf(":%d", metrics), Handler: routes, ReadHeaderTimeout: headerTime})
	}

	failed := make(chan error, len(servers))
	for _, server := range servers {
		go func() { failed <- server.ListenAndServe() }()
	}

	a.log.Info("starting podinfo (a stand-in)", "port", port)

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	a.ready.Store(false)
	a.log.Info("shutting down")

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()

	var all sync.WaitGroup
	for _, server := range servers {
		all.Go(func() { _ = server.Shutdown(ctx) })
	}
	all.Wait()

	return nil
}

func (a *app) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("/{$}", a.info) // what it does not know is 404, also for a probe
	routes.HandleFunc("/api/info", a.info)
	routes.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]string{"version": "stand-in"}) })
	routes.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]string{"status": "OK"}) })
	routes.HandleFunc("/readyz", a.readiness)
	routes.HandleFunc("POST /readyz/{state}", func(w http.ResponseWriter, r *http.Request) {
		a.ready.Store(r.PathValue("state") == "enable")
		w.WriteHeader(http.StatusAccepted)
	})
	routes.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { answer(w, os.Environ()) })
	routes.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { answer(w, r.Header) })
	routes.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, r.Body)
	})
	routes.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
	})
	routes.HandleFunc("/delay/{seconds}", func(w http.ResponseWriter, r *http.Request) {
		seconds, _ := strconv.Atoi(r.PathValue("seconds"))
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-r.Context().Done():
		}
		answer(w, map[string]int{"delay": seconds})
	})
	routes.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) {
		a.log.Error("Panic command received")
		os.Exit(255)
	})
	routes.HandleFunc("/metrics", a.figures)

	return routes
}

func (a *app) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		next.ServeHTTP(w, r)
	})
}

func (a *app) info(w http.ResponseWriter, _ *http.Request) {
	host, _ := os.Hostname()
	answer(w, map[string]string{"hostname": host, "version": "stand-in", "message": message, "runtime": "go"})
}

func (a *app) readiness(w http.ResponseWriter, _ *http.Request) {
	if !a.ready.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)

		return
	}

	answer(w, map[string]string{"status": "OK"})
}

func (a *app) figures(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "# HELP http_requests_total The total number of HTTP requests.\n# TYPE http_requests_total counter\nhttp_requests_total %d\n", a.requests.Load())
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(value) // else the caller went
}
