package workloads

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func runningDeployment(namespace, name string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}
}

func certManagerBench(t *testing.T) *bench {
	t.Helper()

	b := newBench(t, runningDeployment(certManagerNamespace, certManagerName), runningDeployment(certManagerNamespace, cainjectorName))
	b.define(issuers, clusterIssuers, certificates)
	b.start(runCertManager)
	b.heard("issuers", "clusterissuers", "certificates")

	return b
}

func (b *bench) put(plural, kind, namespace, name string, spec map[string]any) {
	b.Helper()

	metadata := map[string]any{"name": name, "generation": int64(1)}
	if namespace != "" {
		metadata["namespace"] = namespace
	}

	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": metadata, "spec": spec}}
	client := b.custom.Resource(schema.ParseGroupResource(plural).WithVersion("v1")).Namespace(namespace)

	if before, err := client.Get(b.Context(), name, metav1.GetOptions{}); err == nil {
		object.Object["status"] = before.Object["status"]
		object.SetGeneration(before.GetGeneration() + 1)

		if _, err := client.Update(b.Context(), object, metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}

		return
	}

	if _, err := client.Create(b.Context(), object, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

// ready is the condition Ready of an object: its status, reason and message.
func (b *bench) ready(plural, namespace, name string) (status, reason, message string) {
	object, err := b.custom.Resource(schema.ParseGroupResource(plural).WithVersion("v1")).Namespace(namespace).Get(b.Context(), name, metav1.GetOptions{})
	if err != nil {
		return "", "", ""
	}

	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		condition := entry.(map[string]any)
		if condition["observedGeneration"] == object.GetGeneration() {
			return condition["status"].(string), condition["reason"].(string), condition["message"].(string)
		}
	}

	return "", "", ""
}

func (b *bench) isReady(plural, namespace, name string) func() bool {
	return func() bool {
		status, _, _ := b.ready(plural, namespace, name)

		return status == "True"
	}
}

func (b *bench) secretOf(namespace, name string) *corev1.Secret {
	b.Helper()

	found, err := b.client.CoreV1().Secrets(namespace).Get(b.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}

	return found
}

func reference(name, kind string) map[string]any { return map[string]any{"name": name, "kind": kind} }

func TestASelfSignedCASignsLeavesOnceItsSecretIsThere(t *testing.T) {
	b := certManagerBench(t)

	b.put(clusterIssuers, "ClusterIssuer", "", "ca", map[string]any{"ca": map[string]any{"secretName": "root"}})
	b.until("the CA issuer says what is missing", func() bool {
		status, reason, message := b.ready(clusterIssuers, "", "ca")

		return status == "False" && reason == "ErrGetKeyPair" && message == `Error getting keypair for CA issuer: secrets "root" not found`
	})

	b.put(clusterIssuers, "ClusterIssuer", "", "self", map[string]any{"selfSigned": map[string]any{}})
	b.put(certificates, "Certificate", certManagerNamespace, "root", map[string]any{
		"secretName": "root", "commonName": "Root", "isCA": true, "duration": "48h",
		"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(384)}, "issuerRef": reference("self", "ClusterIssuer"),
	})
	b.put(certificates, "Certificate", "default", "leaf", map[string]any{
		"secretName": "leaf", "dnsNames": []any{"a.example"}, "ipAddresses": []any{"127.0.0.1"}, "usages": []any{"digital signature", "server auth"},
		"issuerRef": reference("ca", "ClusterIssuer"),
	})
	b.until("the leaf", b.isReady(certificates, "default", "leaf"))

	root, rootKey, err := keyPair(b.secretOf(certManagerNamespace, "root"))
	if err != nil {
		t.Fatal(err)
	}

	if key, ok := rootKey.(*ecdsa.PrivateKey); !ok || key.Curve.Params().BitSize != 384 || !root.IsCA || root.NotAfter.Sub(root.NotBefore) != 48*time.Hour {
		t.Errorf("%T, %v to %v", rootKey, root.NotBefore, root.NotAfter)
	}

	secret := b.secretOf("default", "leaf")
	leaf, leafKey, err := keyPair(secret)
	if err != nil {
		t.Fatal(err)
	}

	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(secret.Data[caFile]) {
		t.Error("no ca.crt")
	}

	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "a.example", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Error(err)
	}

	if key, ok := leafKey.(*rsa.PrivateKey); !ok || key.N.BitLen() != 2048 {
		t.Errorf("%T", leafKey)
	}

	for key, value := range map[string]string{
		certificateNameKey: "leaf", issuerNameKey: "ca", issuerKindKey: "ClusterIssuer", issuerGroupKey: "cert-manager.io",
		"cert-manager.io/alt-names": "a.example", "cert-manager.io/ip-sans": "127.0.0.1", "cert-manager.io/common-name": "",
	} {
		if got, there := secret.Annotations[key]; !there || got != value {
			t.Errorf("%s: %q", key, got)
		}
	}
}

