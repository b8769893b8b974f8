package certificates

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
)

// Secrets are the PKI files of a control plane, under Talos' names, made from the configuration's own CAs.
// A certificate is issued again only when what it is made from changes.
type Secrets struct {
	disk    disk.Disk
	network *guestnetwork.Network

	mu     sync.Mutex
	issued map[string]string
}

// NewSecrets are those of a machine that has just begun to boot.
func NewSecrets(on disk.Disk, network *guestnetwork.Network) *Secrets {
	return &Secrets{disk: on, network: network, issued: map[string]string{}}
}

// Path is that of a PKI file by its name under Talos' folder of secrets.
func (s *Secrets) Path(name string) string { return s.disk.Path(disk.SecretsFolder, name) }

// pair writes NAME.crt and NAME.key.
func (s *Secrets) pair(name string, ca *x509.PEMEncodedCertificateAndKey, r Request) error {
	inputs := fmt.Sprintf("%x %v", ca.Crt, r)

	s.mu.Lock()
	defer s.mu.Unlock()

	if s.issued[name] == inputs {
		return nil
	}

	pair, err := Issue(ca, r)
	if err != nil {
		return err
	}

	if err := s.keep(name, pair); err != nil {
		return err
	}

	s.issued[name] = inputs

	return nil
}

func (s *Secrets) keep(name string, pair *x509.PEMEncodedCertificateAndKey) error {
	if err := disk.WriteFile(s.Path(name+".key"), pair.Key); err != nil {
		return err
	}

	return disk.WriteFile(s.Path(name+".crt"), pair.Crt)
}

// kubeconfig writes a component's kubeconfig for the API server of its own machine.
func (s *Secrets) kubeconfig(name, user string, provider config.Provider) error {
	cluster := provider.Cluster()
	inputs := fmt.Sprintf("%x", cluster.IssuingCA().Crt)

	s.mu.Lock()
	defer s.mu.Unlock()

	if s.issued[name] == inputs {
		return nil
	}

	data, err := Kubeconfig(cluster, LocalAPIServer(provider), Request{CommonName: user, Organizations: []string{user}, Usage: ForClient})
	if err != nil {
		return err
	}

	s.issued[name] = inputs

	return disk.WriteFile(s.Path(name), data)
}

// Write makes all PKI files of a control plane that are missing or out of date.
func (s *Secrets) Write(provider config.Provider) error {
	for _, write := range []func(config.Provider) error{s.WriteEtcd, s.writeAPIServer, s.writeOthers} {
		if err := write(provider); err != nil {
			return err
		}
	}

	return nil
}

// WriteEtcd makes the PKI files of etcd.
func (s *Secrets) WriteEtcd(provider config.Provider) error {
	ca, host, own := provider.Cluster().Etcd().CA(), s.network.Hostname(), s.network.CertificateAddresses()

	if err := disk.WriteFile(s.Path("etcd/ca.crt"), ca.Crt); err != nil {
		return err
	}

	for name, r := range map[string]Request{
		"etcd/server":                {CommonName: host, Names: []string{host, "localhost"}, Addresses: append(slices.Clone(own), guestnetwork.Loopback, netip.IPv6Loopback()), Usage: forBoth},
		"etcd/peer":                  {CommonName: host, Names: []string{host}, Addresses: own, Usage: forBoth},
		"etcd/admin":                 {CommonName: "talos", Usage: ForClient},
		"kube-apiserver/etcd-client": {CommonName: "kube-apiserver", Usage: ForClient},
	} {
		if err := s.pair(name, ca, r); err != nil {
			return err
		}
	}

	return disk.WriteFile(s.Path("kube-apiserver/etcd-client-ca.crt"), ca.Crt)
}

func (s *Secrets) writeAPIServer(provider config.Provider) error {
	cluster := provider.Cluster()

	names, addresses, err := s.apiServerNames(provider)
	if err != nil {
		return err
	}

	ca := cluster.IssuingCA()

	for name, r := range map[string]Request{
		"kube-apiserver/apiserver": {
			CommonName: "kube-apiserver", Organizations: []string{"kube-master"}, Names: names, Addresses: addresses, Usage: ForServer,
		},
		"kube-apiserver/apiserver-kubelet-client": {
			CommonName:    constants.KubernetesAPIServerKubeletClientCommonName,
			Organizations: []string{constants.KubernetesAdminCertOrganization}, Usage: ForClient,
		},
	} {
		if err := s.pair(name, ca, r); err != nil {
			return err
		}
	}

	if err := s.pair("kube-apiserver/front-proxy-client", cluster.AggregatorCA(), Request{CommonName: "front-proxy-client", Usage: ForClient}); err != nil {
		return err
	}

	key, err := cluster.ServiceAccount().GetKey()
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}

	for name, data := range map[string][]byte{
		"kube-apiserver/ca.crt":                       AcceptedCAs(cluster),
		"kube-apiserver/aggregator-ca.crt":            cluster.AggregatorCA().Crt,
		"kube-apiserver/service-account.pub":          key.GetPublicKeyPEM(),
		"kube-apiserver/service-account.key":          key.GetPrivateKeyPEM(),
		"kube-controller-manager/service-account.key": key.GetPrivateKeyPEM(),
	} {
		if err := disk.WriteFile(s.Path(name), data); err != nil {
			return err
		}
	}

	return nil
}

func (s *Secrets) writeOthers(provider config.Provider) error {
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

// apiServerNames are the names and addresses of the API server's certificate (KubernetesCertSANsController).
func (s *Secrets) apiServerNames(provider config.Provider) ([]string, []netip.Addr, error) {
	cluster := provider.Cluster()
	names := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + cluster.Network().DNSDomain(), "localhost", s.network.Hostname(),
	}

	addresses, err := cluster.Network().APIServerIPs()
	if err != nil {
		return nil, nil, err
	}

	addresses = append(slices.Clone(addresses), guestnetwork.Loopback)
	addresses = append(addresses, s.network.CertificateAddresses()...)

	extraNames, extraAddresses := SplitSANs(append([]string{cluster.Endpoint().Hostname()}, cluster.CertSANs()...))

	return append(names, extraNames...), append(addresses, extraAddresses...), nil
}
