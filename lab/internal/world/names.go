package world

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"platform.lab/lab/internal/charts"
)

// The lab's servers live in a range that is reserved for benchmarks (RFC 2544), so that it cannot
// be part of a real site's network.
var servers = netip.MustParsePrefix("198.18.255.0/24")

// names maps every production name to the address of the lab's server for it. A name that is an
// address already keeps it. Further names get an address each.
func names(s Settings, further ...string) map[string]netip.Addr {
	next := servers.Addr()
	out := map[string]netip.Addr{}
	all := []string{s.Site.Vcenter, s.Site.ImageFactory}
	if git := s.gitHost(); git != "" {
		all = append(all, git)
	}
	if storage := s.storageHost(); storage != "" {
		all = append(all, storage)
	}
	if proxy := s.proxyHost(); proxy != "" {
		all = append(all, proxy)
	}
	for _, name := range all {
		next = next.Next()
		out[name] = next
		if literal, err := netip.ParseAddr(name); err == nil {
			out[name] = literal
		}
	}
	next = next.Next()
	for _, name := range charts.Hosts() { // one server for all
		out[name] = next
	}
	for _, name := range further {
		next = next.Next()
		out[name] = next
		if literal, err := netip.ParseAddr(name); err == nil {
			out[name] = literal
		}
	}
	for _, name := range s.served() {
		out[name] = s.Services.Traefik.Address
	}
	return out
}

// served are the names that the site's DNS would send to Traefik. The wildcard under the platform's domain is more than
// a hosts file can say: the names of the platform's own parts stand for it.
func (s Settings) served() []string {
	if s.Services.Traefik == nil || !s.Services.Traefik.Address.IsValid() {
		return nil
	}
	names := []string{s.Services.Traefik.DashboardDomain}
	if s.Services.ArgoCD != nil {
		names = append(names, s.Services.ArgoCD.Domain)
	}
	if s.Services.CertManager != nil {
		names = append(names, s.Services.CertManager.Domain, "hubble."+s.Services.CertManager.Domain)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// writeHosts makes the world's /etc/hosts: the lab's names and localhost, nothing else.
func writeHosts(path string, names map[string]netip.Addr) error {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for name, address := range names {
		if _, err := netip.ParseAddr(name); err != nil {
			fmt.Fprintf(&b, "%s %s\n", address, name)
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
