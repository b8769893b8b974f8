package workloads

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	injectFromSecret    = certManagerGroup + "/inject-ca-from-secret"
	injectFrom          = certManagerGroup + "/inject-ca-from"
	allowInjection      = certManagerGroup + "/allow-direct-injection"
	cainjectorName      = "cert-manager-cainjector"
	namespacedNameParts = 2
)

var apiServiceResource = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// injectAuthorities is the simulated cainjector, for webhook configurations and aggregated APIs: it fills the
// caBundle of those that name a Secret (which must allow it) or a Certificate.
func (c *cluster) injectAuthorities(ctx context.Context) error {
	registrations := c.objects.Admissionregistration().V1()

	changed, err := on(ctx, registrations.ValidatingWebhookConfigurations().Informer(), registrations.MutatingWebhookConfigurations().Informer(),
		c.secretInformer(), c.objects.Apps().V1().Deployments().Informer(), c.apiServices)
	if err != nil {
		return err
	}

	c.sweep(ctx, cainjectorName, changed, func(ctx context.Context) error {
		if !c.available(certManagerNamespace, cainjectorName) {
			return nil
		}

		return errors.Join(c.injectValidating(ctx), c.injectMutating(ctx), c.injectAPIServices(ctx))
	})

	return nil
}

func (c *cluster) injectValidating(ctx context.Context) error {
	all, err := c.objects.Admissionregistration().V1().ValidatingWebhookConfigurations().Lister().List(labels.Everything())
	if err != nil {
		return err
	}

	var problems []error

	for _, configuration := range all {
		changed := configuration.DeepCopy()

		var clients []*admissionv1.WebhookClientConfig
		for i := range changed.Webhooks {
			clients = append(clients, &changed.Webhooks[i].ClientConfig)
		}

		if fill(clients, c.bundleFor(configuration.Annotations)) {
			_, err := c.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Update(ctx, changed, metav1.UpdateOptions{FieldManager: cainjectorName})
			problems = append(problems, err)
		}
	}

	return errors.Join(problems...)
}

func (c *cluster) injectMutating(ctx context.Context) error {
	all, err := c.objects.Admissionregistration().V1().MutatingWebhookConfigurations().Lister().List(labels.Everything())
	if err != nil {
		return err
	}

	var problems []error

	for _, configuration := range all {
		changed := configuration.DeepCopy()

		var clients []*admissionv1.WebhookClientConfig
		for i := range changed.Webhooks {
			clients = append(clients, &changed.Webhooks[i].ClientConfig)
		}

		if fill(clients, c.bundleFor(configuration.Annotations)) {
			_, err := c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(ctx, changed, metav1.UpdateOptions{FieldManager: cainjectorName})
			problems = append(problems, err)
		}
	}

	return errors.Join(problems...)
}

// injectAPIServices does so for aggregated APIs. The API server takes no bundle beside insecureSkipTLSVerify.
func (c *cluster) injectAPIServices(ctx context.Context) error {
	var problems []error

	for _, object := range listed(c.apiServices) {
		bundle := base64.StdEncoding.EncodeToString(c.bundleFor(object.GetAnnotations()))

		if known, _, _ := unstructured.NestedString(object.Object, "spec", "caBundle"); bundle == "" || known == bundle {
			continue
		}

		changed := object.DeepCopy()
		if err := unstructured.SetNestedField(changed.Object, bundle, "spec", "caBundle"); err != nil {
			return err
		}

		_, err := c.custom.Resource(apiServiceResource).Update(ctx, changed, metav1.UpdateOptions{FieldManager: cainjectorName})
		problems = append(problems, err)
	}

	return errors.Join(problems...)
}

// fill sets the bundle and says whether that changed anything; no bundle changes nothing.
func fill(clients []*admissionv1.WebhookClientConfig, bundle []byte) bool {
	changed := false

	for _, client := range clients {
		if len(bundle) > 0 && !bytes.Equal(client.CABundle, bundle) {
			client.CABundle, changed = bundle, true
		}
	}

	return changed
}

// bundleFor is the authority that an object's annotations ask for, nil when they ask for none or it is not there.
func (c *cluster) bundleFor(annotations map[string]string) []byte {
	if secret := c.named(annotations[injectFromSecret]); secret != nil && secret.Annotations[allowInjection] == "true" {
		return secret.Data[caFile]
	}

	wanted := annotations[injectFrom]
	if wanted == "" {
		return nil
	}

	namespace, name, _ := strings.Cut(wanted, "/")

	all, err := c.secrets.Core().V1().Secrets().Lister().Secrets(namespace).List(labels.Everything())
	if err != nil {
		return nil
	}

	for _, secret := range all {
		if secret.Annotations[certificateNameKey] == name {
			return secret.Data[caFile]
		}
	}

	return nil
}

// named finds the Secret "namespace/name".
func (c *cluster) named(reference string) *corev1.Secret {
	parts := strings.Split(reference, "/")
	if len(parts) != namespacedNameParts {
		return nil
	}

	return c.secret(parts[0], parts[1])
}
