package world

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/publicdns"
	"platform.lab/lab/internal/workloads"
)

const (
	// acmeProgram is pebble, as lab/tools/pebble makes it.
	acmeProgram = "pebble"
	// shortLived is a further ACME server, for tests of renewal: Let's Encrypt's shortest certificates live six days.
	shortLived     = "short-lived.acme.example.net"
	shortLife      = 3 * time.Minute
	nameServerName = "ns.acme.example.net"
	providerToken  = "dnsToken"
	acmeStart      = 30 * time.Second
	dnsPort        = 53
)

// acmeServer is one of the world's ACME servers: pebble, under a name that the platform knows.
type acmeServer struct {
	name      string // of its files
	directory url.URL
	life      time.Duration
	// trusted says whether the world trusts what it issues.
	trusted bool
	// own is one that the site has itself.
	own bool
}

// acmeServers are those that the settings' certificates may come from; none without ACME.
func (s Settings) acmeServers() []acmeServer {
	c := s.Services.CertManager
	if c == nil || c.DNS == nil {
		return nil
	}
	servers := []acmeServer{
		{name: "short-lived", directory: url.URL{Scheme: "https", Host: shortLived, Path: "/directory"}, life: shortLife},
	}
	if c.ACME != nil {
		if location := parsed(c.ACME.Directory); location != nil {
			servers = append(servers, acmeServer{name: "own", directory: *location, trusted: true, own: true})
		}
		return servers
	}
	return append(servers,
		acmeServer{name: "production", directory: url.URL{Scheme: "https", Host: "acme-v02.api.letsencrypt.org", Path: "/directory"}, trusted: true},
		acmeServer{name: "staging", directory: url.URL{Scheme: "https", Host: "acme-staging-v02.api.letsencrypt.org", Path: "/directory"}},
	)
}

// issuance are the names of the servers that issue certificates and prove domains.
func (s Settings) issuance() []string {
	var list []string
	for _, server := range s.acmeServers() {
		list = append(list, server.directory.Hostname())
	}
	if len(list) == 0 {
		return nil
	}
	list = append(list, nameServerName)
	switch dns := s.Services.CertManager.DNS; dns.Provider {
	case "cloudflare":
		list = append(list, publicdns.CloudflareHost)
	case "rfc2136":
		host, _ := hostPort(dns.NameServer)
		list = append(list, host)
	}
	return list
}

// resolvers are the name servers that see the domain as the public does; none without ACME.
func (s Settings) resolvers() []netip.Addr {
	if len(s.acmeServers()) == 0 {
		return nil
	}
	return s.Services.CertManager.DNS.Resolvers
}

// hostPort splits the name server of the settings.
func hostPort(text string) (string, uint16) {
	host, port, found := strings.Cut(text, ":")
	if !found {
		return text, dnsPort
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return host, dnsPort
	}
	return host, uint16(number)
}

// names are all the world's; those of ACME, and of what takes statuses of commits, belong to the programs of pods that ask them.
func (s *Spec) names() map[string]netip.Addr {
	further := s.Settings.omniHosts()
	if len(s.Options.images()) > 0 {
		further = append(further, s.Settings.issuance()...)
	}
	further = append(further, s.statusHosts()...)
	further = append(further, s.Settings.receiverHosts()...)
	return names(s.Settings, further...)
}

// issuanceParts say what these servers are, for a run's summary.
func (s *Spec) issuanceParts() []workloads.Part {
	if len(s.Options.images()) == 0 || len(s.Settings.acmeServers()) == 0 {
		return nil
	}
	return []workloads.Part{
		{Name: "acme", Kind: "real", Says: "Let's Encrypt's test server (pebble), under its names; it proves domains by the simulated DNS, and limits no rates"},
		{Name: "public-dns", Kind: "simulated", Says: "the zone of the platform's domain, Cloudflare's API or RFC 2136 before it, and public resolvers with their caches"},
	}
}

