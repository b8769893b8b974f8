package world

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"platform.lab/lab/internal/stackfile"
)

const byCloudflare = `{"services": {"certManager": {"domain": "platform.example.com", "dns": {"provider": "cloudflare", "resolvers": ["1.1.1.1"]}}}}`

func settingsOf(t *testing.T, text string) Settings {
	t.Helper()
	var s Settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	s.Site.Vcenter, s.Site.ImageFactory = "vcenter.example.internal", "factory.talos.dev"
	return s
}

func TestAWorldWithoutACMEHasNoneOfItsServers(t *testing.T) {
	s := settingsOf(t, `{"services": {"certManager": {"domain": "platform.example.com"}}}`)
	if got := s.issuance(); len(got) != 0 || len(s.resolvers()) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestLetsEncryptsServersAreApartAndOnlyProductionIsTrusted(t *testing.T) {
	trusted := map[string]bool{}
	for _, server := range settingsOf(t, byCloudflare).acmeServers() {
		trusted[server.directory.String()] = server.trusted
	}
	for directory, wanted := range map[string]bool{
		"https://acme-v02.api.letsencrypt.org/directory":         true,
		"https://acme-staging-v02.api.letsencrypt.org/directory": false,
	} {
		if got, has := trusted[directory]; !has || got != wanted {
			t.Errorf("%s: %v in %v", directory, got, trusted)
		}
	}
}

func TestAServerOfOnesOwnIsTheOnlyOne(t *testing.T) {
	s := settingsOf(t, `{"services": {"certManager": {"domain": "platform.example.com", "acme": {"directory": "https://ca.example.com:8443/acme/acme/directory"},
		"dns": {"provider": "rfc2136", "nameServer": "ns.example.com:5353", "keyName": "acme"}}}}`)
	got := s.issuance()
	for _, wanted := range []string{"ca.example.com", "ns.example.com", shortLived} {
		if !slices.Contains(got, wanted) {
			t.Errorf("no %s in %v", wanted, got)
		}
	}
	if slices.Contains(got, "acme-v02.api.letsencrypt.org") {
		t.Errorf("Let's Encrypt in %v", got)
	}
	if host, port := hostPort("ns.example.com:5353"); host != "ns.example.com" || port != 5353 {
		t.Errorf("%s %d", host, port)
	}
	if host, port := hostPort("192.0.2.1"); host != "192.0.2.1" || port != 53 {
		t.Errorf("%s %d", host, port)
	}
}

func TestTheNamesOfACMEBelongToProgramsThatAreReal(t *testing.T) {
	spec := &Spec{Settings: settingsOf(t, byCloudflare)}
	if got := spec.names(); got["api.cloudflare.com"].IsValid() {
		t.Errorf("simulated: %v", got)
	}
	spec.Options.Programs = ProgramsReal
	seen := map[string]bool{}
	for _, name := range spec.Settings.issuance() {
		address := spec.names()[name]
		if !servers.Contains(address) || seen[address.String()] {
			t.Errorf("%s at %s", name, address)
		}
		seen[address.String()] = true
	}
}

func TestTheZoneIsTheNameThatOneRegisters(t *testing.T) {
	for domain, wanted := range map[string]string{
		"platform.example.com": "example.com", "a.b.example.co.uk": "example.co.uk", "example.com": "example.com", "platform.internal": "platform.internal",
	} {
		if got := zoneOf(domain); got != wanted {
			t.Errorf("%s: %s", domain, got)
		}
	}
}

func TestTheTokenIsTheStacksUnlessItIsRefused(t *testing.T) {
	l := Layout{t.TempDir()}
	spec := &Spec{Secrets: &stackfile.Secrets{Values: map[string]string{providerToken: "right"}}}
	if got := l.providerToken(spec); got != "right" {
		t.Errorf("got %s", got)
	}
	if err := os.MkdirAll(filepath.Dir(l.tokenRefused()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.tokenRefused(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := l.providerToken(spec); got == "right" {
		t.Error("it is taken")
	}
}
