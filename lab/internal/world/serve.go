package world

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/charts"
	"platform.lab/lab/internal/datapath"
	"platform.lab/lab/internal/factory"
	"platform.lab/lab/internal/httpserver"
	"platform.lab/lab/internal/machine"
	"platform.lab/lab/internal/machine/talosapi"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/vcenter"
	"platform.lab/lab/internal/workloads"
)

// readyLine on the progress pipe says that every server answers.
const readyLine = "ready"

// bridgeName is the switch that all machines are plugged into.
const bridgeName = "lab0"

// Serve runs the lab's servers until SIGTERM: machines, vCenter, the image factory and the chart
// repositories.
func Serve(ctx context.Context, l Layout, progress *os.File) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	answer := func(listener net.Listener, handler http.Handler, what string) {
		serving.Go(func() {
			if err := httpserver.Serve(ctx, listener, &http.Server{Handler: handler}, slog.Default()); err != nil {
				slog.Error(what+" ended", "error", err)
			}
		})
	}
	spec, err := l.readSpec()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	say := func(format string, args ...any) { fmt.Fprintf(progress, format+"\n", args...) }

	authority, err := pki.New()
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.Authority(), authority.PEM(), 0o644); err != nil {
		return err
	}
	s := spec.Settings
	addresses := spec.names()
	if err := network.AddLoopback(addresses[s.Site.Vcenter], addresses[s.Site.ImageFactory], addresses[charts.Hosts()[0]]); err != nil {
		return err
	}
	bridge, err := network.NewBridge(bridgeName, netip.PrefixFrom(s.Network.Gateway, s.Network.CIDR.Bits()))
	if err != nil {
		return err
	}
	say("network %s with gateway %s (simulated)", s.Network.CIDR, s.Network.Gateway)
	if err := spec.Options.settlePrograms(func() error { return datapath.Try(ctx, bridge) }, say); err != nil {
		return err
	}

	switches := map[string]*network.Bridge{}
	for number, name := range s.furtherNetworks() {
		if switches[name], err = network.NewSwitch(fmt.Sprintf("lab%d", number+1)); err != nil {
			return err
		}
		say("network %s for further network cards (simulated)", name)
	}

	if err := moveOperator(s, bridge, say); err != nil {
		return err
	}

	if err := faultFiles(l, spec.Options); err != nil {
		return err
	}
	var center *vcenter.VCenter // made below: it needs the fleet
	var images *factory.Factory // nil when the factory is down
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var paths *datapath.Machines // nil: no pod runs as processes
	if len(spec.images()) > 0 {
		paths = &datapath.Machines{}
	}
	var fleet *machine.Fleet
	fleet = machine.NewFleet(ctx, machine.Options{
		Images: spec.images(), DataPath: paths, Self: []string{self}, Trust: l.Authority(),
		GuestPoweredOff: func(id string) {
			if err := center.GuestPoweredOff(ctx, id); err != nil {
				log.Error("a machine switched itself off", "error", err)
			}
		},
		OnCluster: onCluster(l, spec, bridge, paths, authority, func(machine netip.Addr, services []network.Balanced) error {
			return fleet.SetBalanced(machine, services)
		}, log),
		PodLog: func(cluster string, pod *corev1.Pod, container string) string {
			return workloads.LogOf(l.path("workloads"), cluster, pod, container)
		},
		Bridge: bridge, Switches: switches, Dir: l.Machines(), Bin: spec.Bin, KWOKStages: filepath.Join(spec.Bin, "kwok-stages", "pod", "fast"),
		BootDelay: spec.Options.BootDelay, InstallDelay: spec.Options.InstallDelay, Log: log,
		Fetch: func(_ context.Context, name string) (machine.Image, error) {
			return fetchInstaller(images, s.Site.ImageFactory, name)
		},
	})
	defer fleet.Close()

	if spec.Options.has(FaultFactory) {
		say("no image factory: --fault %s", FaultFactory)
	} else {
		if images, err = serveFactory(answer, authority, spec, addresses[s.Site.ImageFactory]); err != nil {
			return err
		}
		say("image factory at https://%s (simulated)", s.Site.ImageFactory)
	}

	if spec.Options.has(FaultCharts) {
		say("no chart repositories: --fault %s", FaultCharts)
	} else if err := serveCharts(answer, l, authority, spec, addresses[charts.Hosts()[0]], say); err != nil {
		return err
	}

	center, err = startVcenter(ctx, l, authority, spec, addresses[s.Site.Vcenter], fleet, log)
	if err != nil {
		return err
	}
	defer center.Close()
	spec.Options.refuse(center, s.Site.Datastore)
	say("vCenter at https://%s (simulated): datacenter %s, cluster %s, datastore %s, network %s",
		s.Site.Vcenter, s.Site.Datacenter, s.Site.Cluster, s.Site.Datastore, s.Site.Network)

	if err := serveOmni(ctx, &serving, l, authority, spec, addresses, images, say, log); err != nil {
		return err
	}
	if err := serveGit(ctx, answer, l, authority, spec, addresses, say); err != nil {
		return err
	}
	if err := serveStorage(ctx, &serving, l, authority, spec, addresses, say); err != nil {
		return err
	}
	if err := serveAlerts(ctx, &serving, answer, l, authority, spec, addresses, say); err != nil {
		return err
	}
	if err := serveProxy(answer, l, spec, addresses, say); err != nil {
		return err
	}
	if len(spec.images()) > 0 {
		public, err := serveACME(ctx, &serving, answer, l, authority, spec, addresses, say)
		if err != nil {
			return err
		}
		if err := serveNames(ctx, &serving, spec, bridge, public, say); err != nil {
			return err
		}
	}
	if err := errors.Join(serveControl(answer, l, fleet), serveEntrance(ctx, &serving, l, s), writeParts(l, spec)); err != nil {
		return err
	}
	say(readyLine)
	progress.Close()
	<-ctx.Done()
	return nil
}

