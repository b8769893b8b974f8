package kubelet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	stdx509 "crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// signer is a fake API server that names the requests for certificates, and signs those that a test approves.
type signer struct {
	*testing.T
	client  *fake.Clientset
	serving *serving
	node    *corev1.Node
	clock   time.Time
	key     *ecdsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	t.Helper()

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	s := &signer{T: t, client: fake.NewClientset(), clock: time.Now(), key: key, node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node01"}}}
	s.node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "172.16.20.51"}, {Type: corev1.NodeHostName, Address: "node01"},
	}

	made := 0

	s.client.PrependReactor("create", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		made++
		object := action.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		object.Name, object.UID = fmt.Sprintf("csr-%d", made), types.UID(fmt.Sprint(made))

		return false, nil, nil
	})
	s.start(t.TempDir())

	return s
}

// start begins with what is on a disk.
func (s *signer) start(folder string) {
	s.Helper()

	s.serving = newServing(folder, func() string { return "node01" })
	s.serving.now = func() time.Time { return s.clock }

	if err := s.serving.load(true); err != nil {
		s.Fatal(err)
	}
}

// sync runs the kubelet's loop for a time, once a second.
func (s *signer) sync(duration time.Duration) {
	for end := s.clock.Add(duration); s.clock.Before(end); s.clock = s.clock.Add(time.Second) {
		_ = s.serving.sync(s.Context(), s.client, s.node)
	}
}

func (s *signer) requests() []certificatesv1.CertificateSigningRequest {
	s.Helper()

	list, err := s.client.CertificatesV1().CertificateSigningRequests().List(s.Context(), metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}

	return list.Items
}

// answer changes the status of the newest request.
func (s *signer) answer(change func(*certificatesv1.CertificateSigningRequest)) {
	s.Helper()

	all := s.requests()
	last := all[len(all)-1].DeepCopy()
	change(last)

	if _, err := s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(s.Context(), last, metav1.UpdateOptions{}); err != nil {
		s.Fatal(err)
	}
}

func (s *signer) deny(request *certificatesv1.CertificateSigningRequest) {
	request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Message: "no"}}
}

// sign issues a certificate for an hour.
func (s *signer) sign(request *certificatesv1.CertificateSigningRequest) {
	block, _ := pem.Decode(request.Spec.Request)

	asked, err := stdx509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		s.Fatal(err)
	}

	template := &stdx509.Certificate{
		SerialNumber: big.NewInt(1), Subject: asked.Subject, DNSNames: asked.DNSNames, IPAddresses: asked.IPAddresses,
		NotBefore: s.clock, NotAfter: s.clock.Add(time.Hour),
	}

	data, err := stdx509.CreateCertificate(rand.Reader, template, template, asked.PublicKey, s.key)
	if err != nil {
		s.Fatal(err)
	}

	request.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data})
}

func (s *signer) shown() *tls.Certificate {
	shown, err := s.serving.show(nil)
	if err != nil {
		return nil
	}

	return shown
}

func TestAKubeletAsksForACertificateAsKubernetesWantsIt(t *testing.T) {
	s := newSigner(t)
	s.sync(time.Minute)

	if shown := s.shown(); shown != nil {
		t.Error("a certificate that nobody approved is shown")
	}

	all := s.requests()
	if len(all) != 1 {
		t.Fatalf("%d requests wait, one is enough", len(all))
	}

	block, _ := pem.Decode(all[0].Spec.Request)

	asked, err := stdx509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}

	if asked.Subject.String() != "CN=system:node:node01,O=system:nodes" || !slices.Equal(asked.DNSNames, []string{"node01"}) ||
		len(asked.IPAddresses) != 1 || !asked.IPAddresses[0].Equal(net.ParseIP("172.16.20.51")) {
		t.Errorf("%v, %v, %v", asked.Subject, asked.DNSNames, asked.IPAddresses)
	}

	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	if all[0].Spec.SignerName != "kubernetes.io/kubelet-serving" || !slices.Equal(all[0].Spec.Usages, usages) {
		t.Errorf("%s for %v", all[0].Spec.SignerName, all[0].Spec.Usages)
	}
}

