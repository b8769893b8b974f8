package workloads

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	certManagerNamespace = "cert-manager"
	certManagerGroup     = "cert-manager.io"
	issuers              = "issuers." + certManagerGroup
	clusterIssuers       = "clusterissuers." + certManagerGroup
	certificates         = "certificates." + certManagerGroup
	acmeAuthorityName    = "ACME simulated by the lab"
)

// secretKey is cert-manager's SecretKeySelector.
type secretKey struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// issuerSpec are the kinds of issuer that the simulation knows.
type issuerSpec struct {
	SelfSigned *struct{} `json:"selfSigned"`
	CA         *struct {
		SecretName string `json:"secretName"`
	} `json:"ca"`
	ACME *struct {
		Server              string           `json:"server"`
		PrivateKeySecretRef secretKey        `json:"privateKeySecretRef"`
		Solvers             []map[string]any `json:"solvers"`
	} `json:"acme"`
}

// issuer is what an issuer can do now: sign, or the condition that says why not.
type issuer struct {
	by        *signer
	condition metav1.Condition
	// retry is why an issuer that is not ready may be ready later though no object changes.
	retry error
}

// readIssuer judges an Issuer or ClusterIssuer as the real controller does. One thing differs: an ACME issuer
// whose solvers name a Secret that is not there is not ready; the real one learns that with its first challenge.
func (m *certManager) readIssuer(ctx context.Context, object *unstructured.Unstructured) (issuer, error) {
	var spec struct {
		Spec issuerSpec `json:"spec"`
	}

	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, ObservedGeneration: object.GetGeneration()}
	failed := func(reason, message string) (issuer, error) {
		return issuer{condition: metav1.Condition{
			Type: "Ready", Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: object.GetGeneration(),
		}}, nil
	}

	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &spec); err != nil {
		return failed("InvalidConfig", err.Error())
	}

	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = certManagerNamespace // the chart's --cluster-resource-namespace
	}

	switch {
	case spec.Spec.SelfSigned != nil:
		ready.Reason = "IsReady"

		return issuer{condition: ready}, nil
	case spec.Spec.CA != nil:
		name := spec.Spec.CA.SecretName

		secret := m.secret(namespace, name)
		if secret == nil {
			return failed("ErrGetKeyPair", fmt.Sprintf("Error getting keypair for CA issuer: secrets %q not found", name))
		}

		by, err := caSigner(secret)
		if errors.Is(err, errNoCA) {
			return failed("ErrInvalidKeyPair", "Error getting keypair for CA issuer: "+err.Error())
		}

		if err != nil {
			return failed("ErrGetKeyPair", "Error getting keypair for CA issuer: "+err.Error())
		}

		ready.Reason, ready.Message = "KeyPairVerified", "Signing CA verified"

		return issuer{by: by, condition: ready}, nil
	case spec.Spec.ACME != nil:
		for _, reference := range secretReferences(spec.Spec.ACME.Solvers) {
			secret := m.secret(namespace, reference.Name)
			if secret == nil {
				return failed("ErrInitIssuer", fmt.Sprintf("a solver's Secret %s/%s is not there", namespace, reference.Name))
			}

			if len(secret.Data[reference.Key]) == 0 {
				return failed("ErrInitIssuer", fmt.Sprintf("a solver's Secret %s/%s has no key %q", namespace, reference.Name, reference.Key))
			}
		}

		if err := m.resolves(ctx, spec.Spec.ACME.Server); err != nil {
			failure, _ := failed("ErrRegisterACMEAccount", "Failed to register ACME account: "+err.Error())
			failure.retry = err

			return failure, nil //nolint:nilerr // told in the issuer's status
		}

		if err := m.accountKey(ctx, namespace, spec.Spec.ACME.PrivateKeySecretRef.Name); err != nil {
			return issuer{}, err
		}

		ready.Reason, ready.Message = "ACMEAccountRegistered", "The ACME account was registered with the ACME server"

		return issuer{by: m.acme, condition: ready}, nil
	default:
		return failed("InvalidConfig", "the lab's simulation knows selfSigned, ca and acme issuers only")
	}
}

// secretReferences are all values under keys that end in SecretRef ("apiTokenSecretRef" and the like).
func secretReferences(value any) []secretKey {
	var found []secretKey

	switch v := value.(type) {
	case []map[string]any:
		for _, element := range v {
			found = append(found, secretReferences(element)...)
		}
	case []any:
		for _, element := range v {
			found = append(found, secretReferences(element)...)
		}
	case map[string]any:
		for name, element := range v {
			reference, isMap := element.(map[string]any)
			if !isMap || !strings.HasSuffix(name, "SecretRef") {
				found = append(found, secretReferences(element)...)

				continue
			}

			secret, _ := reference["name"].(string)
			key, _ := reference["key"].(string)
			found = append(found, secretKey{Name: secret, Key: key})
		}
	}

	return found
}

// accountKey creates the account's key, as the registration does.
func (m *certManager) accountKey(ctx context.Context, namespace, name string) error {
	if name == "" || m.secret(namespace, name) != nil {
		return nil
	}

	format := privateKeySpec{}

	key, err := format.generate()
	if err != nil {
		return err
	}

	encoded, err := format.encode(key)
	if err != nil {
		return err
	}

	return m.writeSecret(ctx, nil, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{partOfController: "true"}},
		Data:       map[string][]byte{corev1.TLSPrivateKeyKey: encoded},
	})
}

// issuerResource is the resource of a reference's kind.
func issuerResource(kind string) string {
	if kind == "ClusterIssuer" {
		return clusterIssuers
	}

	return issuers
}

func (m *certManager) reconcileIssuers(ctx context.Context) error {
	var problems []error

	for _, plural := range []string{issuers, clusterIssuers} {
		for _, object := range listed(m.kinds[plural]) {
			if object.GetDeletionTimestamp() != nil {
				continue
			}

			judged, err := m.readIssuer(ctx, object)
			if err == nil {
				err = errors.Join(judged.retry,
					m.setCondition(ctx, schema.ParseGroupResource(plural).WithVersion("v1"), object, judged.condition, nil))
			}

			problems = append(problems, err)
		}
	}

	return errors.Join(problems...)
}

// findIssuer is the issuer that a Certificate names; without one a problem in words.
func (m *certManager) findIssuer(ctx context.Context, namespace string, reference issuerRef) (issuer, string, error) {
	if reference.Group != "" && reference.Group != certManagerGroup {
		return issuer{}, fmt.Sprintf("issuers of group %s are not simulated", reference.Group), nil
	}

	key := reference.Name
	if reference.Kind != "ClusterIssuer" {
		key = namespace + "/" + key
	}

	object, found, err := m.kinds[issuerResource(reference.Kind)].GetStore().GetByKey(key)
	if err != nil {
		return issuer{}, "", err
	}

	if !found {
		return issuer{}, fmt.Sprintf("%s %q not found", reference.kind(), reference.Name), nil
	}

	judged, err := m.readIssuer(ctx, object.(*unstructured.Unstructured)) //nolint:forcetypeassert // a dynamic informer's
	if err != nil {
		return issuer{}, "", err
	}

	if judged.condition.Status != metav1.ConditionTrue {
		return issuer{}, fmt.Sprintf("%s %q is not ready: %s", reference.kind(), reference.Name, judged.condition.Message), nil
	}

	return judged, "", nil
}
