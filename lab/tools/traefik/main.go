// Command traefik is Traefik over its own packages: its settings by flags, environment and file, entry points, routers,
// middlewares, services, the providers of its settings, ping, API and metrics for Prometheus.
//
// Most of Traefik's usual build is what this platform does not use. It is not here, and settings that ask for it are
// refused: ACME (cert-manager does it), plugins, ECS, Tailscale, SPIFFE, tracing, other metrics than Prometheus', logs to
// files. The folder `without` has the modules that take the place of what is left out. The dashboard's pages are not in
// Traefik's module; its API is.
package main

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/log"
	"github.com/sirupsen/logrus"
	"github.com/traefik/paerser/cli"
	"github.com/traefik/traefik/v3/cmd"
	"github.com/traefik/traefik/v3/cmd/healthcheck"
	tcli "github.com/traefik/traefik/v3/pkg/cli"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/config/runtime"
	"github.com/traefik/traefik/v3/pkg/config/static"
	"github.com/traefik/traefik/v3/pkg/middlewares/accesslog"
	"github.com/traefik/traefik/v3/pkg/observability/logs"
	"github.com/traefik/traefik/v3/pkg/observability/metrics"
	otypes "github.com/traefik/traefik/v3/pkg/observability/types"
	"github.com/traefik/traefik/v3/pkg/plugins"
	"github.com/traefik/traefik/v3/pkg/provider/aggregator"
	"github.com/traefik/traefik/v3/pkg/provider/traefik"
	"github.com/traefik/traefik/v3/pkg/proxy/httputil"
	"github.com/traefik/traefik/v3/pkg/safe"
	"github.com/traefik/traefik/v3/pkg/server"
	"github.com/traefik/traefik/v3/pkg/server/middleware"
	"github.com/traefik/traefik/v3/pkg/server/service"
	"github.com/traefik/traefik/v3/pkg/tcp"
	traefiktls "github.com/traefik/traefik/v3/pkg/tls"
	"github.com/traefik/traefik/v3/pkg/version"
)

func main() {
	zerolog.SetGlobalLevel(zerolog.ErrorLevel) // until the settings are read
	version.Version = strings.TrimPrefix(version.Version, "v")
	version.BuildDate = "for the lab"

	settings := cmd.NewTraefikConfiguration()
	sources := []cli.ResourceLoader{&tcli.DeprecationLoader{}, &tcli.FileLoader{}, &tcli.FlagLoader{}, &tcli.EnvLoader{}}

	command := &cli.Command{
		Name: "traefik", Description: "Traefik, as the lab builds it.", Configuration: settings, Resources: sources,
		Run: func([]string) error { return run(&settings.Configuration) },
	}

	err := command.AddCommand(healthcheck.NewCmd(&settings.Configuration, sources))
	if err == nil {
		err = cli.Execute(command)
	}

	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(settings *static.Configuration) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()

	if err := leftOut(settings); err != nil {
		return err
	}

	if err := logTo(settings.Log); err != nil {
		return err
	}

	http.DefaultTransport.(*http.Transport).Proxy = http.ProxyFromEnvironment //nolint:forcetypeassert // it is one

	settings.SetEffectiveConfiguration()

	if err := settings.ValidateConfiguration(); err != nil {
		return err
	}

	log.Info().Str("version", version.Version).Msgf("Traefik version %s built on %s", version.Version, version.BuildDate)

	running, err := newServer(settings)
	if err != nil {
		return err
	}

	if settings.Ping != nil {
		settings.Ping.WithContext(ctx)
	}

	running.Start(ctx)
	defer running.Close()

	running.Wait()
	log.Info().Msg("Shutting down")

	return nil
}

// leftOut names the settings that need something which this build has not.
func leftOut(settings *static.Configuration) error {
	var asked []string

	ask := func(wanted bool, what string) {
		if wanted {
			asked = append(asked, what)
		}
	}

	ask(len(settings.CertificatesResolvers) > 0, "certificatesResolvers")
	ask(settings.Spiffe != nil, "spiffe")
	ask(settings.Tracing != nil, "tracing")
	ask(settings.Log != nil && settings.Log.FilePath != "", "log.filePath")
	ask(settings.Log != nil && settings.Log.OTLP != nil, "log.otlp")

	if further := settings.Experimental; further != nil {
		ask(len(further.Plugins)+len(further.LocalPlugins) > 0, "experimental.plugins")
		ask(further.FastProxy != nil, "experimental.fastProxy")
	}

	if providers := settings.Providers; providers != nil {
		ask(providers.Ecs != nil, "providers.ecs")
		ask(len(providers.Plugin) > 0, "providers.plugin")
	}

	if exported := settings.Metrics; exported != nil {
		ask(exported.Datadog != nil, "metrics.datadog")
		ask(exported.StatsD != nil, "metrics.statsD")
		ask(exported.InfluxDB2 != nil, "metrics.influxDB2")
		ask(exported.OTLP != nil, "metrics.otlp")
	}

	if len(asked) == 0 {
		return nil
	}

	return fmt.Errorf("the lab's Traefik has no %s: the real one has", strings.Join(asked, ", "))
}

