package workloads

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"platform.lab/lab/internal/pki"
)

const (
	partOfController   = "controller.cert-manager.io/fao"
	certificateNameKey = certManagerGroup + "/certificate-name"
	issuerNameKey      = certManagerGroup + "/issuer-name"
	issuerKindKey      = certManagerGroup + "/issuer-kind"
	issuerGroupKey     = certManagerGroup + "/issuer-group"
	certManagerName    = "cert-manager"
)

// certificateSpec is the part of a Certificate that the simulation honours.
type certificateSpec struct {
	SecretName     string           `json:"secretName"`
	CommonName     string           `json:"commonName"`
	DNSNames       []string         `json:"dnsNames"`
	IPAddresses    []string         `json:"ipAddresses"`
	URIs           []string         `json:"uris"`
	EmailAddresses []string         `json:"emailAddresses"`
	Subject        subject          `json:"subject"`
	IsCA           bool             `json:"isCA"`
	Duration       *metav1.Duration `json:"duration"`
	RenewBefore    *metav1.Duration `json:"renewBefore"`
	Usages         []string         `json:"usages"`
	PrivateKey     privateKeySpec   `json:"privateKey"`
	IssuerRef      issuerRef        `json:"issuerRef"`
	SecretTemplate struct {
		Annotations map[string]string `json:"annotations"`
		Labels      map[string]string `json:"labels"`
	} `json:"secretTemplate"`
}

type issuerRef struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Group string `json:"group"`
}

func (r issuerRef) kind() string {
	if r.Kind == "" {
		return "Issuer"
	}

	return r.Kind
}

func (s certificateSpec) lifetime() time.Duration {
	if s.Duration == nil {
		return defaultLifetime
	}

	return s.Duration.Duration
}

// renewal is when a certificate is issued again: renewBefore its end, or after two thirds of its life.
func (s certificateSpec) renewal(certificate *x509.Certificate) time.Time {
	lifetime := certificate.NotAfter.Sub(certificate.NotBefore)
	before := lifetime / 3

	if s.RenewBefore != nil && s.RenewBefore.Duration < lifetime {
		before = s.RenewBefore.Duration
	}

	return certificate.NotAfter.Add(-before).Truncate(time.Second)
}

// certManager is the simulated controller while cert-manager's definitions are there. It makes Secrets straight
// from Certificates: no CertificateRequest, Order or Challenge is ever seen.
type certManager struct {
	*cluster
	kinds customInformers
	acme  *signer
	// wake sweeps again when the next certificate has to be renewed.
	wake *time.Timer
}

// runCertManager is the controller and, beside it, the cainjector.
func runCertManager(ctx context.Context, c *cluster) error {
	acme, err := newACME(c.options.Authority)
	if err != nil {
		return err
	}

	return together(ctx, c.injectAuthorities, func(ctx context.Context) error {
		return c.whileServed(ctx, certManagerName, "v1", []string{issuers, clusterIssuers, certificates}, func(ctx context.Context, kinds customInformers) error {
			return (&certManager{cluster: c, kinds: kinds, acme: acme}).run(ctx)
		})
	})
}

// newACME is the authority that stands in for an ACME server's.
func newACME(authority *pki.Authority) (*signer, error) {
	certificate, key, err := authority.Intermediate(acmeAuthorityName)
	if err != nil {
		return nil, err
	}

	// As with a real ACME server, the Secret gets the chain and no ca.crt.
	return &signer{certificate: certificate, key: key, chain: encodeCertificate(certificate.Raw)}, nil
}

func (m *certManager) run(ctx context.Context) error {
	changed, err := on(ctx, m.kinds[issuers], m.kinds[clusterIssuers], m.kinds[certificates], m.secretInformer(), m.objects.Apps().V1().Deployments().Informer())
	if err != nil {
		return err
	}

	m.wake = time.AfterFunc(time.Hour, changed.raise)
	defer m.wake.Stop()

	m.sweep(ctx, certManagerName, changed, func(ctx context.Context) error {
		if !m.available(certManagerNamespace, certManagerName) {
			return nil
		}

		problems := []error{m.reconcileIssuers(ctx)}
		next := time.Now().Add(time.Hour)

		for _, object := range listed(m.kinds[certificates]) {
			renewal, err := m.reconcileCertificate(ctx, object)
			problems = append(problems, err)

			if !renewal.IsZero() && renewal.Before(next) {
				next = renewal
			}
		}

		m.wake.Reset(max(time.Second, time.Until(next)))

		return errors.Join(problems...)
	})

	return nil
}

