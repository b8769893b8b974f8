package workloads

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"platform.lab/lab/internal/certapprover"
)

func request(t *testing.T, name string, change func(*x509.CertificateRequest, *certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	t.Helper()

	template := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:node01", Organization: []string{"system:nodes"}},
		DNSNames: []string{"node01"}, IPAddresses: []net.IP{net.ParseIP("172.16.20.51")},
	}
	made := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeletServingSignerName, Username: "system:node:node01", Groups: []string{"system:nodes", "system:authenticated"},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
	change(template, made)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}

	made.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})

	return made
}

func node01() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node01"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "172.16.20.51"}, {Type: corev1.NodeHostName, Address: "node01"},
	}}}
}

func TestARequestIsHeldAgainstEveryRuleOfTheSigner(t *testing.T) {
	type asked = x509.CertificateRequest

	type made = certificatesv1.CertificateSigningRequest

	for wanted, change := range map[string]func(*asked, *made){
		"":                         func(*asked, *made) {},
		"system:nodes alone":       func(a *asked, _ *made) { a.Subject.Organization = append(a.Subject.Organization, "system:masters") },
		"begin with system:node:":  func(a *asked, _ *made) { a.Subject.CommonName = "node01" },
		"is not the requestor's":   func(a *asked, _ *made) { a.Subject.CommonName = "system:node:node02" },
		"not in system:nodes":      func(_ *asked, m *made) { m.Spec.Groups = nil },
		"URIs are forbidden":       func(a *asked, _ *made) { a.URIs = []*url.URL{{Scheme: "https", Host: "x"}} },
		"is needed":                func(a *asked, _ *made) { a.DNSNames, a.IPAddresses = nil, nil },
		"a usage":                  func(_ *asked, m *made) { m.Spec.Usages = append(m.Spec.Usages, certificatesv1.UsageClientAuth) },
		"172.16.20.250 is no name": func(a *asked, _ *made) { a.IPAddresses = append(a.IPAddresses, net.ParseIP("172.16.20.250")) },
		"kubernetes is no name":    func(a *asked, _ *made) { a.DNSNames = append(a.DNSNames, "kubernetes") },
		"not a PEM block":          func(*asked, *made) {},
	} {
		r := request(t, "r", change)
		if strings.HasPrefix(wanted, "not a PEM") {
			r.Spec.Request = []byte("nonsense")
		}

		read, err := certapprover.Check(r)
		if err == nil {
			err = checkNames(read, node01())
		}

		if (wanted == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), wanted) {
			t.Errorf("%q: %v", wanted, err)
		}
	}
}

func TestGoodRequestsAreApprovedOnceTheApproverRuns(t *testing.T) {
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: certapprover.Name, Name: certapprover.Name}}
	b := newBench(t, node01(), deployment,
		request(t, "good", func(*x509.CertificateRequest, *certificatesv1.CertificateSigningRequest) {}),
		request(t, "bad", func(a *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			a.DNSNames = []string{"other"}
		}))

	b.client.PrependReactor("create", "subjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}, nil
	})
	b.start(runApprover)

	requests := b.client.CertificatesV1().CertificateSigningRequests()
	conditions := func(name string) int {
		found, err := requests.Get(b.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		return len(found.Status.Conditions)
	}

	// Another part of the same signal path: a change that comes before the approver must not approve.
	b.until("the informers hear", func() bool {
		return len(b.objects.Certificates().V1().CertificateSigningRequests().Informer().GetStore().List()) == 2
	})

	if conditions("good") != 0 {
		t.Error("approved with no approver")
	}

	deployment.Status.AvailableReplicas = 1
	if _, err := b.client.AppsV1().Deployments(certapprover.Name).UpdateStatus(b.Context(), deployment, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("approval", func() bool { return conditions("good") == 1 })

	if conditions("bad") != 0 {
		t.Error("a name of another machine is approved")
	}
}
