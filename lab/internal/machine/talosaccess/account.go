package talosaccess

import (
	"bytes"
	"context"
	stdx509 "crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/siderolabs/crypto/x509"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config"
	generated "github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"platform.lab/lab/internal/machine/kubeapi"
)

const (
	// accountLifetime and accountRenewal are Talos' own: a pod's certificate lives six hours, and another one
	// is made in its last.
	accountLifetime = 6 * time.Hour
	accountRenewal  = time.Hour
	// Endpoint is where the credentials lead to: the service in the cluster.
	Endpoint     = constants.KubernetesTalosAPIServiceName + "." + constants.KubernetesTalosAPIServiceNamespace
	accountAgent = "talos-sa-controller"
)

// refusal is why a ServiceAccount gets no credentials, in Talos' words.
type refusal struct{ reason, message string }

// answer gives a ServiceAccount its Secret with a talosconfig, or says on it why it gets none.
func (a *access) answer(ctx context.Context, provider config.Provider, account *unstructured.Unstructured) error {
	secrets := a.client.CoreV1().Secrets(account.GetNamespace())

	present, err := secrets.Get(ctx, account.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		present = nil
	} else if err != nil {
		return err
	}

	roles, refused := check(provider, account, present)
	if refused != nil {
		return a.report(ctx, account, *refused)
	}

	ca := provider.Machine().Security().IssuingCA()

	switch {
	case present == nil:
		var data []byte
		if data, err = a.talosconfig(ca, roles); err != nil {
			return err
		}

		_, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: account.GetName(), OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(account, talosAccounts.GroupVersion().WithKind(constants.ServiceAccountResourceKind)),
			}},
			Data: map[string][]byte{constants.TalosconfigFilename: data},
		}, metav1.CreateOptions{})
		err = kubeapi.UnlessExists(err)
	case a.isOutdated(present.Data[constants.TalosconfigFilename], ca, roles):
		updated := present.DeepCopy()
		if updated.Data == nil {
			updated.Data = map[string][]byte{}
		}

		if updated.Data[constants.TalosconfigFilename], err = a.talosconfig(ca, roles); err != nil {
			return err
		}

		_, err = secrets.Update(ctx, updated, metav1.UpdateOptions{})
	default:
		return a.report(ctx, account, refusal{})
	}

	if err != nil {
		return fmt.Errorf("credentials of Talos service account %s/%s: %w", account.GetNamespace(), account.GetName(), err)
	}

	if err := a.report(ctx, account, refusal{}); err != nil {
		return err
	}

	return a.tell(ctx, account, corev1.EventTypeNormal, "Synced", "Synced successfully")
}

// check holds a ServiceAccount against the machine configuration.
func check(provider config.Provider, account *unstructured.Unstructured, present *corev1.Secret) (role.Set, *refusal) {
	allowed := provider.Machine().Features().KubernetesTalosAPIAccess()
	namespace := account.GetNamespace()

	if present != nil && !metav1.IsControlledBy(present, account) {
		return role.Set{}, &refusal{"ErrResourceExists",
			fmt.Sprintf("Secret already exists and is not managed by controller: %s/%s", namespace, account.GetName())}
	}

	wanted, found, err := unstructured.NestedStringSlice(account.Object, "spec", "roles")
	if err != nil || !found {
		return role.Set{}, &refusal{"ErrRolesNotFound", "Roles not found"}
	}

	if !slices.Contains(allowed.AllowedKubernetesNamespaces(), namespace) {
		return role.Set{}, &refusal{"ErrNamespaceNotAllowed", "Namespace is not allowed: " + namespace}
	}

	var forbidden []string

	for _, one := range wanted {
		if !slices.Contains(allowed.AllowedRoles(), one) {
			forbidden = append(forbidden, one)
		}
	}

	if len(forbidden) > 0 {
		return role.Set{}, &refusal{"ErrRolesNotAllowed", fmt.Sprintf("Roles not allowed: %v", forbidden)}
	}

	roles, _ := role.Parse(wanted)

	return roles, nil
}

// report writes status.failureReason, and an event for a new refusal. Talos repeats the event every minute.
func (a *access) report(ctx context.Context, account *unstructured.Unstructured, refused refusal) error {
	before, _, _ := unstructured.NestedString(account.Object, "status", "failureReason")
	if before == refused.message {
		return nil
	}

	changed := account.DeepCopy()

	if refused.message == "" {
		unstructured.RemoveNestedField(changed.Object, "status", "failureReason")
	} else if err := unstructured.SetNestedField(changed.Object, refused.message, "status", "failureReason"); err != nil {
		return err
	}

	if _, err := a.dynamic.Resource(talosAccounts).Namespace(account.GetNamespace()).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("status of Talos service account %s/%s: %w", account.GetNamespace(), account.GetName(), err)
	}

	if refused.message == "" {
		return nil
	}

	return a.tell(ctx, account, corev1.EventTypeWarning, refused.reason, refused.message)
}

func (a *access) tell(ctx context.Context, account *unstructured.Unstructured, kind, reason, message string) error {
	now := metav1.NewTime(a.now())

	_, err := a.client.CoreV1().Events(account.GetNamespace()).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", account.GetName(), now.UnixNano()), Namespace: account.GetNamespace()},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: account.GetAPIVersion(), Kind: account.GetKind(), Namespace: account.GetNamespace(), Name: account.GetName(),
			UID: account.GetUID(), ResourceVersion: account.GetResourceVersion(),
		},
		Type: kind, Reason: reason, Message: message, Source: corev1.EventSource{Component: accountAgent},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})

	return err
}

// talosconfig makes credentials with the roles, signed by the machines' CA.
func (a *access) talosconfig(ca *x509.PEMEncodedCertificateAndKey, roles role.Set) ([]byte, error) {
	pair, err := generated.NewAdminCertificateAndKey(a.now(), ca, roles, accountLifetime)
	if err != nil {
		return nil, err
	}

	return clientconfig.NewConfig("default", []string{Endpoint}, ca.Crt, pair).Bytes()
}

// isOutdated says whether credentials must be made again: of another CA, for other roles, old, or broken.
func (a *access) isOutdated(data []byte, ca *x509.PEMEncodedCertificateAndKey, roles role.Set) bool {
	parsed, err := clientconfig.ReadFrom(bytes.NewReader(data))
	if err != nil || parsed.Contexts[parsed.Context] == nil {
		return true
	}

	current := parsed.Contexts[parsed.Context]

	authority, err := base64.StdEncoding.DecodeString(current.CA)
	if err != nil || !bytes.Equal(authority, ca.Crt) || !slices.Equal(current.Endpoints, []string{Endpoint}) {
		return true
	}

	text, err := base64.StdEncoding.DecodeString(current.Crt)
	if err != nil {
		return true
	}

	block, _ := pem.Decode(text)
	if block == nil {
		return true
	}

	certificate, err := stdx509.ParseCertificate(block.Bytes)
	if err != nil {
		return true
	}

	left := certificate.NotAfter.Sub(a.now())

	return left > accountLifetime || left < accountRenewal ||
		!slices.Equal(slices.Sorted(slices.Values(certificate.Subject.Organization)), slices.Sorted(slices.Values(roles.Strings())))
}
