package machine

import (
	"bytes"
	stdx509 "crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
)

const (
	// componentLifetime outlives every lab; Talos renews its own certificates earlier.
	componentLifetime = 10 * 365 * 24 * time.Hour
	// backdate hides small clock differences.
	backdate = 10 * time.Second
)

// request is a certificate to issue.
type request struct {
	commonName    string
	organizations []string
	names         []string
	addresses     []netip.Addr
	usage         []stdx509.ExtKeyUsage
	lifetime      time.Duration
}

var (
	forServer = []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}
	forClient = []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageClientAuth}
	forBoth   = []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth, stdx509.ExtKeyUsageClientAuth}
)

// issue makes a key and a certificate signed by the CA.
func issue(ca *x509.PEMEncodedCertificateAndKey, r request) (*x509.PEMEncodedCertificateAndKey, error) {
	authority, err := x509.NewCertificateAuthorityFromCertificateAndKey(ca)
	if err != nil {
		return nil, fmt.Errorf("certificate authority for %s: %w", r.commonName, err)
	}

	if r.lifetime == 0 {
		r.lifetime = componentLifetime
	}

	pair, err := x509.NewKeyPair(authority,
		x509.CommonName(r.commonName),
		x509.Organization(r.organizations...),
		x509.DNSNames(r.names),
		x509.IPAddresses(stdAddresses(r.addresses)),
		x509.NotBefore(time.Now().Add(-backdate)),
		x509.NotAfter(time.Now().Add(r.lifetime)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature|stdx509.KeyUsageKeyEncipherment),
		x509.ExtKeyUsage(r.usage),
	)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", r.commonName, err)
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

// secrets are the PKI files of a control plane, under Talos' names, made from the configuration's own CAs.
// A certificate is issued again only when what it is made from changes.
type secrets struct {
	boot *boot

	mu     sync.Mutex
	issued map[string]string
}

func newSecrets(b *boot) *secrets {
	return &secrets{boot: b, issued: map[string]string{}}
}

func (s *secrets) path(name string) string { return s.boot.machine.disk.Path(disk.SecretsFolder, name) }

// pair writes NAME.crt and NAME.key.
func (s *secrets) pair(name string, ca *x509.PEMEncodedCertificateAndKey, r request) error {
	inputs := fmt.Sprintf("%x %v", ca.Crt, r)

	s.mu.Lock()
	defer s.mu.Unlock()

	if s.issued[name] == inputs {
		return nil
	}

	pair, err := issue(ca, r)
	if err != nil {
		return err
	}

	if err := s.keep(name, pair); err != nil {
		return err
	}

	s.issued[name] = inputs

	return nil
}

func (s *secrets) keep(name string, pair *x509.PEMEncodedCertificateAndKey) error {
	if err := disk.WriteFile(s.path(name+".key"), pair.Key); err != nil {
		return err
	}

	return disk.WriteFile(s.path(name+".crt"), pair.Crt)
}

// kubeconfig writes a component's kubeconfig for the API server of its own machine.
func (s *secrets) kubeconfig(name, user string, provider config.Provider) error {
	cluster := provider.Cluster()
	inputs := fmt.Sprintf("%x", cluster.IssuingCA().Crt)

	s.mu.Lock()
	defer s.mu.Unlock()

	if s.issued[name] == inputs {
		return nil
	}

	data, err := kubeconfig(cluster, localAPIServer(provider), request{commonName: user, organizations: []string{user}, usage: forClient})
	if err != nil {
		return err
	}

	s.issued[name] = inputs

	return disk.WriteFile(s.path(name), data)
}

func localAPIServer(provider config.Provider) string {
	return fmt.Sprintf("https://localhost:%d", provider.Cluster().LocalAPIServerPort())
}

// write makes all PKI files of a control plane that are missing or out of date.
func (s *secrets) write(provider config.Provider) error {
	for _, write := range []func(config.Provider) error{s.writeEtcd, s.writeAPIServer, s.writeOthers} {
		if err := write(provider); err != nil {
			return err
		}
	}

	return nil
}

var (
	loopback4 = guestnetwork.Loopback
	loopback6 = netip.IPv6Loopback()
)

func (s *secrets) writeEtcd(provider config.Provider) error {
	ca, host, own := provider.Cluster().Etcd().CA(), s.boot.network.Hostname(), s.boot.network.NodeAddresses()

	if err := disk.WriteFile(s.path("etcd/ca.crt"), ca.Crt); err != nil {
		return err
	}

	for name, r := range map[string]request{
		"etcd/server":                {commonName: host, names: []string{host, "localhost"}, addresses: append(slices.Clone(own), loopback4, loopback6), usage: forBoth},
		"etcd/peer":                  {commonName: host, names: []string{host}, addresses: own, usage: forBoth},
		"etcd/admin":                 {commonName: "talos", usage: forClient},
		"kube-apiserver/etcd-client": {commonName: "kube-apiserver", usage: forClient},
	} {
		if err := s.pair(name, ca, r); err != nil {
			return err
		}
	}

	return disk.WriteFile(s.path("kube-apiserver/etcd-client-ca.crt"), ca.Crt)
}

func (s *secrets) writeAPIServer(provider config.Provider) error {
	cluster := provider.Cluster()

	names, addresses, err := s.boot.apiServerNames(provider)
	if err != nil {
		return err
	}

	ca := cluster.IssuingCA()

	for name, r := range map[string]request{
		"kube-apiserver/apiserver": {
			commonName: "kube-apiserver", organizations: []string{"kube-master"}, names: names, addresses: addresses, usage: forServer,
		},
		"kube-apiserver/apiserver-kubelet-client": {
			commonName:    constants.KubernetesAPIServerKubeletClientCommonName,
			organizations: []string{constants.KubernetesAdminCertOrganization}, usage: forClient,
		},
	} {
		if err := s.pair(name, ca, r); err != nil {
			return err
		}
	}

	if err := s.pair("kube-apiserver/front-proxy-client", cluster.AggregatorCA(), request{commonName: "front-proxy-client", usage: forClient}); err != nil {
		return err
	}

	key, err := cluster.ServiceAccount().GetKey()
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}

	for name, data := range map[string][]byte{
		"kube-apiserver/ca.crt":                       acceptedCAs(cluster),
		"kube-apiserver/aggregator-ca.crt":            cluster.AggregatorCA().Crt,
		"kube-apiserver/service-account.pub":          key.GetPublicKeyPEM(),
		"kube-apiserver/service-account.key":          key.GetPrivateKeyPEM(),
		"kube-controller-manager/service-account.key": key.GetPrivateKeyPEM(),
	} {
		if err := disk.WriteFile(s.path(name), data); err != nil {
			return err
		}
	}

	return nil
}

