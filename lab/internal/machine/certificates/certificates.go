// Package certificates makes the certificates and kubeconfigs of a machine from the CAs in its configuration.
package certificates

import (
	"bytes"
	stdx509 "crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config/config"
)

const (
	// componentLifetime outlives every lab; Talos renews its own certificates earlier.
	componentLifetime = 10 * 365 * 24 * time.Hour
	// backdate hides small clock differences.
	backdate = 10 * time.Second
)

// Request is a certificate to issue.
type Request struct {
	CommonName    string
	Organizations []string
	Names         []string
	Addresses     []netip.Addr
	Usage         []stdx509.ExtKeyUsage
	Lifetime      time.Duration
}

var (
	ForServer = []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}
	ForClient = []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageClientAuth}
	forBoth   = []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth, stdx509.ExtKeyUsageClientAuth}
)

// Issue makes a key and a certificate signed by the CA.
func Issue(ca *x509.PEMEncodedCertificateAndKey, r Request) (*x509.PEMEncodedCertificateAndKey, error) {
	authority, err := x509.NewCertificateAuthorityFromCertificateAndKey(ca)
	if err != nil {
		return nil, fmt.Errorf("certificate authority for %s: %w", r.CommonName, err)
	}

	if r.Lifetime == 0 {
		r.Lifetime = componentLifetime
	}

	pair, err := x509.NewKeyPair(authority,
		x509.CommonName(r.CommonName),
		x509.Organization(r.Organizations...),
		x509.DNSNames(r.Names),
		x509.IPAddresses(stdAddresses(r.Addresses)),
		x509.NotBefore(time.Now().Add(-backdate)),
		x509.NotAfter(time.Now().Add(r.Lifetime)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature|stdx509.KeyUsageKeyEncipherment),
		x509.ExtKeyUsage(r.Usage),
	)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", r.CommonName, err)
	}

	return x509.NewCertificateAndKeyFromKeyPair(pair), nil
}

func stdAddresses(addresses []netip.Addr) []net.IP {
	var list []net.IP
	for _, address := range addresses {
		list = append(list, address.AsSlice())
	}

	return list
}

// LocalAPIServer is the API server of a control plane, seen from the machine itself.
func LocalAPIServer(provider config.Provider) string {
	return fmt.Sprintf("https://localhost:%d", provider.Cluster().LocalAPIServerPort())
}

// AcceptedCAs are the CAs of a cluster's client certificates: the issuing one and those still accepted.
func AcceptedCAs(cluster talosconfig.ClusterConfig) []byte {
	all := [][]byte{cluster.IssuingCA().Crt}
	for _, ca := range cluster.AcceptedCAs() {
		all = append(all, ca.Crt)
	}

	return bytes.Join(all, nil)
}

// SplitSANs tells names from addresses.
func SplitSANs(sans []string) (names []string, addresses []netip.Addr) {
	for _, san := range sans {
		if address, err := netip.ParseAddr(san); err == nil {
			addresses = append(addresses, address)
		} else {
			names = append(names, san)
		}
	}

	return names, addresses
}

// Kubeconfig makes a kubeconfig with a certificate of its own, laid out as Talos does.
func Kubeconfig(cluster talosconfig.ClusterConfig, server string, r Request) ([]byte, error) {
	pair, err := Issue(cluster.IssuingCA(), r)
	if err != nil {
		return nil, err
	}

	encode := base64.StdEncoding.EncodeToString

	return []byte(strings.NewReplacer(
		"CLUSTER", cluster.Name(), "SERVER", server, "AUTHORITY", encode(AcceptedCAs(cluster)),
		"CERTIFICATE", encode(pair.Crt), "KEY", encode(pair.Key),
	).Replace(kubeconfigTemplate)), nil
}

const kubeconfigTemplate = `apiVersion: v1
kind: Config
clusters:
- name: CLUSTER
  cluster:
    server: SERVER
    certificate-authority-data: AUTHORITY
users:
- name: admin@CLUSTER
  user:
    client-certificate-data: CERTIFICATE
    client-key-data: KEY
contexts:
- context:
    cluster: CLUSTER
    namespace: default
    user: admin@CLUSTER
  name: admin@CLUSTER
current-context: admin@CLUSTER
`
