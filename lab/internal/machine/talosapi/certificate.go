package talosapi

import (
	"fmt"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/talosaccess"
)

// apiCertificate is the machine API's server certificate. A worker has no CA key: Talos lets the control
// planes' trustd sign; simulated by taking the key from a control plane that answers.
func (b *Machine) apiCertificate(provider config.Provider) (*x509.PEMEncodedCertificateAndKey, error) {
	security := provider.Machine().Security()

	ca := security.IssuingCA()
	if ca == nil || len(ca.Key) == 0 {
		var err error
		if ca, err = b.trustd(provider); err != nil {
			return nil, err
		}
	}

	names, addresses := certificates.SplitSANs(security.CertSANs())

	if talosaccess.IsEnabled(provider) { // pods reach it by its service
		names = append(names, constants.KubernetesTalosAPIServiceName, talosaccess.Endpoint)
	}

	return certificates.Issue(ca, certificates.Request{
		CommonName: b.Network.Hostname(), Names: append(names, b.Network.Hostname()),
		Addresses: append(append(addresses, guestnetwork.Loopback), b.Network.CertificateAddresses()...), Usage: certificates.ForServer,
	})
}

// trustd finds the CA of a worker's cluster at a control plane that it can reach and that has the same token.
func (b *Machine) trustd(worker config.Provider) (*x509.PEMEncodedCertificateAndKey, error) {
	for _, other := range b.All() {
		provider := other.Provider()
		if !other.IsControlPlane() || provider.Cluster().ID() != worker.Cluster().ID() {
			continue
		}

		if provider.Machine().Security().Token() != worker.Machine().Security().Token() {
			continue
		}

		if b.canReach(other) {
			return provider.Machine().Security().IssuingCA(), nil
		}
	}

	return nil, fmt.Errorf("no control plane of the cluster %q answers to sign the worker's certificate (trustd)", worker.Cluster().Name())
}