func listen(address netip.AddrPort, certificate *tls.Certificate) (net.Listener, error) {
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", address, err)
	}
	if certificate == nil {
		return listener, nil
	}
	return tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}), nil
}

// listenAt listens where a URL of the settings says that a server outside is, under one of its names; `key` is the setting.
func listenAt(location *url.URL, name, key string, authority *pki.Authority, address netip.Addr) (net.Listener, error) {
	if err := network.AddLoopback(address); err != nil {
		return nil, err
	}
	port, err := portOf(location)
	if err != nil {
		return nil, fmt.Errorf("platform:%s: %w", key, err)
	}
	at := netip.AddrPortFrom(address, port)
	if location.Scheme != "https" {
		return listen(at, nil)
	}
	certificate, err := authority.Server(name, time.Now().Add(validity))
	if err != nil {
		return nil, err
	}
	return listen(at, &certificate)
}

// portOf is the port of a URL, by its scheme where it names none.
func portOf(location *url.URL) (uint16, error) {
	given := location.Port()
	if given == "" {
		return map[string]uint16{"https": 443, "http": 80, "ssh": 22}[location.Scheme], nil
	}
	port, err := strconv.ParseUint(given, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port %s: %w", given, err)
	}
	return uint16(port), nil
}

// parsed reads a URL of the settings; nil for what is none, which the program's own check refuses.
func parsed(text string) *url.URL {
	location, err := url.Parse(text)
	if err != nil {
		return nil
	}
	return location
}

// answerer serves until the world ends; `what` names the server when it ends before.
type answerer func(listener net.Listener, handler http.Handler, what string)

// validity of the servers' certificates; a world does not live longer.
const validity = 6 * 24 * time.Hour

// fetchInstaller answers for the factory's registry, of which nothing else is simulated.
func fetchInstaller(images *factory.Factory, host, name string) (machine.Image, error) {
	asked, rest, _ := strings.Cut(name, "/")
	repository, tag, _ := strings.Cut(rest, ":")
	tag, _, _ = strings.Cut(tag, "@")
	if asked != host {
		return machine.Image{}, fmt.Errorf("failed to do request: Head \"https://%s/v2/%s/manifests/%s\": dial tcp: lookup %s: no such host", asked, repository, tag, asked)
	}
	if images == nil {
		return machine.Image{}, fmt.Errorf("failed to do request: Head \"https://%s/v2/%s/manifests/%s\": dial tcp: connect: connection refused", host, repository, tag)
	}
	schematic, ok := images.Installer(repository, tag)
	if !ok {
		return machine.Image{}, talosapi.ErrNotFound
	}
	return machine.Image{TalosVersion: tag, Schematic: schematic}, nil
}

func serveFactory(answer answerer, authority *pki.Authority, spec *Spec, address netip.Addr) (*factory.Factory, error) {
	certificate, err := authority.Server(spec.Settings.Site.ImageFactory, time.Now().Add(validity))
	if err != nil {
		return nil, err
	}
	listener, err := listen(netip.AddrPortFrom(address, 443), &certificate)
	if err != nil {
		return nil, fmt.Errorf("image factory: %w", err)
	}
	// A schematic that the settings name by its id was registered by its author.
	var registered []string
	if id := spec.Settings.Talos.Schematic; id != "" {
		registered = append(registered, id)
	}
	handler, err := factory.New(factory.Options{Versions: spec.Options.versions(spec.Settings.Talos.Version), Registered: registered})
	if err != nil {
		return nil, fmt.Errorf("image factory: %w", err)
	}
	answer(listener, handler, "image factory")
	return handler, nil
}

