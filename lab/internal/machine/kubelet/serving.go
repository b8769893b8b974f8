package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	stdx509 "crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"

	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
)

// Files of the kubelet's folder; the first two names are the kubelet's own.
const (
	servingFile    = "kubelet-server-current.pem"
	selfSignedFile = "kubelet.pem"
	pendingFile    = "kubelet-server-pending.json"
)

const (
	// firstRetry and lastRetry bound the pause between two requests for a certificate: it doubles from one to
	// the other (client-go's certificate manager, which the kubelet uses: 2 s doubling, then every 32 s).
	firstRetry = 2 * time.Second
	lastRetry  = 32 * time.Second
	// renewAfter is the share of its life that a certificate has had when another one is asked for; the
	// kubelet takes 70 to 90 %.
	renewAfter = 0.8
)

// servingUsages are what a kubelet asks for an elliptic key.
var servingUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}

// serving is the certificate that the kubelet shows on its port. With rotate-server-certificates it is asked
// for in the cluster, where somebody else must approve it; without, it is self-signed.
//
// As a kubelet's it stays on the disk over reboots. Unlike a kubelet's the request stays, too: a kubelet asks
// again after every restart and every 15 minutes, and what nobody approves piles up for a day.
type serving struct {
	folder   string
	hostname func() string
	now      func() time.Time

	mu       sync.Mutex
	current  *tls.Certificate
	pending  *servingRequest
	retryAt  time.Time
	failures int
}

// servingRequest is a CertificateSigningRequest that waits for its approval.
type servingRequest struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
	// Key is the private key (PEM), Request the request itself (PEM).
	Key     []byte `json:"key"`
	Request []byte `json:"request"`
}

func newServing(folder string, hostname func() string) *serving {
	return &serving{folder: folder, hostname: hostname, now: time.Now}
}

// rotates says whether the kubelet asks the cluster for its serving certificate: the argument of the machine
// configuration, or the field of the kubelet's own configuration.
func rotates(provider config.Provider) bool {
	kubelet := provider.Machine().Kubelet()
	if values := kubelet.ExtraArgs()["rotate-server-certificates"]; len(values) > 0 {
		return values[len(values)-1] == "true"
	}

	enabled, _ := kubelet.ExtraConfig()["serverTLSBootstrap"].(bool)

	return enabled
}

// load takes what is on the disk. Without rotation a certificate is made when there is none.
func (s *serving) load(rotate bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	if !rotate {
		return s.selfSigned()
	}

	var err error

	s.pending = nil
	if s.current, err = readPair(filepath.Join(s.folder, servingFile)); err != nil {
		return err
	}

	data, err := os.ReadFile(filepath.Join(s.folder, pendingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}

	var pending servingRequest
	if err := json.Unmarshal(data, &pending); err != nil {
		return fmt.Errorf("%s: %w", pendingFile, err)
	}

	s.pending = &pending

	return nil
}

func (s *serving) selfSigned() error {
	path := filepath.Join(s.folder, selfSignedFile)

	current, err := readPair(path)
	if err != nil {
		return err
	}

	if current == nil {
		certificate, key, err := cert.GenerateSelfSignedCertKey(s.hostname(), nil, nil)
		if err != nil {
			return fmt.Errorf("self-signed serving certificate: %w", err)
		}

		if current, err = keepPair(path, certificate, key); err != nil {
			return err
		}
	}

	s.current = current

	return nil
}

// show is the certificate for a handshake. Without one the handshake fails, as a kubelet's does: the client
// sees "remote error: tls: internal error".
func (s *serving) show(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	if s.current == nil || s.now().After(s.current.Leaf.NotAfter) {
		return nil, errors.New("no serving certificate available for the kubelet")
	}

	return s.current, nil
}

// expires is when the present certificate ends; zero without one.
func (s *serving) expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()

	if s.current == nil {
		return time.Time{}
	}

	return s.current.Leaf.NotAfter
}

// sync asks for a certificate when one is needed, and fetches the one that was asked for.
func (s *serving) sync(ctx context.Context, client kubernetes.Interface, object *corev1.Node) error {
	wanted := servingTemplate(object)
	if wanted == nil {
		return nil
	}

	s.mu.Lock()
	defer s.mu.Unlock()

	if s.pending != nil {
		return s.fetch(ctx, client, wanted)
	}

	if !s.isDue(wanted) || s.now().Before(s.retryAt) {
		return nil
	}

	return s.ask(ctx, client, wanted)
}

// servingTemplate is the request for a node: its names and addresses in the cluster; nil before it has any.
func servingTemplate(object *corev1.Node) *stdx509.CertificateRequest {
	wanted := &stdx509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + object.Name, Organization: []string{controlplane.NodesGroup}}}

	for _, address := range object.Status.Addresses {
		if ip := net.ParseIP(address.Address); ip != nil {
			wanted.IPAddresses = append(wanted.IPAddresses, ip)
		} else {
			wanted.DNSNames = append(wanted.DNSNames, address.Address)
		}
	}

	if len(wanted.IPAddresses) == 0 && len(wanted.DNSNames) == 0 {
		return nil
	}

	return wanted
}

