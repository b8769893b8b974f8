package machine

import (
	"crypto/x509"
	"fmt"
	"os"

	talosmeta "github.com/siderolabs/talos/pkg/machinery/meta"

	"platform.lab/lab/internal/machine/meta"
	"platform.lab/lab/internal/siderolink"
)

// join makes what the machine needs to join a server by SideroLink, which it does when its configuration says so: that which
// the hypervisor gave it, or one that was applied.
func (b *boot) join() error {
	var err error
	if b.values, err = meta.Load(b.machine.disk, b.Changed); err != nil {
		return err
	}

	b.link, err = siderolink.New(siderolink.Machine{
		Lifetime: b.Lifetime, Network: b.network, Configuration: b.Provider, UUID: b.systemUUID, UniqueToken: b.uniqueToken,
		TalosVersion: b.TalosVersion, Roots: b.trusted,
	})

	return err
}

// systemUUID is that of SMBIOS, unless META overrides it (controllers/hardware/system.go).
func (b *boot) systemUUID() string {
	if own := b.values.Get(talosmeta.UUIDOverride); own != "" {
		return own
	}

	return b.hardware.SystemUUID()
}

// uniqueToken is that of META, else that of the configuration (controllers/runtime/unique_token.go).
func (b *boot) uniqueToken() string {
	if own := b.values.Get(talosmeta.UniqueMachineToken); own != "" {
		return own
	}

	return siderolink.UniqueToken(b.Provider())
}

// trusted are the authorities that the machine trusts: the public ones, and those of its configuration (TrustedRootsConfig).
func (b *boot) trusted() (*x509.CertPool, error) {
	pool, err := b.publicRoots()
	if err != nil {
		return nil, err
	}

	if provider := b.Provider(); provider != nil && provider.TrustedRoots() != nil {
		for _, certificates := range provider.TrustedRoots().ExtraTrustedRootCertificates() {
			pool.AppendCertsFromPEM([]byte(certificates))
		}
	}

	return pool, nil
}

func (b *boot) publicRoots() (*x509.CertPool, error) {
	if b.options().Trust == "" {
		return x509.SystemCertPool()
	}

	data, err := os.ReadFile(b.options().Trust)
	if err != nil {
		return nil, err
	}

	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate", b.options().Trust)
	}

	return pool, nil
}
