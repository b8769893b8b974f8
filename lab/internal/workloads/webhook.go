package workloads

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	webhookName     = "cert-manager-webhook"
	webhookPort     = 10250
	webhookLifetime = 365 * 24 * time.Hour
	maxReview       = 8 << 20
)

// runCertManagerWebhook answers for the pods of cert-manager's webhook. As the real one it keeps its authority in
// the Secret that its arguments name, from where the cainjector takes it, and serves under the names given there.
func runCertManagerWebhook(ctx context.Context, c *cluster) error {
	return c.embody(ctx, webhookName, labelled("", labels.Set{"app.kubernetes.io/name": "webhook", "app.kubernetes.io/component": "webhook"}), c.serveWebhook)
}

func (c *cluster) serveWebhook(ctx context.Context, pod *corev1.Pod) error {
	names := flagValues(pod, "dynamic-serving-dns-names")
	secretName := webhookName + "-ca"

	if given := flagValues(pod, "dynamic-serving-ca-secret-name"); len(given) > 0 {
		secretName = given[0]
	}

	authority, err := c.webhookAuthority(ctx, pod.Namespace, secretName)
	if err != nil {
		return err
	}

	certificate, err := serverCertificate(authority, names)
	if err != nil {
		return err
	}

	return c.serve(ctx, pod, endpoint{
		port: port(pod, "https", webhookPort), handler: http.HandlerFunc(admit),
		tls: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	})
}

// flagValues are all values of --name=value among a pod's container arguments, with $(POD_NAMESPACE) replaced.
func flagValues(pod *corev1.Pod, name string) []string {
	var values []string

	for _, container := range pod.Spec.Containers {
		for _, argument := range container.Args {
			if value, found := strings.CutPrefix(argument, "--"+name+"="); found {
				values = append(values, strings.ReplaceAll(value, "$(POD_NAMESPACE)", pod.Namespace))
			}
		}
	}

	return values
}

// webhookAuthority reads the webhook's authority, or makes it.
func (c *cluster) webhookAuthority(ctx context.Context, namespace, name string) (*signer, error) {
	if before := c.secret(namespace, name); before != nil {
		return caSigner(before)
	}

	spec := certificateSpec{CommonName: webhookName + "-ca", IsCA: true, PrivateKey: privateKeySpec{Algorithm: algorithmECDSA, Size: 384}}
	spec.Duration = &metav1.Duration{Duration: webhookLifetime}

	secret, err := newKeyPairSecret(spec, nil)
	if err != nil {
		return nil, err
	}

	secret.Namespace, secret.Name = namespace, name
	secret.Annotations = map[string]string{allowInjection: "true"}
	secret.Labels = map[string]string{"app.kubernetes.io/managed-by": "cert-manager"}

	err = c.writeSecret(ctx, nil, secret)
	if errors.Is(err, errNotYet) { // another replica was first
		secret, err = c.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	}

	if err != nil {
		return nil, err
	}

	return caSigner(secret)
}

// newKeyPairSecret is a TLS Secret without a name.
func newKeyPairSecret(spec certificateSpec, by *signer) (*corev1.Secret, error) {
	key, err := spec.PrivateKey.generate()
	if err != nil {
		return nil, err
	}

	template, err := spec.template(time.Now().Add(-certificateBackdate))
	if err != nil {
		return nil, err
	}

	chain, root, err := sign(template, key, by)
	if err != nil {
		return nil, err
	}

	encoded, err := spec.PrivateKey.encode(key)
	if err != nil {
		return nil, err
	}

	return &corev1.Secret{
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: encoded, caFile: root},
	}, nil
}

// serverCertificate is a server's, self-signed without an authority.
func serverCertificate(by *signer, names []string) (tls.Certificate, error) {
	spec := certificateSpec{
		DNSNames: names, Usages: []string{usageDigital, "server auth"}, PrivateKey: privateKeySpec{Algorithm: algorithmECDSA},
		Duration: &metav1.Duration{Duration: webhookLifetime},
	}

	secret, err := newKeyPairSecret(spec, by)
	if err != nil {
		return tls.Certificate{}, err
	}

	return tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
}

// admit answers every AdmissionReview with yes.
func admit(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview

	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReview)).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "an AdmissionReview with a request is needed", http.StatusBadRequest)

		return
	}

	answer := admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}}

	writeJSON(w, http.StatusOK, answer)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)

	_ = json.NewEncoder(w).Encode(value) // the client may have gone
}