// isDue says whether the present certificate does not do, or will soon be too old.
func (s *serving) isDue(wanted *stdx509.CertificateRequest) bool {
	if s.current == nil || !covers(s.current.Leaf.Subject, s.current.Leaf.DNSNames, s.current.Leaf.IPAddresses, wanted) {
		return true
	}

	leaf := s.current.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)

	return s.now().After(leaf.NotBefore.Add(time.Duration(float64(life) * renewAfter)))
}

// covers says whether a certificate or request holds all that is wanted.
func covers(subject pkix.Name, names []string, addresses []net.IP, wanted *stdx509.CertificateRequest) bool {
	return subject.CommonName == wanted.Subject.CommonName &&
		!slices.ContainsFunc(wanted.DNSNames, func(name string) bool { return !slices.Contains(names, name) }) &&
		!slices.ContainsFunc(wanted.IPAddresses, func(ip net.IP) bool { return !slices.ContainsFunc(addresses, ip.Equal) })
}

func (s *serving) ask(ctx context.Context, client kubernetes.Interface, wanted *stdx509.CertificateRequest) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}

	asked, err := stdx509.CreateCertificateRequest(rand.Reader, wanted, key)
	if err != nil {
		return err
	}

	encoded, err := stdx509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}

	request := servingRequest{
		Key:     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}),
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: asked}),
	}

	request.Name, request.UID, err = csr.RequestCertificateWithContext(ctx, client, request.Request, "",
		certificatesv1.KubeletServingSignerName, nil, servingUsages, key)
	if err != nil {
		s.failed()

		return fmt.Errorf("kubelet serving certificate: %w", err)
	}

	s.pending = &request

	return s.keepPending()
}

// fetch looks whether the request was answered. One that was denied, has failed or is gone is given up, and so
// is one for names that the node has not got any more: another one follows.
func (s *serving) fetch(ctx context.Context, client kubernetes.Interface, wanted *stdx509.CertificateRequest) error {
	request := s.pending

	answer, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, request.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && answer.UID != request.UID {
		return s.giveUp(fmt.Sprintf("request %s is gone", request.Name))
	} else if err != nil {
		return fmt.Errorf("kubelet serving certificate: %w", err)
	}

	for _, condition := range answer.Status.Conditions {
		if condition.Type == certificatesv1.CertificateDenied || condition.Type == certificatesv1.CertificateFailed {
			return s.giveUp(fmt.Sprintf("request %s: %s: %s", request.Name, condition.Type, condition.Message))
		}
	}

	if len(answer.Status.Certificate) > 0 {
		current, err := keepPair(filepath.Join(s.folder, servingFile), answer.Status.Certificate, request.Key)
		if err != nil {
			return errors.Join(err, s.giveUp("request "+request.Name+": the certificate cannot be used"))
		}

		s.current, s.pending, s.failures = current, nil, 0

		return s.keepPending()
	}

	if !request.covers(wanted) {
		return s.giveUp("request " + request.Name + " is for other addresses")
	}

	return nil
}

func (r *servingRequest) covers(wanted *stdx509.CertificateRequest) bool {
	block, _ := pem.Decode(r.Request)
	if block == nil {
		return false
	}

	asked, err := stdx509.ParseCertificateRequest(block.Bytes)

	return err == nil && covers(asked.Subject, asked.DNSNames, asked.IPAddresses, wanted)
}

// giveUp drops the request; another one may be made after a pause.
func (s *serving) giveUp(reason string) error {
	s.pending = nil
	s.failed()

	return errors.Join(fmt.Errorf("kubelet serving certificate: %s", reason), s.keepPending())
}

func (s *serving) failed() {
	s.failures++
	s.retryAt = s.now().Add(min(lastRetry, firstRetry<<min(s.failures-1, 8)))
}

// keepPending writes the waiting request to the disk, or removes it from there.
func (s *serving) keepPending() error {
	path := filepath.Join(s.folder, pendingFile)
	if s.pending == nil {
		return os.RemoveAll(path)
	}

	data, err := json.Marshal(s.pending)
	if err != nil {
		return err
	}

	return disk.WriteFile(path, data)
}

// readPair reads a certificate and its key from one file; nil when there is no such file.
func readPair(path string) (*tls.Certificate, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}

	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}

	return &pair, nil
}

func keepPair(path string, certificate, key []byte) (*tls.Certificate, error) {
	if err := disk.WriteFile(path, slices.Concat(certificate, key)); err != nil {
		return nil, err
	}

	return readPair(path)
}