// reconcileCertificate issues what a Certificate asks for and reports on it; the answer is the time of its renewal.
func (m *certManager) reconcileCertificate(ctx context.Context, object *unstructured.Unstructured) (time.Time, error) {
	if object.GetDeletionTimestamp() != nil {
		return time.Time{}, nil
	}

	var read struct {
		Spec certificateSpec `json:"spec"`
	}

	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &read); err != nil {
		return time.Time{}, m.report(ctx, object, "InvalidConfig", err.Error())
	}

	spec := read.Spec
	secret := m.secret(object.GetNamespace(), spec.SecretName)

	reason, why := spec.outdated(secret, time.Now())
	if reason != "" {
		issued, problem, err := m.issue(ctx, object, spec, secret)
		if err != nil {
			return time.Time{}, fmt.Errorf("certificate %s/%s: %w", object.GetNamespace(), object.GetName(), err)
		}

		if problem != "" {
			return time.Time{}, m.report(ctx, object, reason, why+": "+problem)
		}

		secret = issued
	}

	certificate, _, err := keyPair(secret)
	if err != nil {
		return time.Time{}, err
	}

	renewal := spec.renewal(certificate)
	revision, _, _ := unstructured.NestedInt64(object.Object, "status", "revision")

	if reason != "" {
		revision++
	}

	return renewal, m.setCondition(ctx, certificateResource(), object, metav1.Condition{
		Type: "Ready", Status: metav1.ConditionTrue, Reason: "Ready", Message: "Certificate is up to date and has not expired",
		ObservedGeneration: object.GetGeneration(),
	}, map[string]any{
		"notBefore": timestamp(certificate.NotBefore), "notAfter": timestamp(certificate.NotAfter),
		"renewalTime": timestamp(renewal), "revision": max(revision, 1),
	})
}

func certificateResource() schema.GroupVersionResource {
	return schema.ParseGroupResource(certificates).WithVersion("v1")
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// report says why a Certificate is not ready.
func (m *certManager) report(ctx context.Context, object *unstructured.Unstructured, reason, message string) error {
	return m.setCondition(ctx, certificateResource(), object, metav1.Condition{
		Type: "Ready", Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: object.GetGeneration(),
	}, nil)
}

// outdated says, in cert-manager's words, why a certificate has to be issued; "" when it has not.
func (s certificateSpec) outdated(secret *corev1.Secret, now time.Time) (reason, message string) {
	if secret == nil {
		return "DoesNotExist", "Issuing certificate as Secret does not exist"
	}

	if len(secret.Data[corev1.TLSCertKey]) == 0 || len(secret.Data[corev1.TLSPrivateKeyKey]) == 0 {
		return "MissingData", "Issuing certificate as Secret does not contain a private key and a certificate"
	}

	certificate, _, err := keyPair(secret)
	if err != nil {
		return "InvalidKeyPair", "Issuing certificate as Secret contains an invalid key-pair: " + err.Error()
	}

	if secret.Annotations[issuerNameKey] != s.IssuerRef.Name || secret.Annotations[issuerKindKey] != s.IssuerRef.kind() {
		return "IncorrectIssuer", "Issuing certificate as Secret was previously issued by " + secret.Annotations[issuerKindKey] + " " + secret.Annotations[issuerNameKey]
	}

	if !s.meets(certificate) {
		return "RequestChanged", "Fields on existing certificate not up to date"
	}

	if now.After(certificate.NotAfter) {
		return "Expired", "Certificate expired on " + certificate.NotAfter.Format(time.RFC1123)
	}

	if !now.Before(s.renewal(certificate)) {
		return "Renewing", "Renewing certificate as renewal was scheduled at " + timestamp(s.renewal(certificate))
	}

	return "", ""
}

// issue writes the Secret of a Certificate; a problem in words says what it waits for.
func (m *certManager) issue(ctx context.Context, object *unstructured.Unstructured, spec certificateSpec, before *corev1.Secret) (*corev1.Secret, string, error) {
	from, problem, err := m.findIssuer(ctx, object.GetNamespace(), spec.IssuerRef)
	if problem != "" || err != nil {
		return nil, problem, err
	}

	key, err := spec.key(before)
	if err != nil {
		return nil, err.Error(), nil //nolint:nilerr // told in the Certificate's status
	}

	template, err := spec.template(time.Now().UTC().Truncate(time.Second))
	if err != nil {
		return nil, err.Error(), nil //nolint:nilerr // told in the Certificate's status
	}

	chain, root, err := sign(template, key, from.by)
	if err != nil {
		return nil, err.Error(), nil //nolint:nilerr // told in the Certificate's status
	}

	encoded, err := spec.PrivateKey.encode(key)
	if err != nil {
		return nil, "", err
	}

	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: object.GetNamespace(), Name: spec.SecretName,
			Labels: map[string]string{}, Annotations: map[string]string{},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: encoded},
	}

	if len(root) > 0 {
		secret.Data[caFile] = root
	}

	spec.describe(secret, object.GetName(), template)

	if err := m.writeSecret(ctx, before, secret); err != nil {
		return nil, "", err
	}

	m.log.Info("certificate issued", "certificate", object.GetNamespace()+"/"+object.GetName(), "issuer", spec.IssuerRef.Name)

	return secret, "", nil
}

