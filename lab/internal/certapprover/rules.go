// Package certapprover is a stand-in for the program kubelet-serving-cert-approver 0.11.0, whose module no proxy serves: the
// same arguments, environment, probes and rules, over Kubernetes' own client. It serves no metrics.
package certapprover

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Name is the program's in its image, of its Deployment and of its namespace.
const Name = "kubelet-serving-cert-approver"

const (
	// NodeUser begins the names of users that are nodes.
	NodeUser   = "system:node:"
	nodesGroup = "system:nodes"
)

// ErrRefused is a request that is against a rule: it stays undecided.
var ErrRefused = errors.New("refused")

// IsOpen says whether a request is for a kubelet's server and nobody has decided on it.
func IsOpen(request *certificatesv1.CertificateSigningRequest) bool {
	return request.Spec.SignerName == certificatesv1.KubeletServingSignerName && request.DeletionTimestamp == nil &&
		len(request.Status.Certificate) == 0 && len(request.Status.Conditions) == 0
}

// Check holds a request against the rules of the signer kubernetes.io/kubelet-serving (Kubernetes: "Certificates and
// Certificate Signing Requests", signers).
func Check(request *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%w: not a PEM block CERTIFICATE REQUEST", ErrRefused)
	}

	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}

	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}

	for _, rule := range []struct {
		broken bool
		says   string
	}{
		{!slices.Equal(asked.Subject.Organization, []string{nodesGroup}), "the organization must be system:nodes alone"},
		{!strings.HasPrefix(asked.Subject.CommonName, NodeUser), "the common name must begin with system:node:"},
		{asked.Subject.CommonName != request.Spec.Username, "the common name is not the requestor's"},
		{!slices.Contains(request.Spec.Groups, nodesGroup), "the requestor is not in system:nodes"},
		{len(asked.EmailAddresses) > 0 || len(asked.URIs) > 0, "e-mail addresses and URIs are forbidden"},
		{len(asked.DNSNames) == 0 && len(asked.IPAddresses) == 0, "a DNS name or an IP address is needed"},
		{slices.ContainsFunc(request.Spec.Usages, func(u certificatesv1.KeyUsage) bool { return !slices.Contains(usages, u) }), "a usage is not a server's"},
	} {
		if rule.broken {
			return nil, fmt.Errorf("%w: %s", ErrRefused, rule.says)
		}
	}

	return asked, nil
}

// Approve asks the API server whether the requestor may ask for certificates, and approves its request.
func Approve(ctx context.Context, client kubernetes.Interface, request *certificatesv1.CertificateSigningRequest, by string) error {
	review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: request.Spec.Username, UID: request.Spec.UID, Groups: request.Spec.Groups,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Verb: "create",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}

	if !review.Status.Allowed {
		return fmt.Errorf("%w: %s may not create certificate requests", ErrRefused, request.Spec.Username)
	}

	approved := request.DeepCopy()
	approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now(),
		Reason: "Approved by Kubelet Serving Certificate Approver", Message: "Approved by " + by + ", after a SubjectAccessReview",
	})

	_, err = client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, request.Name, approved, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // decided or gone meanwhile: the next event tells
	}

	return err
}