// logTo writes the log to standard output, as Traefik does: at level error without a setting, as lines or as JSON.
func logTo(settings *otypes.TraefikLog) error {
	level := zerolog.ErrorLevel

	if settings != nil && settings.Level != "" {
		named, err := zerolog.ParseLevel(strings.ToLower(settings.Level))
		if err != nil {
			return fmt.Errorf("log.level: %w", err)
		}

		level = named
	}

	zerolog.SetGlobalLevel(level)

	log.Logger = zerolog.New(os.Stdout).With().Timestamp().Logger().Level(level)
	if settings == nil || settings.Format != "json" {
		log.Logger = log.Output(zerolog.ConsoleWriter{Out: os.Stdout, TimeFormat: time.RFC3339, NoColor: true})
	}

	zerolog.DefaultContextLogger = &log.Logger

	// What Traefik's libraries say is for its debug level.
	logrus.StandardLogger().Out = logs.NoLevel(log.Logger, zerolog.DebugLevel)
	stdlog.SetOutput(logs.NoLevel(log.Logger, zerolog.DebugLevel))

	return nil
}

// newServer puts Traefik's parts together.
func newServer(settings *static.Configuration) (*server.Server, error) {
	ctx := context.Background()
	routines := safe.NewPool(ctx)

	providers := aggregator.NewProviderAggregator(*settings.Providers)
	if err := providers.AddProvider(traefik.New(*settings)); err != nil {
		return nil, err
	}

	certificates := traefiktls.NewManager(settings.OCSP)
	routines.GoCtx(certificates.Run)

	measured := registry(settings)

	accesses, err := accessLog(ctx, settings)
	if err != nil {
		return nil, err
	}

	observed := middleware.NewObservabilityMgr(*settings, measured, nil, accesses, nil, nil)

	streams, err := server.NewTCPEntryPoints(settings.EntryPoints, settings.HostResolver, measured)
	if err != nil {
		return nil, err
	}

	datagrams, err := server.NewUDPEntryPoints(settings.EntryPoints)
	if err != nil {
		return nil, err
	}

	if settings.API != nil {
		version.DisableDashboardAd = settings.API.DisableDashboardAd
	}

	transports := service.NewTransportManager(nil)
	proxies := httputil.NewProxyBuilder(transports, nil)
	dialers := tcp.NewDialerManager(nil)
	services := service.NewManagerFactory(*settings, routines, observed, transports, proxies, nil)

	var noPlugins *plugins.Builder

	routers, err := server.NewRouterFactory(*settings, services, certificates, observed, noPlugins, dialers)
	if err != nil {
		return nil, fmt.Errorf("creating router factory: %w", err)
	}

	watcher := server.NewConfigurationWatcher(routines, providers, defaultEntryPoints(settings), "internal")

	watcher.AddListener(func(now dynamic.Configuration) {
		certificates.UpdateConfigs(ctx, now.TLS.Stores, now.TLS.Options, now.TLS.Certificates)

		for _, one := range certificates.GetServerCertificates() {
			slices.Sort(one.DNSNames)
			measured.TLSCertsNotAfterTimestampGauge().With(
				"cn", one.Subject.CommonName, "serial", one.SerialNumber.String(), "sans", strings.Join(one.DNSNames, ","),
			).Set(float64(one.NotAfter.Unix()))
		}
	})
	watcher.AddListener(func(now dynamic.Configuration) {
		measured.ConfigReloadsCounter().Add(1)
		measured.LastConfigReloadSuccessGauge().Set(float64(time.Now().Unix()))
		transports.Update(now.HTTP.ServersTransports)
		proxies.Update(now.HTTP.ServersTransports)
		dialers.Update(now.TCP.ServersTransports)
	})
	watcher.AddListener(func(now dynamic.Configuration) {
		forStreams, forDatagrams := routers.CreateRouters(runtime.NewConfig(now))
		streams.Switch(forStreams)
		datagrams.Switch(forDatagrams)
	})

	if measured.IsEpEnabled() || measured.IsRouterEnabled() || measured.IsSvcEnabled() {
		var names []string
		for name := range streams {
			names = append(names, name)
		}

		watcher.AddListener(func(now dynamic.Configuration) { metrics.OnConfigurationUpdate(now, names) })
	}

	watcher.AddListener(noResolvers)

	return server.NewServer(routines, streams, datagrams, watcher, observed), nil
}

func registry(settings *static.Configuration) metrics.Registry {
	var all []metrics.Registry

	if settings.Metrics != nil && settings.Metrics.Prometheus != nil {
		if one := metrics.RegisterPrometheus(context.Background(), settings.Metrics.Prometheus); one != nil {
			all = append(all, one)
		}
	}

	return metrics.NewMultiRegistry(all)
}

func accessLog(ctx context.Context, settings *static.Configuration) (*accesslog.Handler, error) {
	if settings.AccessLog == nil {
		return nil, nil
	}

	return accesslog.NewHandler(ctx, settings.AccessLog)
}

// defaultEntryPoints are those of routers that name none: the ones that settings mark so, else all for TCP but Traefik's own.
func defaultEntryPoints(settings *static.Configuration) []string {
	var marked, all []string

	for name, one := range settings.EntryPoints {
		protocol, err := one.GetProtocol()
		if err != nil || protocol == "udp" {
			continue
		}

		if one.AsDefault {
			marked = append(marked, name)
		}

		if name != static.DefaultInternalEntryPointName {
			all = append(all, name)
		}
	}

	if len(marked) > 0 {
		all = marked
	}

	slices.Sort(all)

	return all
}

var errNoResolver = errors.New("no certificate resolver is configured")

// noResolvers tells of routers that want one.
func noResolvers(now dynamic.Configuration) {
	for name, router := range now.HTTP.Routers {
		if router.TLS != nil && router.TLS.CertResolver != "" {
			log.Error().Err(errNoResolver).Str(logs.RouterName, name).Str("certificateResolver", router.TLS.CertResolver).
				Msg("Router uses a nonexistent certificate resolver")
		}
	}
}