// key is the one of the Secret when the Certificate keeps it (rotationPolicy Never), else a new one.
func (s certificateSpec) key(before *corev1.Secret) (crypto.Signer, error) {
	if s.PrivateKey.RotationPolicy == rotationNever && before != nil {
		if _, key, err := keyPair(before); err == nil && s.PrivateKey.fits(key.Public()) {
			return key, nil
		}
	}

	return s.PrivateKey.generate()
}

// describe puts the labels and annotations on a Secret that the real controller puts there.
func (s certificateSpec) describe(secret *corev1.Secret, name string, certificate *x509.Certificate) {
	maps.Copy(secret.Labels, s.SecretTemplate.Labels)
	maps.Copy(secret.Annotations, s.SecretTemplate.Annotations)

	maps.Copy(secret.Annotations, map[string]string{
		certificateNameKey: name, issuerNameKey: s.IssuerRef.Name, issuerKindKey: s.IssuerRef.kind(), issuerGroupKey: certManagerGroup,
		certManagerGroup + "/common-name": certificate.Subject.CommonName,
		certManagerGroup + "/alt-names":   strings.Join(certificate.DNSNames, ","),
		certManagerGroup + "/ip-sans":     strings.Join(texts(certificate.IPAddresses, net.IP.String), ","),
		certManagerGroup + "/uri-sans":    strings.Join(texts(certificate.URIs, (*url.URL).String), ","),
	})

	secret.Labels[partOfController] = "true"
}

func texts[T any](values []T, text func(T) string) []string {
	var all []string
	for _, value := range values {
		all = append(all, text(value))
	}

	return all
}

// writeSecret creates a Secret, or changes the one that is there, whose other entries stay.
func (c *cluster) writeSecret(ctx context.Context, before, wanted *corev1.Secret) error {
	secrets := c.client.CoreV1().Secrets(wanted.Namespace)

	if before == nil {
		_, err := secrets.Create(ctx, wanted, metav1.CreateOptions{FieldManager: "cert-manager"})
		if apierrors.IsAlreadyExists(err) {
			return errNotYet // the informer has not seen it
		}

		return err
	}

	changed := before.DeepCopy()

	for _, pair := range []struct{ into, from *map[string]string }{
		{&changed.Labels, &wanted.Labels}, {&changed.Annotations, &wanted.Annotations},
	} {
		if *pair.into == nil {
			*pair.into = map[string]string{}
		}

		maps.Copy(*pair.into, *pair.from)
	}

	if changed.Data == nil {
		changed.Data = map[string][]byte{}
	}

	if _, has := wanted.Data[caFile]; !has {
		delete(changed.Data, caFile)
	}

	maps.Copy(changed.Data, wanted.Data)

	if maps.EqualFunc(changed.Data, before.Data, bytes.Equal) && maps.Equal(changed.Annotations, before.Annotations) && maps.Equal(changed.Labels, before.Labels) {
		return nil
	}

	_, err := secrets.Update(ctx, changed, metav1.UpdateOptions{FieldManager: "cert-manager"})

	return err
}
