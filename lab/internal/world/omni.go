package world

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"platform.lab/lab/internal/factory"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/omni"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/stackfile"
	"platform.lab/lab/internal/workloads"
)

const (
	// omniKey and omniToken are the program's secrets, without their namespace.
	omniKey   = "omniServiceAccountKey"
	omniToken = "omniJoinToken"
	// omniAccount is the service account of the program, omniOwner that of the person who runs Omni.
	omniAccount = "platform"
	omniOwner   = "owner"
	// omniKeyLife is how long keys live; a world does not live longer.
	omniKeyLife = 24 * time.Hour
	// wireguardPort is where machines without the tunnel send their packets; Omni's default.
	wireguardPort = 50180
)

// Omni is the section platform:omni.
type Omni struct {
	Endpoint        string `json:"endpoint"`
	MachineAPI      string `json:"machineApi"`
	KubernetesProxy string `json:"kubernetesProxy"`
	EventPort       int    `json:"eventPort"`
	LogPort         int    `json:"logPort"`
	Tunnel          bool   `json:"tunnel"`
}

// omniHosts are the names of the simulated Omni; none for a cluster without it.
func (s Settings) omniHosts() []string {
	if s.Omni == nil {
		return nil
	}
	var hosts []string
	for _, text := range []string{s.Omni.Endpoint, s.Omni.MachineAPI, s.Omni.KubernetesProxy} {
		if location := parsed(text); location != nil && !slices.Contains(hosts, location.Hostname()) {
			hosts = append(hosts, location.Hostname())
		}
	}
	return hosts
}

// madeForOmni are the secrets that Omni has to know; empty for a cluster without it.
func (s Settings) madeForOmni() (map[string]string, error) {
	if s.Omni == nil {
		return map[string]string{}, nil
	}
	key, err := omni.NewKey(omniAccount, omniKeyLife)
	token, wrong := omni.NewToken()
	return map[string]string{omniKey: key, omniToken: token}, errors.Join(err, wrong)
}

// omniSite is where the simulated Omni is, and what it knows of the rest of the world.
type omniSite struct {
	layout    Layout
	authority *pki.Authority
	spec      *Spec
	addresses map[string]netip.Addr
	images    *factory.Factory
	log       *slog.Logger
}

// serveOmni runs the simulated Omni under the names of the settings.
func serveOmni(
	ctx context.Context, serving *sync.WaitGroup, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr,
	images *factory.Factory, say func(string, ...any), log *slog.Logger,
) error {
	settings := spec.Settings.Omni
	if settings == nil {
		return nil
	}
	site := &omniSite{
		layout: l, authority: authority, spec: spec, addresses: addresses, images: images, log: log.With("program", "simulated Omni"),
	}
	made, err := site.open(ctx)
	if err != nil {
		return err
	}
	owner, err := omni.NewKey(omniOwner, omniKeyLife)
	if err := errors.Join(
		err, made.AdoptServiceAccount(ctx, spec.Secrets.Values[omniKey], omni.RoleOperator),
		made.AdoptJoinToken(ctx, spec.Secrets.Values[omniToken], omniAccount), made.AdoptServiceAccount(ctx, owner, omni.RoleAdmin),
		stackfile.WriteAtomically(l.omniOwner(), []byte(owner)),
	); err != nil {
		return errors.Join(err, made.Close())
	}
	parts, err := site.listen(made)
	if err != nil {
		return errors.Join(err, made.Close())
	}
	serving.Go(func() { site.keep(ctx, made, parts) })
	say("Omni at %s (simulated): machines at %s, Kubernetes at %s", settings.Endpoint, settings.MachineAPI, settings.KubernetesProxy)
	return nil
}

// open makes the simulated Omni, with what an earlier one knew.
func (s *omniSite) open(ctx context.Context) (*omni.Omni, error) {
	settings := s.spec.Settings.Omni
	return omni.New(ctx, omni.Options{
		Dir: s.layout.path("omni"), Endpoint: settings.Endpoint, MachineAPI: settings.MachineAPI, KubernetesProxy: settings.KubernetesProxy,
		EventPort: settings.EventPort, LogPort: settings.LogPort, Tunnel: settings.Tunnel, ImageFactory: s.spec.Settings.Site.ImageFactory,
		TalosVersions: s.spec.Options.versions(s.spec.Settings.Talos.Version), KubernetesVersions: kubernetesVersions(s.spec.Bin),
		Schematic: registers(s.images), Hour: s.spec.Options.OmniHour, Log: s.log,
	})
}

// omniPart is a part of the simulated Omni that runs until the context ends.
type omniPart func(ctx context.Context) error

// listen gives the parts of the simulated Omni, each with its listener.
func (s *omniSite) listen(made *omni.Omni) ([]omniPart, error) {
	settings := s.spec.Settings.Omni
	parts := []omniPart{made.Run}
	for _, one := range []struct {
		text  string
		serve func(context.Context, net.Listener, *tls.Certificate) error
	}{
		{settings.Endpoint, made.ServeAPI},
		{settings.KubernetesProxy, made.ServeKubernetes},
		{settings.MachineAPI, func(ctx context.Context, listener net.Listener, certificate *tls.Certificate) error {
			if certificate != nil {
				listener = tls.NewListener(listener, &tls.Config{
					Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
				})
			}
			at, err := answersFrom(s.spec.Settings.Machines[0].Address)
			if err != nil {
				return errors.Join(err, listener.Close())
			}
			return made.ServeMachines(ctx, listener, netip.AddrPortFrom(at, wireguardPort))
		}},
	} {
		listener, certificate, err := listenOmni(parsed(one.text), s.authority, s.addresses)
		if err != nil {
			return nil, fmt.Errorf("simulated Omni: %s: %w", one.text, err)
		}
		parts = append(parts, func(ctx context.Context) error { return one.serve(ctx, listener, certificate) })
	}
	return parts, nil
}