func (s *secrets) writeOthers(provider config.Provider) error {
	if err := s.keep("kube-controller-manager/ca", provider.Cluster().IssuingCA()); err != nil {
		return err
	}

	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		if err := s.kubeconfig(name+"/kubeconfig", "system:"+name, provider); err != nil {
			return err
		}
	}

	return nil
}

// acceptedCAs are the CAs of a cluster's client certificates: the issuing one and those still accepted.
func acceptedCAs(cluster talosconfig.ClusterConfig) []byte {
	all := [][]byte{cluster.IssuingCA().Crt}
	for _, ca := range cluster.AcceptedCAs() {
		all = append(all, ca.Crt)
	}

	return bytes.Join(all, nil)
}

// apiServerNames are the names and addresses of the API server's certificate (KubernetesCertSANsController).
func (b *boot) apiServerNames(provider config.Provider) ([]string, []netip.Addr, error) {
	cluster := provider.Cluster()
	names := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + cluster.Network().DNSDomain(), "localhost", b.network.Hostname(),
	}

	addresses, err := cluster.Network().APIServerIPs()
	if err != nil {
		return nil, nil, err
	}

	addresses = append(slices.Clone(addresses), loopback4)
	addresses = append(addresses, b.network.NodeAddresses()...)

	extraNames, extraAddresses := splitSANs(append([]string{cluster.Endpoint().Hostname()}, cluster.CertSANs()...))

	return append(names, extraNames...), append(addresses, extraAddresses...), nil
}

func splitSANs(sans []string) (names []string, addresses []netip.Addr) {
	for _, san := range sans {
		if address, err := netip.ParseAddr(san); err == nil {
			addresses = append(addresses, address)
		} else {
			names = append(names, san)
		}
	}

	return names, addresses
}

// apiCertificate is the machine API's server certificate. A worker has no CA key: Talos lets the control
// planes' trustd sign; simulated by taking the key from a control plane that answers.
func (b *boot) apiCertificate(provider config.Provider) (*x509.PEMEncodedCertificateAndKey, error) {
	security := provider.Machine().Security()

	ca := security.IssuingCA()
	if ca == nil || len(ca.Key) == 0 {
		var err error
		if ca, err = b.trustd(provider); err != nil {
			return nil, err
		}
	}

	names, addresses := splitSANs(security.CertSANs())

	if talosAccess(provider) { // pods reach it by its service
		names = append(names, constants.KubernetesTalosAPIServiceName, accountEndpoint)
	}

	return issue(ca, request{
		commonName: b.network.Hostname(), names: append(names, b.network.Hostname()),
		addresses: append(append(addresses, loopback4), b.network.NodeAddresses()...), usage: forServer,
	})
}

// trustd finds the CA of a worker's cluster at a control plane that it can reach and that has the same token.
func (b *boot) trustd(worker config.Provider) (*x509.PEMEncodedCertificateAndKey, error) {
	for _, other := range b.machine.fleet.boots() {
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

// kubeconfig makes a kubeconfig with a certificate of its own, laid out as Talos does.
func kubeconfig(cluster talosconfig.ClusterConfig, server string, r request) ([]byte, error) {
	pair, err := issue(cluster.IssuingCA(), r)
	if err != nil {
		return nil, err
	}

	encode := base64.StdEncoding.EncodeToString

	return []byte(strings.NewReplacer(
		"CLUSTER", cluster.Name(), "SERVER", server, "AUTHORITY", encode(acceptedCAs(cluster)),
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