// serveACME serves the platform's domain to the world, and those who issue certificates for it. It gives what public
// resolvers answer; nil without ACME.
func serveACME(ctx context.Context, serving *sync.WaitGroup, answer answerer, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) (*publicdns.Resolver, error) {
	servers := spec.Settings.acmeServers()
	if len(servers) == 0 {
		return nil, nil
	}
	if err := os.MkdirAll(l.ACME(), 0o700); err != nil {
		return nil, err
	}
	if spec.Options.has(FaultToken) {
		if err := os.WriteFile(l.tokenRefused(), nil, 0o600); err != nil {
			return nil, err
		}
	}
	public, err := servePublicDNS(ctx, serving, answer, l, authority, spec, addresses, say)
	if err != nil {
		return nil, err
	}
	resolver := netip.AddrPortFrom(addresses[nameServerName], dnsPort)
	for _, server := range servers {
		if err := startACME(ctx, serving, l, authority, spec, server, addresses[server.directory.Hostname()], resolver); err != nil {
			return nil, fmt.Errorf("ACME server %s: %w", server.directory.Host, err)
		}
		say("ACME server at %s (pebble): it looks for challenges in zone %s", &server.directory, public.Zone.Name)
	}
	return public, nil
}

// zoneOf is the name whose zone the domain lies in: what one registers.
func zoneOf(domain string) string {
	registered, err := publicsuffix.EffectiveTLDPlusOne(domain)
	if err != nil {
		return domain
	}
	return registered
}

// servePublicDNS serves the zone: its name server, the provider's way of changing it, and the settings' resolvers.
func servePublicDNS(ctx context.Context, serving *sync.WaitGroup, answer answerer, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) (*publicdns.Resolver, error) {
	settings := spec.Settings.Services.CertManager
	log, err := os.OpenFile(filepath.Join(l.ACME(), "dns.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	zone := publicdns.NewZone(zoneOf(settings.Domain), nameServerName, log)
	token := func() string { return l.providerToken(spec) }

	server := publicdns.Server{Zone: zone}
	at := []netip.AddrPort{netip.AddrPortFrom(addresses[nameServerName], dnsPort)}
	switch settings.DNS.Provider {
	case "cloudflare":
		address := addresses[publicdns.CloudflareHost]
		listener, err := listenAt(&url.URL{Scheme: "https", Host: publicdns.CloudflareHost}, publicdns.CloudflareHost, "services.certManager.dns", authority, address)
		if err != nil {
			return nil, fmt.Errorf("Cloudflare's API: %w", err) //nolint:staticcheck // a name
		}
		answer(listener, publicdns.Cloudflare{Zone: zone, Token: token}, "Cloudflare's API")
		say("Cloudflare's API at https://%s (simulated): zone %s", publicdns.CloudflareHost, zone.Name)
	case "rfc2136":
		host, port := hostPort(settings.DNS.NameServer)
		server.KeyName, server.Algorithm = settings.DNS.KeyName, publicdns.Algorithms["HMACSHA256"]
		if settings.DNS.Algorithm != "" {
			server.Algorithm = publicdns.Algorithms[settings.DNS.Algorithm]
		}
		at = append(at, netip.AddrPortFrom(addresses[host], port))
		say("name server %s (simulated): zone %s, changed by RFC 2136", settings.DNS.NameServer, zone.Name)
	default:
		say("zone %s (simulated): nobody changes it, dns.provider %s is not in the lab", zone.Name, settings.DNS.Provider)
	}
	for _, where := range at {
		if err := serveDNS(ctx, serving, where, server, publicdns.Key(token)); err != nil {
			return nil, err
		}
	}
	resolver := &publicdns.Resolver{Zone: zone}
	for _, address := range settings.DNS.Resolvers {
		if slices.Contains(spec.Settings.Network.NameServers, address) {
			continue // it answers there already
		}
		if err := serveDNS(ctx, serving, netip.AddrPortFrom(address, dnsPort), resolver, nil); err != nil {
			return nil, err
		}
	}
	return resolver, nil
}

// serveDNS answers by UDP and TCP at an address of its own.
func serveDNS(ctx context.Context, serving *sync.WaitGroup, at netip.AddrPort, handler dns.Handler, key dns.TsigProvider) error {
	if err := network.AddLoopback(at.Addr()); err != nil {
		return err
	}
	return answerDNS(ctx, serving, at, handler, key)
}

// answerDNS answers by UDP and TCP at an address that is there; key is nil where no message is signed.
func answerDNS(ctx context.Context, serving *sync.WaitGroup, at netip.AddrPort, handler dns.Handler, key dns.TsigProvider) error {
	packets, err := net.ListenPacket("udp", at.String())
	if err != nil {
		return fmt.Errorf("name server %s: %w", at, err)
	}
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return errors.Join(fmt.Errorf("name server %s: %w", at, err), packets.Close())
	}
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: listener}} {
		server.Handler, server.TsigProvider = handler, key
		if key != nil {
			server.MsgAcceptFunc = publicdns.Accept
		}
		context.AfterFunc(ctx, func() { _ = server.Shutdown() })
		serving.Go(func() {
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				slog.Error("name server ended", "error", err)
			}
		})
	}
	return nil
}

