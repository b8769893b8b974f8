package workloads

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
	"k8s.io/apimachinery/pkg/labels"
)

const (
	approverName = "kubelet-serving-cert-approver"
	nodeUser     = "system:node:"
	nodesGroup   = "system:nodes"
)

// runApprover approves kubelets' requests for serving certificates while kubelet-serving-cert-approver runs.
func runApprover(ctx context.Context, c *cluster) error {
	requests := c.objects.Certificates().V1().CertificateSigningRequests()

	// A request may come before its node's addresses.
	changed, err := on(ctx, requests.Informer(), c.objects.Apps().V1().Deployments().Informer(), c.objects.Core().V1().Nodes().Informer())
	if err != nil {
		return err
	}

	refused := map[string]bool{} // said once

	c.sweep(ctx, approverName, changed, func(ctx context.Context) error {
		if !c.available(approverName, approverName) {
			return nil
		}

		all, err := requests.Lister().List(labels.Everything())
		if err != nil {
			return err
		}

		var problems []error

		for _, request := range all {
			if !isOpen(request) {
				continue
			}

			err := c.approve(ctx, request)
			if errors.Is(err, errRefused) {
				if !refused[request.Name] {
					c.log.Warn("a kubelet's certificate is not approved", "request", request.Name, "reason", err)
				}

				refused[request.Name] = true

				continue
			}

			problems = append(problems, err)
		}

		return errors.Join(problems...)
	})

	return nil
}

// isOpen says whether a request is for a kubelet's server and nobody has decided on it.
func isOpen(request *certificatesv1.CertificateSigningRequest) bool {
	return request.Spec.SignerName == certificatesv1.KubeletServingSignerName && request.DeletionTimestamp == nil &&
		len(request.Status.Certificate) == 0 && len(request.Status.Conditions) == 0
}

var errRefused = errors.New("refused")

func (c *cluster) approve(ctx context.Context, request *certificatesv1.CertificateSigningRequest) error {
	asked, err := checkRequest(request)
	if err != nil {
		return err
	}

	node, err := c.objects.Core().V1().Nodes().Lister().Get(strings.TrimPrefix(request.Spec.Username, nodeUser))
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: no node of that name", errRefused)
	}

	if err != nil {
		return err
	}

	if err := checkNames(asked, node); err != nil {
		return err
	}

	review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
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
		return fmt.Errorf("%w: %s may not create certificate requests", errRefused, request.Spec.Username)
	}

	approved := request.DeepCopy()
	approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now(),
		Reason:  "Approved by Kubelet Serving Certificate Approver",
		Message: "Approved by the lab's simulation of it, after a SubjectAccessReview",
	})

	_, err = c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, request.Name, approved, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // decided or gone meanwhile: the next event tells
	}

	return err
}

// checkRequest holds a request against the rules of kubelet-serving-cert-approver 0.11.0, which are those of the
// signer kubernetes.io/kubelet-serving (Kubernetes: "Certificates and Certificate Signing Requests", signers).
func checkRequest(request *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%w: not a PEM block CERTIFICATE REQUEST", errRefused)
	}

	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}

	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}

	for _, rule := range []struct {
		broken bool
		says   string
	}{
		{!slices.Equal(asked.Subject.Organization, []string{nodesGroup}), "the organization must be system:nodes alone"},
		{!strings.HasPrefix(asked.Subject.CommonName, nodeUser), "the common name must begin with system:node:"},
		{asked.Subject.CommonName != request.Spec.Username, "the common name is not the requestor's"},
		{!slices.Contains(request.Spec.Groups, nodesGroup), "the requestor is not in system:nodes"},
		{len(asked.EmailAddresses) > 0 || len(asked.URIs) > 0, "e-mail addresses and URIs are forbidden"},
		{len(asked.DNSNames) == 0 && len(asked.IPAddresses) == 0, "a DNS name or an IP address is needed"},
		{slices.ContainsFunc(request.Spec.Usages, func(u certificatesv1.KeyUsage) bool { return !slices.Contains(usages, u) }), "a usage is not a server's"},
	} {
		if rule.broken {
			return nil, fmt.Errorf("%w: %s", errRefused, rule.says)
		}
	}

	return asked, nil
}

// checkNames is the lab's own rule, stricter than the real one: only names and addresses of the node itself.
func checkNames(asked *x509.CertificateRequest, node *corev1.Node) error {
	own := []string{node.Name}
	for _, address := range node.Status.Addresses {
		own = append(own, address.Address)
	}

	wanted := slices.Clone(asked.DNSNames)
	for _, address := range asked.IPAddresses {
		wanted = append(wanted, address.String())
	}

	for _, name := range wanted {
		if !slices.Contains(own, name) {
			return fmt.Errorf("%w: %s is no name or address of node %s", errRefused, name, node.Name)
		}
	}

	return nil
}
