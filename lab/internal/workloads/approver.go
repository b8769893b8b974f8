package workloads

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"platform.lab/lab/internal/certapprover"
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

	c.sweep(ctx, certapprover.Name, changed, func(ctx context.Context) error {
		if !c.available(certapprover.Name, certapprover.Name) {
			return nil
		}

		all, err := requests.Lister().List(labels.Everything())
		if err != nil {
			return err
		}

		var problems []error

		for _, request := range all {
			if !certapprover.IsOpen(request) {
				continue
			}

			err := c.approve(ctx, request)
			if errors.Is(err, certapprover.ErrRefused) {
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

func (c *cluster) approve(ctx context.Context, request *certificatesv1.CertificateSigningRequest) error {
	asked, err := certapprover.Check(request)
	if err != nil {
		return err
	}

	node, err := c.objects.Core().V1().Nodes().Lister().Get(strings.TrimPrefix(request.Spec.Username, certapprover.NodeUser))
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: no node of that name", certapprover.ErrRefused)
	}

	if err != nil {
		return err
	}

	if err := checkNames(asked, node); err != nil {
		return err
	}

	return certapprover.Approve(ctx, c.client, request, "the lab's simulation of it")
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
			return fmt.Errorf("%w: %s is no name or address of node %s", certapprover.ErrRefused, name, node.Name)
		}
	}

	return nil
}
