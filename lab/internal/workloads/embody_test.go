package workloads

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const bodyAddress = "127.66.0.1"

func TestAPodsServerLivesAsLongAsThePodIsReady(t *testing.T) {
	pod := readyPod("default", "web", bodyAddress, map[string]string{"app": "web"})
	pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 18080}}}}

	other := readyPod("default", "host", "127.66.0.2", map[string]string{"app": "web"})
	other.Spec.HostNetwork = true

	b := newBench(t, pod, other)
	b.start(func(ctx context.Context, c *cluster) error {
		return c.embody(ctx, "web", labelled("default", map[string]string{"app": "web"}), func(ctx context.Context, pod *corev1.Pod) error {
			return c.serve(ctx, pod, endpoint{port: port(pod, "http", 1), handler: http.HandlerFunc(respond)})
		})
	})

	get := func() (string, error) {
		response, err := http.Get("http://" + bodyAddress + ":18080/path")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()

		text, err := io.ReadAll(response.Body)

		return string(text), err
	}

	b.until("an answer", func() bool {
		text, err := get()

		return err == nil && strings.Contains(text, "not from Traefik")
	})

	if !b.links.has(bodyAddress) || b.links.has("127.66.0.2") {
		t.Errorf("%v: a pod in its node's network has no address of its own", b.links.held)
	}

	pod.Status.Conditions[0].Status = corev1.ConditionFalse
	if _, err := b.client.CoreV1().Pods("default").UpdateStatus(b.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("no answer and no address", func() bool {
		_, err := get()

		return err != nil && !b.links.has(bodyAddress)
	})
}

func TestTheWebhookAdmitsUnderTheAuthorityThatItKeeps(t *testing.T) {
	pod := readyPod("cert-manager", "webhook", "127.66.0.3", map[string]string{"app.kubernetes.io/name": "webhook", "app.kubernetes.io/component": "webhook"})
	pod.Spec.Containers = []corev1.Container{{
		Name: "w", Ports: []corev1.ContainerPort{{Name: "https", ContainerPort: 10250}},
		Args: []string{"--dynamic-serving-ca-secret-name=the-ca", "--dynamic-serving-dns-names=cert-manager-webhook.$(POD_NAMESPACE).svc"},
	}}

	b := newBench(t, pod)
	b.start(runCertManagerWebhook)
	b.until("the authority's Secret", func() bool { return b.secret("cert-manager", "the-ca") != nil })

	secret := b.secretOf("cert-manager", "the-ca")
	if secret.Annotations[allowInjection] != "true" {
		t.Error("the cainjector may not use it")
	}

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data[caFile])

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "cert-manager-webhook.cert-manager.svc"}}}
	defer client.CloseIdleConnections()

	review, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionv1.AdmissionRequest{UID: "u"},
	})
	if err != nil {
		t.Fatal(err)
	}

	var answer admissionv1.AdmissionReview

	b.until("an answer", func() bool {
		response, err := client.Post("https://127.66.0.3:10250/validate", "application/json", bytes.NewReader(review))
		if err != nil {
			return false
		}
		defer response.Body.Close()

		return json.NewDecoder(response.Body).Decode(&answer) == nil
	})

	if answer.Response == nil || !answer.Response.Allowed || answer.Response.UID != "u" || answer.Kind != "AdmissionReview" {
		t.Errorf("%+v", answer)
	}

	response, err := client.Post("https://127.66.0.3:10250/validate", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()

	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("no request: %s", response.Status)
	}
}

func TestTraefiksResponderRedirectsAndServesTheDefaultStoresCertificate(t *testing.T) {
	pod := readyPod("traefik", "traefik", "127.66.0.4", map[string]string{"app.kubernetes.io/name": "traefik"})

	secret, err := newKeyPairSecret(certificateSpec{DNSNames: []string{"*.example"}, Usages: []string{usageDigital, "server auth"}}, nil)
	if err != nil {
		t.Fatal(err)
	}

	secret.Namespace, secret.Name = "traefik", "wild"

	b := newBench(t, pod, secret)
	b.define(tlsStores)
	b.start(runTraefik)

	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "www.example"},
		},
	}
	defer client.CloseIdleConnections()

	var location string

	b.until("a redirect", func() bool {
		response, err := client.Get("http://127.66.0.4:8000/x?y=1")
		if err != nil {
			return false
		}
		defer response.Body.Close()

		location = response.Header.Get("Location")

		return response.StatusCode == http.StatusPermanentRedirect
	})

	if location != "https://127.66.0.4/x?y=1" {
		t.Errorf("%q", location)
	}

	served := func() string {
		response, err := client.Get("https://127.66.0.4:8443/")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()

		client.CloseIdleConnections()

		return response.TLS.PeerCertificates[0].DNSNames[0]
	}

	if name := served(); name != "TRAEFIK DEFAULT CERT" {
		t.Errorf("without a store: %q", name)
	}

	store := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "traefik.io/v1alpha1", "kind": "TLSStore", "metadata": map[string]any{"namespace": "traefik", "name": "default"},
		"spec": map[string]any{"defaultCertificate": map[string]any{"secretName": "wild"}},
	}}
	if _, err := b.custom.Resource(schema.ParseGroupResource(tlsStores).WithVersion("v1alpha1")).Namespace("traefik").Create(b.Context(), store, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("the store's certificate", func() bool { return served() == "*.example" })
}