// startACME starts one server, and waits until it has said whom to trust.
func startACME(ctx context.Context, serving *sync.WaitGroup, l Layout, authority *pki.Authority, spec *Spec, server acmeServer, address netip.Addr, resolver netip.AddrPort) error {
	if server.own && spec.Settings.Services.CertManager.ACME.CA != "" {
		var err error
		if authority, err = spec.Options.Site.authority(authority); err != nil {
			return err
		}
	}
	if err := network.AddLoopback(address); err != nil {
		return err
	}
	file := func(kind string) string { return filepath.Join(l.ACME(), server.name+"."+kind) }
	certificate, err := authority.Server(server.directory.Hostname(), time.Now().Add(validity))
	if err != nil {
		return err
	}
	if err := writePair(certificate, file("crt"), file("key")); err != nil {
		return err
	}
	if err := os.Remove(file("root")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	port := "443"
	if given := server.directory.Port(); given != "" {
		port = given
	}
	cmd := exec.CommandContext(ctx, filepath.Join(spec.Bin, acmeProgram),
		"--listen="+net.JoinHostPort(address.String(), port), "--directory="+server.directory.Path, "--resolver="+resolver.String(),
		"--certificate="+file("crt"), "--key="+file("key"), "--root="+file("root"))
	if server.life != 0 {
		cmd.Args = append(cmd.Args, "--life="+server.life.String())
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second
	if err := network.Start(cmd); err != nil {
		return err
	}
	ended := make(chan struct{})
	serving.Go(func() {
		defer close(ended)
		defer log.Close()
		if err := cmd.Wait(); ctx.Err() == nil {
			slog.Error("an ACME server ended", "server", server.directory.Host, "log", file("log"), "error", err)
		}
	})
	root, err := rootOf(ctx, file("root"), ended)
	if err != nil {
		return fmt.Errorf("%w; see %s", err, file("log"))
	}
	if !server.trusted {
		return nil
	}
	return appendTo(l.Authority(), root)
}

// rootOf waits for a server's root.
func rootOf(ctx context.Context, file string, ended <-chan struct{}) ([]byte, error) {
	timeout := time.After(acmeStart)
	for {
		root, err := os.ReadFile(file)
		if !errors.Is(err, fs.ErrNotExist) {
			return root, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ended:
			return nil, errors.New("it ended at once")
		case <-timeout:
			return nil, fmt.Errorf("it has not started within %s", acmeStart)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// appendTo adds an authority to those that the world trusts.
func appendTo(path string, certificate []byte) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(certificate)
	return errors.Join(err, file.Close())
}

// writePair writes a server's certificate with its chain, and its key.
func writePair(pair tls.Certificate, certificate, key string) error {
	var chain []byte
	for _, one := range pair.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certificate, chain, 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	)
}

// tokenRefused is a file: while it is there, who serves the domain refuses the token of the settings. A test makes and
// removes it.
func (l Layout) tokenRefused() string { return filepath.Join(l.ACME(), "token-refused") }

// providerToken is the token that who serves the domain takes: that of the world's stack. Whoever sets a new one has made
// it at the provider before.
func (l Layout) providerToken(made *Spec) string {
	if _, err := os.Stat(l.tokenRefused()); err == nil {
		return "YW5vdGhlci1vbmU=" // no stack has it
	}
	spec := l.specNow(made)
	return spec.Secrets.Values[providerToken]
}