// keep runs the simulated Omni until the world ends, but while it is away. Then another process goes on with what it knew.
func (s *omniSite) keep(ctx context.Context, made *omni.Omni, parts []omniPart) {
	for {
		s.run(ctx, made, parts)
		for s.isAway() && ctx.Err() == nil {
			wait(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		var err error
		if made, err = s.open(ctx); err == nil {
			if parts, err = s.listen(made); err != nil {
				err = errors.Join(err, made.Close())
			}
		}
		if err != nil {
			s.log.Error("does not come back", "error", err)
			return
		}
		s.log.Info("is back")
	}
}

// run ends with the context, or when the simulated Omni is to be away.
func (s *omniSite) run(ctx context.Context, made *omni.Omni, parts []omniPart) {
	inner, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, part := range parts {
		running.Go(func() {
			if err := part(inner); err != nil && inner.Err() == nil {
				s.log.Error("ended", "error", err)
			}
		})
	}
	for !s.isAway() && ctx.Err() == nil {
		wait(ctx)
	}
	cancel()
	running.Wait()
	if err := made.Close(); err != nil {
		s.log.Error("its state may not be whole", "error", err)
	}
	s.log.Info("is away")
}

// isAway: a test makes and removes the file while the world runs.
func (s *omniSite) isAway() bool {
	_, err := os.Stat(s.layout.omniAway())
	return err == nil
}

// wait lets a moment pass.
func wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(200 * time.Millisecond):
	}
}

// listenOmni listens where a URL says; without a certificate for one without TLS.
func listenOmni(location *url.URL, authority *pki.Authority, addresses map[string]netip.Addr) (net.Listener, *tls.Certificate, error) {
	address := addresses[location.Hostname()]
	if err := network.AddLoopback(address); err != nil {
		return nil, nil, err
	}
	at, err := portOf(location)
	if err != nil {
		return nil, nil, err
	}
	listener, err := listen(netip.AddrPortFrom(address, at), nil)
	if err != nil || location.Scheme == "grpc" {
		return listener, nil, err
	}
	certificate, err := authority.Server(location.Hostname(), time.Now().Add(validity))
	return listener, &certificate, err
}

// answersFrom is the address from which the kernel answers a machine. WireGuard is asked there: a machine's firewall takes no
// answer from another address than it has asked. Nothing is sent.
func answersFrom(machine string) (netip.Addr, error) {
	conn, err := net.Dial("udp", net.JoinHostPort(machine, strconv.Itoa(wireguardPort)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("way to %s: %w", machine, err)
	}
	defer conn.Close()
	at, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return at.Addr().Unmap(), err
}

// registers lets Omni register schematics at the simulated image factory; nil without one.
func registers(images *factory.Factory) func(context.Context, []byte) (string, error) {
	if images == nil {
		return nil
	}
	return func(_ context.Context, schematic []byte) (string, error) { return images.Register(schematic) }
}

// kubernetesVersions are those that the lab has programs of, without a v.
func kubernetesVersions(bin string) []string {
	var versions []string
	for version := range programs.Kubernetes(bin) {
		versions = append(versions, version[1:])
	}
	slices.Sort(versions)
	return versions
}

// omniEnvironment lets a world's operator call omnictl, as the person who runs Omni: vCenter is there for govc likewise.
// omnictl keeps its own files where talosctl does, below TALOS_HOME.
func omniEnvironment(l Layout, s Settings) map[string]string {
	if s.Omni == nil {
		return nil
	}
	set := map[string]string{"OMNI_ENDPOINT": s.Omni.Endpoint}
	if key, err := os.ReadFile(l.omniOwner()); err == nil { // not there before Omni runs
		set["OMNI_SERVICE_ACCOUNT_KEY"] = string(key)
	}
	return set
}

// omniAway is there while the simulated Omni is to be away: nothing answers at its addresses then.
func (l Layout) omniAway() string { return l.path("omni-away") }

// omniOwner has the key of the person who runs Omni, for work by hand.
func (l Layout) omniOwner() string { return l.path("omni-owner") }

// omniParts say what of Omni is real, for a run's summary.
func (s *Spec) omniParts() []workloads.Part {
	if s.Settings.Omni == nil {
		return nil
	}
	return []workloads.Part{
		{Name: "omni", Kind: "simulated", Says: "the lab's own server over Omni's published client modules; lab/internal/omni/README.md has what it answers, and why"},
		{Name: "omnictl", Kind: "real", Says: "version " + programs.Described(s.Bin, "omnictl")},
	}
}

// checkOmnictl says when the program is missing that the stack calls.
func checkOmnictl(bin string, s Settings) error {
	if s.Omni == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(bin, "omnictl")); err != nil {
		return fmt.Errorf("missing tool: omnictl is not in %s, and platform:cluster.lifecycle omni calls it; build it with `make omnictl`", bin)
	}
	return nil
}