func TestAnACMEIssuerNeedsItsSolversSecret(t *testing.T) {
	b := certManagerBench(t)
	b.put(clusterIssuers, "ClusterIssuer", "", "acme", map[string]any{"acme": map[string]any{
		"privateKeySecretRef": map[string]any{"name": "account"},
		"solvers":             []any{map[string]any{"dns01": map[string]any{"cloudflare": map[string]any{"apiTokenSecretRef": map[string]any{"name": "token", "key": "t"}}}}},
	}})
	b.put(certificates, "Certificate", "default", "wild", map[string]any{
		"secretName": "wild", "dnsNames": []any{"*.example"}, "issuerRef": reference("acme", "ClusterIssuer"),
	})
	b.until("the certificate says what it waits for", func() bool {
		_, reason, message := b.ready(certificates, "default", "wild")

		return reason == "DoesNotExist" && message == `Issuing certificate as Secret does not exist: ClusterIssuer "acme" is not ready: a solver's Secret cert-manager/token is not there`
	})

	token := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: certManagerNamespace, Name: "token"}, Data: map[string][]byte{"other": []byte("x")}}
	secrets := b.client.CoreV1().Secrets(certManagerNamespace)

	if _, err := secrets.Create(b.Context(), token, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("the key of the Secret is missed", func() bool {
		_, _, message := b.ready(clusterIssuers, "", "acme")

		return message == `a solver's Secret cert-manager/token has no key "t"`
	})

	token.Data["t"] = []byte("x")
	if _, err := secrets.Update(b.Context(), token, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("the certificate", b.isReady(certificates, "default", "wild"))

	secret := b.secretOf("default", "wild")
	if _, has := secret.Data[caFile]; has {
		t.Error("an ACME certificate has no ca.crt")
	}

	_, rest := pem.Decode(secret.Data[corev1.TLSCertKey])
	block, _ := pem.Decode(rest)

	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil || authority.Subject.CommonName != acmeAuthorityName {
		t.Errorf("%v, %v", authority.Subject, err)
	}

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.options.Authority.PEM())

	if _, err := authority.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("the world does not trust it: %v", err)
	}

	b.secretOf(certManagerNamespace, "account")
}

