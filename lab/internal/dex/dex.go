// Package dex is a stand-in for the program Dex 2.45, whose module no proxy serves: it reads Dex' own configuration and refuses
// what Dex refuses, has its ports, its discovery document and its metrics, and lets nobody in.
//
// Source: Dex, cmd/dex/config.go and serve.go (the keys, the checks and their words, what each port answers).
package dex

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"platform.lab/lab/internal/httpserver"
	"platform.lab/lab/internal/simulated"
)

// Name is the program's in its image.
const Name = "dex"

// connectors are the kinds of logins that Dex has (server.ConnectorsConfig).
var connectors = []string{
	"atlassian-crowd", "authproxy", "bitbucket-cloud", "gitea", "github", "gitlab", "google", "keystone", "ldap", "linkedin",
	"microsoft", "mockCallback", "mockPassword", "oauth", "oidc", "openshift", "saml",
}

// Config are the keys of Dex' configuration that the stand-in reads.
type Config struct {
	Issuer  string `json:"issuer"`
	Storage struct {
		Type string `json:"type"`
	} `json:"storage"`
	Web struct {
		HTTP    string `json:"http"`
		HTTPS   string `json:"https"`
		TLSCert string `json:"tlsCert"`
		TLSKey  string `json:"tlsKey"`
	} `json:"web"`
	GRPC struct {
		Addr string `json:"addr"`
	} `json:"grpc"`
	Telemetry struct {
		HTTP string `json:"http"`
	} `json:"telemetry"`
	Connectors []struct {
		Type string `json:"type"`
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"connectors"`
}

// Main serves as `dex serve FILE` does, until it is asked to end.
func Main(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	if len(args) != 2 || args[0] != "serve" {
		return fmt.Errorf("the lab's stand-in for Dex knows `dex serve FILE`, not `dex %s`", strings.Join(args, " "))
	}

	text, err := os.ReadFile(filepath.Clean(args[1]))
	if err != nil {
		return fmt.Errorf("failed to read config file %s: %w", args[1], err)
	}

	config, err := Read(text)
	if err != nil {
		return err
	}

	return config.serve(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// Read parses a configuration and checks it as Dex does, with its words.
func Read(text []byte) (*Config, error) {
	config := &Config{}
	if err := yaml.Unmarshal(text, config); err != nil {
		return nil, fmt.Errorf("error parse config file: %w", err)
	}

	checks := []struct {
		bad  bool
		says string
	}{
		{config.Issuer == "", "no issuer specified in config file"},
		{config.Storage.Type == "", "no storage supplied in config file"},
		{config.Web.HTTP == "" && config.Web.HTTPS == "", "must supply a HTTP/HTTPS  address to listen on"},
		{config.Web.HTTPS != "" && config.Web.TLSCert == "", "no cert specified for HTTPS"},
		{config.Web.HTTPS != "" && config.Web.TLSKey == "", "no private key specified for HTTPS"},
	}

	var problems []string

	for _, check := range checks {
		if check.bad {
			problems = append(problems, check.says)
		}
	}

	for _, one := range config.Connectors {
		switch {
		case one.ID == "" || one.Name == "" || one.Type == "":
			problems = append(problems, "invalid config: ID, Type and Name fields are required for a connector")
		case !slices.Contains(connectors, one.Type):
			problems = append(problems, fmt.Sprintf("unknown connector type %q", one.Type))
		}
	}

	if len(config.Connectors) == 0 {
		problems = append(problems, "no supplied connectors")
	}

	if len(problems) > 0 {
		return nil, fmt.Errorf("invalid Config:\n\t-\t%s", strings.Join(problems, "\n\t-\t"))
	}

	return config, nil
}

// serve answers on the ports of the configuration until the context ends or one of them fails.
func (c *Config) serve(ctx context.Context, log *slog.Logger) error {
	pages, err := c.Pages(prometheus.DefaultRegisterer)
	if err != nil {
		return err
	}

	servers := map[string]*http.Server{}

	if c.Web.HTTP != "" {
		servers[c.Web.HTTP] = &http.Server{Handler: pages}
	}

	if c.Web.HTTPS != "" {
		pair, err := tls.LoadX509KeyPair(c.Web.TLSCert, c.Web.TLSKey)
		if err != nil {
			return fmt.Errorf("invalid config: %w", err)
		}

		servers[c.Web.HTTPS] = &http.Server{
			Handler: pages, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		}
	}

	if c.Telemetry.HTTP != "" {
		servers[c.Telemetry.HTTP] = &http.Server{Handler: Telemetry()}
	}

	if c.GRPC.Addr != "" {
		// Dex' API for its own administrators, of which Argo CD asks nothing: each method is unimplemented.
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.GRPC.Addr)
		if err != nil {
			return fmt.Errorf("listening (grpc) on %s: %w", c.GRPC.Addr, err)
		}

		api := grpc.NewServer()
		defer api.Stop()

		go func() {
			if err := api.Serve(listener); err != nil {
				log.Error("grpc", "error", err)
			}
		}()
	}

	log.Info("a stand-in of the lab's, which lets nobody in", "issuer", c.Issuer, "listening", slices.Sorted(maps.Keys(servers)))

	return httpserver.ServeAll(ctx, servers, log)
}

// Pages answers below the issuer's path: discovery, keys, health; and to who wants to log in that nobody does here.
func (c *Config) Pages(metrics prometheus.Registerer) (http.Handler, error) {
	issuer, err := url.Parse(c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("server: can't parse issuer URL: %w", err)
	}

	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_requests_total", Help: "Count of all HTTP requests.",
	}, []string{"code", "method", "handler"})
	if err := metrics.Register(requests); err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	answer := func(path string, handler http.HandlerFunc) {
		place := strings.TrimSuffix(issuer.Path, "/") + path
		counted := promhttp.InstrumentHandlerCounter(requests.MustCurryWith(prometheus.Labels{"handler": path}), handler)
		mux.Handle(place, counted)
	}

	answer("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		httpserver.JSON(w, "application/json", http.StatusOK, c.discovery())
	})
	// The public keys of the tokens that it gives: it gives none.
	answer("/keys", func(w http.ResponseWriter, _ *http.Request) {
		httpserver.JSON(w, "application/json", http.StatusOK, map[string]any{"keys": []any{}})
	})
	answer("/healthz", well)

	for _, path := range []string{"/auth", "/auth/", "/token", "/userinfo"} {
		answer(path, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, simulated.Login(), http.StatusNotImplemented)
		})
	}

	return mux, nil
}

// discovery is what a client learns first (OpenID Connect Discovery 1.0).
func (c *Config) discovery() map[string]any {
	issuer := strings.TrimSuffix(c.Issuer, "/")

	return map[string]any{
		"issuer": c.Issuer, "authorization_endpoint": issuer + "/auth", "token_endpoint": issuer + "/token",
		"jwks_uri": issuer + "/keys", "userinfo_endpoint": issuer + "/userinfo",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"scopes_supported":                      []string{"openid", "email", "groups", "profile", "offline_access"},
	}
}

// Telemetry is the port of the metrics and of the probes.
func Telemetry() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())

	for _, path := range []string{"/healthz", "/healthz/live", "/healthz/ready"} {
		mux.HandleFunc(path, well)
	}

	return mux
}

func well(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }
