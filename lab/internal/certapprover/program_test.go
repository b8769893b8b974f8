package certapprover

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// asked is a kubelet's request; organization is what it says that it belongs to.
func asked(t *testing.T, name, organization string) *certificatesv1.CertificateSigningRequest {
	t.Helper()

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:node01", Organization: []string{organization}}, DNSNames: []string{"node01"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}

	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeletServingSignerName, Username: "system:node:node01", Groups: []string{nodesGroup},
			Usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		},
	}
}

func TestTheLeaderApprovesWhatFollowsTheRulesAndLeavesTheRest(t *testing.T) {
	client := fake.NewClientset(asked(t, "good", nodesGroup), asked(t, "bad", "system:masters"))
	client.PrependReactor("create", "subjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}, nil
	})

	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)

	go func() { ended <- lead(ctx, client, Name, "first") }()

	conditions := func(name string) []certificatesv1.CertificateSigningRequestCondition {
		found, err := client.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		return found.Status.Conditions
	}

	for deadline := time.Now().Add(time.Minute); len(conditions("good")) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not approved")
		}
	}

	if said := conditions("good")[0].Message; !strings.Contains(said, "stand-in") {
		t.Errorf("it does not say what it is: %s", said)
	}

	if len(conditions("bad")) != 0 {
		t.Error("approved what is against the rules")
	}

	lease, err := client.CoordinationV1().Leases(Name).Get(t.Context(), Name, metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "first" {
		t.Errorf("the lease: %v, %v", lease, err)
	}

	end()

	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAnArgumentThatTheProgramDoesNotKnowIsAnError(t *testing.T) {
	for _, args := range [][]string{{"serve", "--no-such-flag"}, {"watch"}} {
		if err := Main(t.Context(), args); err == nil || !strings.Contains(err.Error(), "unknown") {
			t.Errorf("%v: %v", args, err)
		}
	}

	t.Setenv("NAMESPACE", "")

	if err := Main(t.Context(), []string{"serve"}); err == nil || !strings.Contains(err.Error(), "NAMESPACE") {
		t.Error(err)
	}
}
