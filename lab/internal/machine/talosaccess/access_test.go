package talosaccess

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"platform.lab/lab/internal/machine/configtest"
)

// accessWorld is a cluster whose machine configuration allows os:etcd:backup in platform-backup.
type accessWorld struct {
	*testing.T
	access   *access
	provider config.Provider
	clock    time.Time
}

func newAccessWorld(t *testing.T, accounts ...runtime.Object) *accessWorld {
	t.Helper()

	w := &accessWorld{T: t, provider: configtest.Patched(t, configtest.Base(t), configtest.TalosAccess), clock: time.Now()}
	kinds := map[schema.GroupVersionResource]string{crdResource: "CustomResourceDefinitionList", talosAccounts: "ServiceAccountList"}
	w.access = &access{
		client: fake.NewClientset(), dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, accounts...),
		now: func() time.Time { return w.clock },
	}

	return w
}

func account(namespace, name string, roles ...any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "talos.dev/v1alpha1", "kind": "ServiceAccount",
		"metadata": map[string]any{"namespace": namespace, "name": name, "uid": name + "-uid"},
		"spec":     map[string]any{"roles": roles},
	}}
}

func (w *accessWorld) sync() {
	w.Helper()

	w.clock = w.clock.Add(time.Second)
	if err := w.access.sync(w.Context(), w.provider); err != nil {
		w.Fatal(err)
	}
}

func (w *accessWorld) secret(namespace, name string) *corev1.Secret {
	w.Helper()

	secret, err := w.access.client.CoreV1().Secrets(namespace).Get(w.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		w.Fatal(err)
	}

	return secret
}

func (w *accessWorld) failure(namespace, name string) string {
	w.Helper()

	object, err := w.access.dynamic.Resource(talosAccounts).Namespace(namespace).Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}

	text, _, _ := unstructured.NestedString(object.Object, "status", "failureReason")

	return text
}

func (w *accessWorld) events(reason string) int {
	w.Helper()

	list, err := w.access.client.CoreV1().Events(metav1.NamespaceAll).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}

	return len(slices.DeleteFunc(list.Items, func(event corev1.Event) bool { return event.Reason != reason }))
}

func TestAnAllowedAccountGetsATalosconfigWithItsRoles(t *testing.T) {
	w := newAccessWorld(t, account("platform-backup", "backup", "os:etcd:backup"))
	w.sync()

	secret := w.secret("platform-backup", "backup")
	if secret == nil || len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].Kind != "ServiceAccount" || secret.OwnerReferences[0].UID != "backup-uid" {
		t.Fatalf("%+v", secret)
	}

	parsed, err := clientconfig.ReadFrom(bytes.NewReader(secret.Data["config"]))
	if err != nil {
		t.Fatal(err)
	}

	current := parsed.Contexts["default"]
	if parsed.Context != "default" || !slices.Equal(current.Endpoints, []string{"talos.default"}) {
		t.Errorf("%s %v", parsed.Context, current.Endpoints)
	}

	w.sync()

	if again := w.secret("platform-backup", "backup"); !bytes.Equal(again.Data["config"], secret.Data["config"]) || w.events("Synced") != 1 {
		t.Error("made again without need")
	}
}

func TestCredentialsAreRenewedInTheirLastHourAndForOtherRoles(t *testing.T) {
	w := newAccessWorld(t, account("platform-backup", "backup", "os:etcd:backup"))
	w.sync()
	first := w.secret("platform-backup", "backup").Data["config"]

	w.clock = w.clock.Add(accountLifetime - accountRenewal/2)
	w.sync()

	second := w.secret("platform-backup", "backup").Data["config"]
	if bytes.Equal(first, second) {
		t.Error("not renewed")
	}

	changed := account("platform-backup", "backup")
	changed.Object["spec"] = map[string]any{"roles": []any{}}

	if _, err := w.access.dynamic.Resource(talosAccounts).Namespace("platform-backup").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	w.sync()

	if bytes.Equal(second, w.secret("platform-backup", "backup").Data["config"]) {
		t.Error("the roles are still the old ones")
	}
}

func TestWhatIsNotAllowedIsSaidOnTheAccount(t *testing.T) {
	for want, object := range map[string]*unstructured.Unstructured{
		"Namespace is not allowed: default":   account("default", "backup", "os:etcd:backup"),
		"Roles not allowed: [os:admin]":       account("platform-backup", "root", "os:etcd:backup", "os:admin"),
		"Roles not found":                     {Object: map[string]any{"apiVersion": "talos.dev/v1alpha1", "kind": "ServiceAccount", "metadata": map[string]any{"namespace": "platform-backup", "name": "none"}}},
		"Roles not allowed: [os:etcd:backup]": nil,
	} {
		w := newAccessWorld(t)
		if object == nil {
			w.provider = configtest.Patched(t, configtest.Base(t), strings.Replace(configtest.TalosAccess, "os:etcd:backup", "os:reader", 1))
			object = account("platform-backup", "backup", "os:etcd:backup")
		}

		if _, err := w.access.dynamic.Resource(talosAccounts).Namespace(object.GetNamespace()).Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}

		w.sync()
		w.sync()

		if got := w.failure(object.GetNamespace(), object.GetName()); got != want {
			t.Errorf("%q instead of %q", got, want)
		}

		if w.secret(object.GetNamespace(), object.GetName()) != nil || w.events("Synced") != 0 {
			t.Errorf("%s: it got credentials", want)
		}
	}
}

func TestASecretOfSomebodyElseIsLeftAlone(t *testing.T) {
	w := newAccessWorld(t, account("platform-backup", "backup", "os:etcd:backup"))

	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "platform-backup", Name: "backup"}}
	if _, err := w.access.client.CoreV1().Secrets("platform-backup").Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	w.sync()
	w.sync()

	if got := w.failure("platform-backup", "backup"); got != "Secret already exists and is not managed by controller: platform-backup/backup" {
		t.Error(got)
	}

	if len(w.secret("platform-backup", "backup").Data) != 0 || w.events("ErrResourceExists") != 1 {
		t.Error("it was changed, or said more than once")
	}
}

func TestTheServiceTalosLeadsToTheControlPlanes(t *testing.T) {
	w := newAccessWorld(t)
	servers := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"172.16.20.52"}}, {Addresses: []string{"172.16.20.51"}}},
	}

	slicesOf := w.access.client.DiscoveryV1().EndpointSlices("default")
	if _, err := slicesOf.Create(t.Context(), servers, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	for _, addresses := range [][]string{{"172.16.20.51", "172.16.20.52"}, {"172.16.20.52"}} {
		w.sync()

		made, err := slicesOf.Get(t.Context(), "talos-ipv4", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		if !slices.Equal(addressesOf(made), addresses) || *made.Ports[0].Port != 50000 || made.Labels["kubernetes.io/service-name"] != "talos" {
			t.Errorf("%+v", made)
		}

		servers.Endpoints = servers.Endpoints[:1]
		if _, err := slicesOf.Update(t.Context(), servers, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	service, err := w.access.client.CoreV1().Services("default").Get(t.Context(), "talos", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}

	if service.Spec.Selector != nil || service.Spec.Ports[0].Port != 50000 {
		t.Errorf("%+v", service.Spec)
	}
}