func TestANodeWithoutAddressesAsksForNothing(t *testing.T) {
	s := newSigner(t)
	s.node.Status.Addresses = nil
	s.sync(time.Minute)

	if all := s.requests(); len(all) != 0 {
		t.Errorf("%d requests", len(all))
	}
}

func TestACertificateAndAWaitingRequestOutliveAReboot(t *testing.T) {
	s := newSigner(t)
	s.sync(time.Second)
	s.start(s.serving.folder)
	s.sync(time.Minute)

	if all := s.requests(); len(all) != 1 {
		t.Fatalf("%d requests after a reboot", len(all))
	}

	s.answer(s.sign)
	s.sync(time.Second)

	first := s.shown()
	if first == nil {
		t.Fatal("the issued certificate is not shown")
	}

	s.start(s.serving.folder)

	if again := s.shown(); again == nil || !again.Leaf.Equal(first.Leaf) {
		t.Error("another certificate after the reboot")
	}
}

func TestACertificateIsRenewedBeforeItEndsAndShownUntilThen(t *testing.T) {
	s := newSigner(t)
	s.sync(time.Second)
	s.answer(s.sign)
	s.sync(time.Second)

	old := s.shown()

	s.sync(45 * time.Minute)

	if all := s.requests(); len(all) != 1 {
		t.Fatalf("%d requests before four fifths of its life", len(all))
	}

	s.sync(10 * time.Minute)

	if all := s.requests(); len(all) != 2 || !s.shown().Leaf.Equal(old.Leaf) {
		t.Fatalf("%d requests", len(all))
	}

	s.answer(s.sign)
	s.sync(time.Second)

	if s.shown().Leaf.Equal(old.Leaf) {
		t.Error("the old certificate is still shown")
	}
}

func TestAnExpiredCertificateIsNotShown(t *testing.T) {
	s := newSigner(t)
	s.sync(time.Second)
	s.answer(s.sign)
	s.sync(2 * time.Hour)

	if s.shown() != nil {
		t.Error("it is shown")
	}
}

func TestWhatIsDeniedIsAskedAgainAtABoundedRate(t *testing.T) {
	s := newSigner(t)

	for range 600 {
		s.sync(time.Second)
		s.answer(s.deny)
	}

	if made := len(s.requests()); made < 10 || made > 25 {
		t.Errorf("%d requests in ten minutes", made)
	}
}

func TestARequestThatIsGoneIsMadeAgain(t *testing.T) {
	s := newSigner(t)
	s.sync(time.Second)

	if err := s.client.CertificatesV1().CertificateSigningRequests().Delete(t.Context(), "csr-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	s.sync(10 * time.Second)

	if all := s.requests(); len(all) != 1 || all[0].Name != "csr-2" {
		t.Errorf("%v", all)
	}
}

func TestAnotherAddressNeedsAnotherCertificate(t *testing.T) {
	s := newSigner(t)
	s.sync(time.Second)
	s.answer(s.sign)
	s.sync(time.Second)

	s.node.Status.Addresses[0].Address = "172.16.20.61"
	s.sync(time.Second)

	if all := s.requests(); len(all) != 2 {
		t.Errorf("%d requests", len(all))
	}
}

func TestWithoutRotationTheKubeletSignsItselfOnce(t *testing.T) {
	folder := t.TempDir()
	first := newServing(folder, func() string { return "node01" })

	for _, s := range []*serving{first, newServing(folder, func() string { return "renamed" })} {
		if err := s.load(false); err != nil {
			t.Fatal(err)
		}

		shown, err := s.show(nil)
		if err != nil {
			t.Fatal(err)
		}

		if !slices.Contains(shown.Leaf.DNSNames, "node01") || !strings.HasPrefix(shown.Leaf.Subject.CommonName, "node01@") {
			t.Errorf("%v", shown.Leaf.Subject)
		}
	}
}