// serveCharts answers for the repositories of charts and manifests, each under its own name.
func serveCharts(answer answerer, l Layout, authority *pki.Authority, spec *Spec, address netip.Addr, say func(string, ...any)) error {
	handler, err := spec.Options.repositories(spec.Bin, l.Charts())
	if err != nil {
		return fmt.Errorf("chart repositories: %w", err)
	}
	certificates := map[string]*tls.Certificate{}
	for _, name := range charts.Hosts() {
		certificate, err := authority.Server(name, time.Now().Add(validity))
		if err != nil {
			return err
		}
		certificates[name] = &certificate
	}
	listener, err := listen(netip.AddrPortFrom(address, 443), nil)
	if err != nil {
		return fmt.Errorf("chart repositories: %w", err)
	}
	listener = tls.NewListener(listener, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := certificates[hello.ServerName]; c != nil {
				return c, nil
			}
			return nil, fmt.Errorf("the lab has no server %q", hello.ServerName)
		},
	})
	answer(listener, handler, "chart repositories")
	entries, err := charts.Index(spec.Bin)
	if err != nil {
		return err
	}
	for _, e := range entries {
		say("chart %s %s (%s)", e.Name, e.Version, e.Source)
	}
	return nil
}

func startVcenter(ctx context.Context, l Layout, authority *pki.Authority, spec *Spec, address netip.Addr, fleet *machine.Fleet, log *slog.Logger) (*vcenter.VCenter, error) {
	s, options := spec.Settings, spec.Options
	if options.has(FaultAuthority) {
		stranger, err := pki.New()
		if err != nil {
			return nil, err
		}
		authority = stranger
	}
	certificate, err := authority.Server(s.Site.Vcenter, options.certificateEnd())
	if err != nil {
		return nil, err
	}
	where := netip.AddrPortFrom(address, 443)
	if options.has(FaultVcenter) {
		where = netip.MustParseAddrPort("127.0.0.1:0")
	}
	listener, err := listen(where, nil)
	if err != nil {
		return nil, fmt.Errorf("vCenter: %w", err)
	}
	password := spec.Secrets.Values["vspherePassword"]
	if options.has(FaultPassword) {
		password = "another-one"
	}
	return vcenter.Start(ctx, vcenter.Options{
		Listener: listener, Certificate: certificate, User: s.Site.User, Password: password,
		Inventory: vcenter.Inventory{
			Datacenter: options.named(FaultDatacenter, s.Site.Datacenter),
			Cluster:    options.named(FaultCluster, s.Site.Cluster),
			Datastore:  options.named(FaultDatastore, s.Site.Datastore),
			Network:    options.named(FaultNetwork, s.Site.Network),
			Pool:       options.named(FaultPool, s.Site.ResourcePool),
			Hosts:      hosts(s, options.Hosts),
			Datastores: s.furtherDatastores(),
			Networks:   s.furtherNetworks(),
			Policy:     options.named(FaultPolicy, s.Site.StoragePolicy),
			Folder:     s.existing("folder", s.Site.Folder),
			Library:    s.existing("contentLibrary", s.Site.ContentLibrary),
			Category:   s.existing("tagCategory", s.Site.TagCategory),
			Tags:       []string{"controlplane", "worker"},
		},
		Machines: machinesOf(fleet), Dir: l.Root, CloneDelay: options.CloneDelay, Log: log,
	})
}

// hosts are those that the machines' hints name, and others up to `wanted`; 0: as many as machines.
func hosts(s Settings, wanted int) []string {
	var out []string
	for _, m := range s.Machines {
		if m.Host != "" && !slices.Contains(out, m.Host) {
			out = append(out, m.Host)
		}
	}
	if wanted == 0 {
		wanted = len(s.Machines)
	}
	for i := 1; len(out) < wanted; i++ {
		out = append(out, fmt.Sprintf("esxi%02d.%s", i, s.Site.Cluster))
	}
	return out
}

// furtherDatastores and furtherNetworks are those that machines name beside the site's.
func (s Settings) furtherDatastores() []string {
	return further(s.Site.Datastore, func(m Machine) []string { return []string{m.Datastore} }, s.Machines)
}

func (s Settings) furtherNetworks() []string {
	return further(s.Site.Network, func(m Machine) []string {
		var names []string
		for _, card := range m.Networks {
			names = append(names, card.Network)
		}
		return names
	}, s.Machines)
}

func further(first string, of func(Machine) []string, machines []Machine) []string {
	var found []string
	for _, m := range machines {
		for _, name := range of(m) {
			if name != "" && name != first && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	return found
}

// existing is the name of what the settings say exists without the stack; "" of what the stack makes.
func (s Settings) existing(kind, name string) string {
	if slices.Contains(s.Site.Existing, kind) {
		return name
	}
	return ""
}