func TestACertificateIsIssuedAgainWhenItsSpecChangesOrItsSecretIsGone(t *testing.T) {
	b := certManagerBench(t)
	spec := map[string]any{"secretName": "c", "dnsNames": []any{"a.example"}, "issuerRef": reference("self", "Issuer")}
	revision := func() int64 {
		object, err := b.custom.Resource(certificateResource()).Namespace("default").Get(b.Context(), "c", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		value, _, _ := unstructured.NestedInt64(object.Object, "status", "revision")

		return value
	}

	b.put(issuers, "Issuer", "default", "self", map[string]any{"selfSigned": map[string]any{}})
	b.put(certificates, "Certificate", "default", "c", spec)
	b.until("the first", func() bool { return revision() == 1 })

	spec["dnsNames"] = []any{"a.example", "b.example"}
	b.put(certificates, "Certificate", "default", "c", spec)
	b.until("another one", func() bool { return revision() == 2 && b.isReady(certificates, "default", "c")() })

	if certificate, _, err := keyPair(b.secretOf("default", "c")); err != nil || !slices.Equal(certificate.DNSNames, []string{"a.example", "b.example"}) {
		t.Errorf("%v, %v", certificate.DNSNames, err)
	}

	if err := b.client.CoreV1().Secrets("default").Delete(b.Context(), "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("a third", func() bool { return revision() == 3 })
}

func TestACertificateIsRenewedAfterTwoThirdsOfItsLife(t *testing.T) {
	spec := certificateSpec{DNSNames: []string{"a"}, IssuerRef: issuerRef{Name: "i"}, Duration: &metav1.Duration{Duration: 90 * time.Hour}}

	secret, err := newKeyPairSecret(spec, nil)
	if err != nil {
		t.Fatal(err)
	}

	secret.Annotations = map[string]string{issuerNameKey: "i", issuerKindKey: "Issuer"}

	for after, wanted := range map[time.Duration]string{59 * time.Hour: "", 61 * time.Hour: "Renewing", 91 * time.Hour: "Expired"} {
		if reason, _ := spec.outdated(secret, time.Now().Add(after)); reason != wanted {
			t.Errorf("after %s: %q", after, reason)
		}
	}

	other := spec
	other.IssuerRef.Name = "j"

	if reason, _ := other.outdated(secret, time.Now()); reason != "IncorrectIssuer" {
		t.Errorf("%q", reason)
	}
}

func TestAnUnknownIssuerOrUsageIsSaid(t *testing.T) {
	b := certManagerBench(t)
	b.put(certificates, "Certificate", "default", "c", map[string]any{"secretName": "c", "dnsNames": []any{"a"}, "issuerRef": reference("nobody", "")})
	b.until("the issuer is missed", func() bool {
		_, _, message := b.ready(certificates, "default", "c")

		return message == `Issuing certificate as Secret does not exist: Issuer "nobody" not found`
	})
}

func TestABundleIsInjectedFromASecretThatAllowsIt(t *testing.T) {
	b := certManagerBench(t)
	registrations := b.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()

	for name, secret := range map[string]string{"good": "allowed", "bad": "closed"} {
		if _, err := registrations.Create(b.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{injectFromSecret: "cert-manager/" + secret}},
			Webhooks:   []admissionregistrationv1.ValidatingWebhook{{Name: "a"}, {Name: "b"}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	for _, name := range []string{"closed", "allowed"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "cert-manager", Name: name}, Data: map[string][]byte{caFile: []byte("bundle")}}
		if name == "allowed" {
			secret.Annotations = map[string]string{allowInjection: "true"}
		}

		if _, err := b.client.CoreV1().Secrets("cert-manager").Create(b.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	bundles := func(name string) string {
		found, err := registrations.Get(b.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		return string(found.Webhooks[0].ClientConfig.CABundle) + string(found.Webhooks[1].ClientConfig.CABundle)
	}

	b.until("the bundle", func() bool { return bundles("good") == "bundlebundle" })

	if bundles("bad") != "" {
		t.Error("a Secret that does not allow it was injected")
	}
}

func TestTheAuthorityOfACertificateIsWrittenIntoTheAPIServiceThatAsksForIt(t *testing.T) {
	b := newBench(t, runningDeployment(certManagerNamespace, certManagerName), runningDeployment(certManagerNamespace, cainjectorName))
	b.define(issuers, clusterIssuers, certificates)
	b.start(runCertManager)
	b.heard("issuers", "clusterissuers", "certificates", "apiservices")

	services := b.custom.Resource(apiServiceResource)
	for name, annotations := range map[string]any{"v1beta1.metrics.k8s.io": map[string]any{injectFrom: "m/serving"}, "v1.other": map[string]any{}} {
		object := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
			"metadata": map[string]any{"name": name, "annotations": annotations}, "spec": map[string]any{},
		}}
		if _, err := services.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	b.put(clusterIssuers, "ClusterIssuer", "", "self", map[string]any{"selfSigned": map[string]any{}})
	b.put(certificates, "Certificate", "m", "serving", map[string]any{
		"secretName": "serving", "dnsNames": []any{"metrics-server.m.svc"}, "issuerRef": reference("self", "ClusterIssuer"),
	})
	bundle := func(name string) string {
		object, err := services.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		text, _, _ := unstructured.NestedString(object.Object, "spec", "caBundle")

		return text
	}
	b.until("the APIService has a bundle", func() bool { return bundle("v1beta1.metrics.k8s.io") != "" })

	if want := base64.StdEncoding.EncodeToString(b.secretOf("m", "serving").Data[caFile]); bundle("v1beta1.metrics.k8s.io") != want {
		t.Error("it is not the authority of the certificate")
	}

	if bundle("v1.other") != "" {
		t.Error("one that did not ask got a bundle")
	}
}
